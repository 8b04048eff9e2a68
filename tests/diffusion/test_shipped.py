"""Weights by the name under which they ship."""

from __future__ import annotations

from pathlib import Path

import pytest
from paths import PROJECT

from rephase.config import read_config
from rephase.diffusion.checkpoint import load_checkpoint
from rephase.diffusion.shipped import WEIGHTS, find_checkpoint, shipped_weights
from rephase.training.config import DistillConfig, TrainConfig


def test_weights_are_found_by_name_unless_a_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("default") == shipped_weights("default")
    assert find_checkpoint("default.safetensors") == Path("default.safetensors")
    assert find_checkpoint("folder/default") == Path("folder/default")
    assert find_checkpoint("none-such") == Path("none-such")
    (tmp_path / "default").mkdir()
    assert find_checkpoint("default") == shipped_weights("default")
    (tmp_path / "default").rmdir()
    (tmp_path / "default").touch()
    assert find_checkpoint("default") == Path("default")


def test_weights_that_anyone_may_use_ship_and_saw_no_other_data():
    path = shipped_weights("permissive")
    assert path is not None
    checkpoint = load_checkpoint(path)
    assert checkpoint.card["licence"] == "Apache-2.0"
    assert set(checkpoint.card["data"]["licences"]) == {"BSD-2-Clause"}
    assert "initial" not in checkpoint.card


RECIPES = sorted((PROJECT / "diffusion" / "weights").rglob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_can_be_run(path):
    kind = DistillConfig if "[distillation]" in path.read_text() else TrainConfig
    config = read_config(path, kind)
    start = config.teacher if isinstance(config, DistillConfig) else config.initial
    assert start is None or (start.stem in WEIGHTS and start == path.parent / start.name)


def test_there_are_recipes():
    assert {"default", "teacher", "permissive", "ddpm"} <= {path.stem for path in RECIPES}
