"""The code that CONTRIBUTING.md shows: reader, fact, phase and export are used as they stand there."""

from __future__ import annotations

import importlib.util
import re
import sys

import numpy as np
import pytest
import torch
from paths import PROJECT
from phantom_corpus import make_corpus
from volumes import phantom

import rephase
from rephase.cli import main
from rephase.corpus.index_writer import write_index
from rephase.diffusion import phases
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.registry import make_generator
from rephase.errors import VolumeError
from rephase.exports import formats as exports
from rephase.facts import _fact

TEXT = (PROJECT / "CONTRIBUTING.md").read_text("utf-8")
READER, READER_ROW, FACT, _, PHASE, PHASE_ROW, EXPORT, EXPORT_ROW = re.findall(
    r"^```python\n(.*?)^```", TEXT, re.M | re.S
)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Import a block of the document under the name that its row has."""

    def load(block: str, name: str):
        path = tmp_path / f"{name}.py"
        path.write_text(block, "utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        found = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, found)
        spec.loader.exec_module(found)

    return load


def row_of(block: str, scope: object):
    """Evaluate a row, with or without its key."""
    value = re.sub(r'^\s*"\w+": ', "", block).strip().rstrip(",")
    return eval(value, vars(scope))  # noqa: S307 -- a block of a document of ours


def test_the_reader(tmp_path, module, monkeypatch, capsys):
    from rephase import formats

    module(READER, "rephase.readers.slab")
    reader = row_of(READER_ROW, formats)
    monkeypatch.setitem(formats.READERS, reader.name, reader)
    folder = tmp_path / "archive"
    folder.mkdir()
    values = phantom(0, (3, 24, 20)).astype("<f4")
    (folder / "a.slab").write_bytes(b"slab 3 24 20 4 1 1.5\n" + values.tobytes())
    (folder / "cut.slab").write_bytes(b"slab 3 24 20 4 1 1.5\n" + values.tobytes()[:-4])
    manifest = tmp_path / "m.csv"
    assert main(["manifest", "scan", str(folder), "-o", str(manifest)]) in (0, 1)
    assert manifest.read_text().count(",slab,") == 1 and "cut.slab: no slab" in "".join(capsys.readouterr())
    volume = rephase.read_volume(folder / "a.slab")
    assert np.array_equal(volume.magnitude, values) and volume.spacing_mm == (4, 1, 1.5)
    with pytest.raises(VolumeError, match="no slab"):
        rephase.read_volume(folder / "cut.slab")


def test_the_fact():
    fact = eval(FACT.split("= ", 1)[1], {"_fact": _fact}).metadata["fact"]  # noqa: S307 -- a line of a document of ours
    assert fact.accepts(30.0) and not fact.accepts("steep") and fact.unit == "degrees"


def test_the_phase(module, monkeypatch):
    module(PHASE, "rephase.diffusion.ramp")
    monkeypatch.setitem(phases.PHASES, "ramp", row_of(PHASE_ROW, phases))
    generator = make_generator("ramp")
    magnitude, keys = torch.rand(3, 16, 12), [SliceKey(1, "v", 0, k) for k in range(3)]
    phasor = generator.sample_phase(magnitude, keys, Conditions())
    assert phasor.dtype == torch.complex64 and phasor.shape == magnitude.shape
    assert torch.allclose(phasor.abs(), torch.ones_like(magnitude))
    assert torch.equal(phasor[2:], generator.sample_phase(magnitude[2:], keys[2:], Conditions()))


def test_the_export(tmp_path, module, monkeypatch, capsys):
    module(EXPORT, "rephase.exports.npz")
    monkeypatch.setitem(exports.EXPORTS, "npz", row_of(EXPORT_ROW, exports))
    write_index(make_corpus(tmp_path / "c.zarr", a={}), ["a"])
    command = ["export", str(tmp_path / "c.zarr"), str(tmp_path / "out"), "--format", "npz"]
    assert main(command) == 0
    with np.load(tmp_path / "out/a.npz", allow_pickle=False) as archive:
        assert archive["kspace"].shape == (3, 16, 12)
    assert main(command) == 0
    assert "all up to date" in capsys.readouterr().out
