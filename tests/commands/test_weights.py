"""`rephase weights`: what is printed of each set of weights is that of the table, the files and the model cards."""

from __future__ import annotations

import json
import shutil

import pytest

from rephase.cli import main
from rephase.diffusion import shipped
from rephase.diffusion.shipped import FOLDER, WEIGHTS


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The folder of weights as the wheel has it."""
    for name, row in WEIGHTS.items():
        if row.in_wheel:
            for end in ("safetensors", "json"):
                shutil.copy(FOLDER / f"{name}.{end}", tmp_path)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    return tmp_path


def listed(capsys) -> dict[str, dict]:
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)["weights"]}


def test_every_set_is_listed_with_licence_hash_and_data(capsys):
    assert main(["weights"]) == 0
    blocks = dict(zip(WEIGHTS, capsys.readouterr().out.split("  trained on "), strict=False))  # the last has no name
    for name, row in WEIGHTS.items():
        assert all(word in blocks[name] for word in (f"{name}: {row.help}", row.licence, row.sha256, "intact"))
    assert main(["weights", "--json"]) == 0
    found = listed(capsys)
    assert list(found) == list(WEIGHTS)
    for name, row in WEIGHTS.items():
        card = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
        one = found[name]
        assert (one["licence"], one["sha256"], one["bytes"]) == (row.licence, row.sha256, row.num_bytes)
        assert (one["in_wheel"], one["state"], one["trained_on"]) == (row.in_wheel, "intact", card["data"])


def test_training_data_are_told_in_words(capsys):
    main(["weights"])
    line = capsys.readouterr().out.split("permissive: ")[1].split("trained on ")[1].splitlines()[0]
    data = json.loads((FOLDER / "permissive.json").read_text("utf-8"))["data"]
    for licence, count in data["licences"].items():
        assert f"{count:,} real slices under {licence}" in line
    assert f"{data['simulated_slices']:,} simulated slices" in line


def test_the_wheel_says_what_it_lacks(wheel, capsys):
    assert main(["weights"]) == 0
    text = capsys.readouterr().out
    assert text.count("copy both files from diffusion/weights") == text.count("unknown: its model card") == 2
    assert main(["weights", "--json"]) == 0
    states = {name: one["state"] for name, one in listed(capsys).items()}
    assert states == {name: "intact" if row.in_wheel else "absent" for name, row in WEIGHTS.items()}


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("permissive.safetensors", b"cut", "SHA-256 of permissive.safetensors is "),
        ("permissive.safetensors", None, "permissive.safetensors: No such file"),
        ("permissive.json", b"{", "permissive.json: "),
        ("permissive.json", b"[]", "permissive.json: expected an object"),
        ("permissive.json", None, "permissive.json: No such file"),
    ],
)
def test_damage_is_found(wheel, capsys, file, content, problem):
    (wheel / file).unlink()
    if content is not None:
        (wheel / file).write_bytes(content)
    assert main(["weights", "--json"]) == 1
    one = listed(capsys)["permissive"]
    assert one["state"] == "damaged" and one["problem"].startswith(problem)
    assert main(["weights"]) == 1
    assert "damaged: " in capsys.readouterr().out
