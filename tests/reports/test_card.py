"""The data card of a corpus."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from phantom_corpus import make_corpus

from rephase.cli import main
from rephase.corpus.index_writer import write_index


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "brain.zarr"
    write_index(make_corpus(folder, a={"seed": 1}, b={"seed": 2}), ["a", "b"])
    return folder


def test_the_card_has_the_header_of_hugging_face_and_the_facts(root: Path, tmp_path: Path) -> None:
    assert main(["card", str(root), "-o", str(tmp_path / "card")]) == 0
    _, header, text = (tmp_path / "card" / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(header)
    assert (found["license"], found["size_categories"], found["pretty_name"]) == ("cc0-1.0", ["n<1K"], "brain.zarr")
    assert "| Contrast | T1 (2) |" in text and "2 volumes with 6 slices" in text
    assert "`interpolated`: 2 volumes" in text and "arXiv 2504.07560" in text


def test_the_croissant_names_every_column_of_the_index(root: Path, tmp_path: Path) -> None:
    assert main(["card", str(root), "-o", str(tmp_path)]) == 0
    card = json.loads((tmp_path / "croissant.json").read_text())
    (file,) = card["distribution"]
    document = (root / file["contentUrl"]).read_bytes()
    assert file["sha256"] == hashlib.sha256(document).hexdigest()
    columns = json.loads(document)["attributes"]["columns"]
    for field in card["recordSet"][0]["field"]:
        path = field["source"]["extract"]["jsonPath"]
        assert path == f"$.attributes.columns.{field['name']}[*]" and field["name"] in columns
    assert {"name", "num_slices", "max", "contrast"} <= {field["name"] for field in card["recordSet"][0]["field"]}


def test_a_folder_inside_the_corpus_is_refused(root: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["card", str(root), "-o", str(root / "card")]) == 2
    assert "is inside the corpus" in capsys.readouterr().err
