import json

import numpy as np
import pytest
from tiny_network import TINY_TOML

from rephase.cli import main
from rephase.errors import RequestError
from rephase.evaluation.cross_validation import divide, write_fold
from rephase.evaluation.run import Request
from rephase.manifests.parse import read_manifest

RECIPE = f"""
manifest = "unused.csv"
output = "unused"
{TINY_TOML}
[training]
steps = 2
pixels = 2048
warmup = 1
save_every = 2
"""


@pytest.fixture
def manifest(tmp_path):
    """Three subjects, the last two of them one person, in volumes of two slices; paths relative to the manifest."""
    y, x = np.mgrid[-1:1:32j, -1:1:32j].astype(np.float32)
    np.save(tmp_path / "m.npy", np.exp(-2 * (x**2 + y**2))[None].repeat(2, 0))
    np.save(tmp_path / "p.npy", np.angle(np.exp(1j * (2 * x + 3 * y * y)))[None].repeat(2, 0))
    path = tmp_path / "pairs.csv"
    rows = [f"{name},m.npy,p.npy,{subject},{person}" for name, subject, person in
            (("a1", "a", "p"), ("a2", "a", "p"), ("b1", "b", "q"), ("c1", "c", "q"))]  # fmt: skip
    path.write_text("\n".join(["volume_id,path,phase,subject_id,person", *rows]) + "\n")
    return path


def test_folds_split_no_group_and_hold_every_group_once(manifest):
    by_subject = divide(Request(manifest), 3)
    assert sorted(by_subject, key=sorted) == [{"a"}, {"b"}, {"c"}]
    by_person = divide(Request(manifest, group_column="person"), 2)
    assert sorted(by_person, key=sorted) == [{"p"}, {"q"}]
    with pytest.raises(RequestError, match="2 groups of rows for 3 folds"):
        divide(Request(manifest, group_column="person"), 3)


def test_a_fold_is_the_manifest_with_another_split_and_absolute_paths(manifest, tmp_path):
    path = write_fold(Request(manifest, group_column="person"), frozenset({"q"}), tmp_path / "deep" / "er" / "m.csv")
    rows = {row.volume_id: row for row in read_manifest(path, ["person"])}
    assert {name: row.split for name, row in rows.items()} == {"a1": "train", "a2": "train", "b1": "val", "c1": "val"}
    assert rows["b1"].path == str(manifest.parent / "m.npy") and rows["b1"].extra == (("person", "q"),)


def test_rows_of_the_test_split_are_in_no_fold(manifest, tmp_path):
    text = (
        manifest.read_text()
        .replace("person\n", "person,split\n")
        .replace("p\n", "p,train\n")
        .replace(",q\n", ",q,test\n")
    )
    manifest.write_text(text)
    path = write_fold(Request(manifest), frozenset({"a"}), tmp_path / "m.csv")
    assert [row.volume_id for row in read_manifest(path)] == ["a1", "a2"]


def test_every_row_is_sampled_by_a_model_trained_without_its_group(manifest, tmp_path, capsys):
    recipe, out = tmp_path / "recipe.toml", tmp_path / "out"
    recipe.write_text(RECIPE)
    words = ["evaluate", "phase", "--real", str(manifest), "--cross-validate", str(recipe), "--folds", "2"]
    words += ["--group-column", "person", "--generators", "diffusion,smooth", "--steps", "1", "--no-classifier"]
    assert main([*words, "-o", str(out)]) == 0
    data = json.loads((out / "evaluation.json").read_text())
    assert {one["session"] for one in data["scores"]} == {"a", "b", "c"}
    assert {one["label"] for one in data["generators"]} == {"diffusion, nfe 1", "smooth"}
    for fold in (0, 1):
        rows = list(read_manifest(out / f"fold-{fold}" / "manifest.csv", ["person"]))
        seen = {split: {row.extra for row in rows if row.split == split} for split in ("train", "val")}
        assert seen["train"] and seen["val"] and not seen["train"] & seen["val"]
        card = json.loads((out / f"fold-{fold}" / "run" / "model.json").read_text())
        assert card["data"]["slices"] == 2 * sum(row.split == "train" for row in rows)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], "-o FOLDER"), (["-o", "out", "--split", "val"], "--split"), (["-o", "out", "--smooth", "s.json"], "--smooth"),
     (["-o", "out", "--generators", "regression"], "--regression")],
)  # fmt: skip
def test_what_the_folds_provide_cannot_be_given(manifest, tmp_path, words, expected, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    assert main(["evaluate", "phase", "--real", str(manifest), "--cross-validate", str(recipe), *words]) == 2
    assert expected in capsys.readouterr().err
