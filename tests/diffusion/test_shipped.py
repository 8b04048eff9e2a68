"""Weights by the name under which they ship."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paths import PROJECT

from rephase import cli
from rephase.config import read_config
from rephase.diffusion import shipped
from rephase.diffusion.checkpoint import CheckpointError, load_checkpoint
from rephase.diffusion.shipped import FOLDER, WEIGHTS, find_checkpoint, shipped_weights
from rephase.files import file_sha256
from rephase.training.config import DistillConfig, TrainConfig


def test_weights_are_found_by_name_unless_a_file_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("permissive") == shipped_weights("permissive")
    assert find_checkpoint("permissive.safetensors") == Path("permissive.safetensors")
    assert find_checkpoint("folder/permissive") == Path("folder/permissive")
    assert find_checkpoint("none-such") == Path("none-such")
    (tmp_path / "permissive").mkdir()
    assert find_checkpoint("permissive") == shipped_weights("permissive")
    (tmp_path / "permissive").rmdir()
    (tmp_path / "permissive").touch()
    assert find_checkpoint("permissive") == Path("permissive")


def test_the_permissive_weights_saw_permissive_data_alone():
    path = shipped_weights("permissive")
    assert path is not None
    checkpoint = load_checkpoint(path)
    assert checkpoint.card["licence"] == "Apache-2.0"
    assert set(checkpoint.card["data"]["licences"]) == {"BSD-2-Clause", "CC0-1.0", "MIT"}
    assert "initial" not in checkpoint.card


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_table_of_weights_is_that_of_the_files(name):
    row, path = WEIGHTS[name], FOLDER / f"{name}.safetensors"
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert (path.stat().st_size, file_sha256(path)) == (row.num_bytes, row.sha256)
    assert card["licence"] == row.licence and card["name"] == name
    assert load_checkpoint(path).sha256 == card["sha256"]
    cells = f"| `{name}` | {row.help} | {row.licence} | {row.num_bytes:,} | {'yes' if row.in_wheel else 'no'} |"
    assert f"{cells} `{row.sha256}` |" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_wheel_holds_the_default_set_alone():
    table = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    listed = {name.removeprefix("weights/") for name in table["rephase.diffusion"]}
    needed = {f"{name}.{end}" for name, row in WEIGHTS.items() if row.in_wheel for end in ("safetensors", "json")}
    assert listed - needed == {"README.md", "permissive.md", "smooth.json"} and needed <= listed
    assert {path.name for path in FOLDER.glob("*.safetensors")} == {f"{name}.safetensors" for name in WEIGHTS}
    assert sum((FOLDER / name).stat().st_size for name in listed) < 13_000_000
    assert not any("weights" in pattern or ("*" in pattern.split("/")[0] and "/" in pattern) for pattern in table["*"])


@pytest.mark.parametrize("arguments", [("--checkpoint", "teacher"), ("--phase", "regression")])
def test_missing_weights_are_reported_with_their_location(tmp_path, monkeypatch, capsys, arguments):
    np.save(tmp_path / "m.npy", np.ones((2, 8, 8), np.float32))
    (tmp_path / "rows.csv").write_text("volume_id,path\na,m.npy\n")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    assert cli.main(["build", str(tmp_path / "rows.csv"), str(tmp_path / "out.zarr"), *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert WEIGHTS[arguments[1]].sha256 in line and f"--checkpoint {arguments[1]}.safetensors" in line
    assert "diffusion/weights" in line and not (tmp_path / "out.zarr").exists()


RECIPES = sorted((PROJECT / "diffusion" / "weights").rglob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_can_be_run(path):
    kind = DistillConfig if "[distillation]" in path.read_text() else TrainConfig
    config = read_config(path, kind)
    start = config.teacher if isinstance(config, DistillConfig) else config.initial
    assert start is None or start.stem in {recipe.stem for recipe in RECIPES}


def test_there_are_recipes():
    assert {"permissive-teacher", "permissive", "teacher", "ddpm"} <= {path.stem for path in RECIPES}


def test_shipped_weights_must_be_those_of_the_table(monkeypatch):
    """Weights and card may have been damaged or replaced together."""
    row = replace(WEIGHTS["permissive"], sha256="0" * 64)
    monkeypatch.setitem(WEIGHTS, "permissive", row)
    with pytest.raises(CheckpointError, match="table of weights has 0000"):
        load_checkpoint(FOLDER / "permissive.safetensors")
