"""The recipe from a corpus to a network that is fine-tuned on real k-space and judged on other real k-space."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from export_volumes import make_single
from phantom_corpus import ROOT_ATTRIBUTES, make_attributes

from rephase.corpus.index_writer import write_index
from rephase.corpus.store import CorpusStore
from rephase.examples.pretrain_finetune import main
from rephase.examples.train_unet import load_weights
from rephase.exports.export import export_corpus


def make(root: Path, seeds: range) -> str:
    store = CorpusStore.create(root, ROOT_ATTRIBUTES)
    for number in seeds:
        arrays = make_single(4, 32, 32, number)
        store.commit_volume(f"v{number}", arrays, make_attributes(arrays, split="train"))
    write_index(store, [])
    return str(root)


def test_it_pretrains_fine_tunes_and_judges_on_other_volumes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    corpus, val = make(tmp_path / "corpus.zarr", range(4)), make(tmp_path / "val.zarr", range(9, 10))
    export_corpus(make(tmp_path / "real.zarr", range(5, 7)), tmp_path / "real-h5")
    out = tmp_path / "run"
    words = [
        corpus,
        str(tmp_path / "real-h5"),
        val,
        "--out",
        str(out),
        "--small",
        "--steps",
        "40",
        "--tune-steps",
        "10",
    ]
    scores = main(words)
    assert list(scores) == ["zero-filled", "real alone", "corpus alone", "corpus, then real"]
    assert json.loads((out / "scores.json").read_text()) == scores
    assert scores["corpus, then real"]["NMSE"] < 0.9 * scores["zero-filled"]["NMSE"]
    assert "16 slices of the corpus, 8 real ones to train on, 4 to judge on" in capsys.readouterr().out
    start, tuned = (load_weights(out / f"{name}.safetensors") for name in ("start", "fine-tuned"))
    assert not torch.equal(start.last.weight, tuned.last.weight)
    assert main(words)["corpus alone"] == scores["corpus alone"]  # repeatable


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([make(tmp_path / "c.zarr", range(1)), str(tmp_path / "none"), "x"])
    assert ended.value.code == 2 and f"{tmp_path}/none" in capsys.readouterr().err
