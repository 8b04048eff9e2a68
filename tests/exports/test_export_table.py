"""The table of export formats: what is registered there can be used, and the documents list it."""

from __future__ import annotations

import re

import pytest
from paths import PROJECT
from phantom_corpus import make_corpus

from rephase.cli import main
from rephase.corpus.index_writer import write_index
from rephase.errors import RequestError
from rephase.exports.formats import EXPORTS, ExportFormat


def write(volume, path, stamp, compression):
    """The dummy format: one line of text, the stamp and the k-space's shape."""
    path.write_text(f"{stamp}\n{volume.name} {volume.shape('kspace')} {compression}")


def read_stamp(path):
    return path.read_text().splitlines()[0]


def test_a_format_in_one_file_is_used_through_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPORTS, "dummy", ExportFormat(__name__, ".txt", "shapes as text", ("none", "shouting")))
    write_index(make_corpus(tmp_path / "c.zarr", a={}), ["a"])
    assert main(["export", "--help"]) == 0
    assert re.search(r"dummy +shapes as text", capsys.readouterr().out)
    command = ["export", str(tmp_path / "c.zarr"), str(tmp_path / "out"), "--format", "dummy"]
    assert main([*command, "--compression", "shouting"]) == 0
    assert (tmp_path / "out/a.txt").read_text().endswith("shouting")
    assert "1 of 1 volumes: 1 written" in capsys.readouterr().out
    assert main([*command, "--compression", "shouting"]) == 0
    assert "all up to date" in capsys.readouterr().out
    assert main([*command, "--compression", "gzip"]) == 2
    assert "none or shouting" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(RequestError, match=r"--format dummy: cannot import no_such_package .*extra some of rephase"):
        ExportFormat(__name__, "", "", extra="some", package="no_such_package").load("dummy")


def test_the_document_lists_every_format_and_extra():
    text = (PROJECT / "augment/EXPORTS.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert {name: row.split(" | ")[0] for name, row in rows.items() if name in EXPORTS} == {
        name: kind.help for name, kind in EXPORTS.items()
    }
    for name, kind in EXPORTS.items():
        assert f"`{kind.extra}`" in rows[name] if kind.extra else "`" not in rows[name]
