"""A format of one's own: this module is its reader, and one row in the table makes every command know it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import PROJECT
from volumes import phantom

import rephase
from rephase.cli import main, make_parser
from rephase.errors import VolumeError
from rephase.formats import READERS, Reader, match_suffix
from rephase.manifests.header import Probed, SeriesHeader
from rephase.readers.geometry import as_displayed
from rephase.readers.npy import plain_volume
from rephase.readers.reader import format_of, load_reader
from rephase.readers.volume import Description

TOY = Reader("toy", __name__, (".toy",), "numbers as text", has_signature=lambda start: start.startswith(b"toy "))


def read(row, limit_bytes=None):
    values = _values(row.path).reshape(describe(row).shape)
    return plain_volume(row, values, as_displayed(values.shape), digest(row), "toy")


def describe(row):
    with Path(row.path).open() as file:
        word, *sizes = file.readline().split()
    if word != "toy":
        raise VolumeError("unreadable", f"{row.path}: no toy; expected one; correct format")
    return Description(tuple(map(int, sizes)))


def digest(row):
    return hashlib.sha256(Path(row.path).read_bytes()).hexdigest()


def probe(files):
    found = Probed()
    for path in files:
        sizes = map(int, path.read_text().splitlines()[0].split()[1:])
        found.headers.append(SeriesHeader(path, "toy", "magnitude", str(path), *sizes))
    return found


def _values(path):
    return np.array([float(line) for line in Path(path).read_text().splitlines()[1:]], np.float32)


def write_toy(path, values):
    lines = [f"toy {' '.join(map(str, values.shape))}", *(repr(float(value)) for value in values.ravel())]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(READERS, "toy", TOY)


@pytest.fixture
def threads():
    """A cluster in this process, which therefore has the row too."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp") as cluster:
        yield cluster.scheduler_address


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Dask leaves sockets of closing connections to the collector
def test_a_row_in_the_table_is_all_that_the_commands_need(tmp_path, toy, threads, capsys):
    archive = tmp_path / "archive"
    archive.mkdir()
    values = [phantom(k, (2, 24, 20)).astype(np.float32) for k in range(2)]
    for k, value in enumerate(values):
        write_toy(archive / f"v{k}.toy", value)
    manifest, corpus = tmp_path / "m.csv", tmp_path / "c.zarr"
    assert main(["manifest", "scan", str(archive), "-o", str(manifest)]) == 0
    assert manifest.read_text().count(",toy,") == 2
    assert main(["manifest", "check", str(manifest), "--files"]) == 0
    build = ["build", str(manifest), str(corpus), "--phase", "zero", "--cluster", threads]
    assert main(build) == 0, capsys.readouterr().err
    found = [np.abs(rephase.ifft2c(torch.from_numpy(kspace)).numpy()) for kspace, *_ in rephase.KSpaceSlices(corpus)]
    stored = [plane for value in values for plane in value]
    assert len(found) == 4
    for plane in stored:  # up to the volume's scale, a power of two
        assert any(np.allclose(plane / plane.max(), image / image.max(), atol=1e-5) for image in found)
    (tmp_path / "unmarked").write_bytes((archive / "v0.toy").read_bytes())
    assert np.array_equal(rephase.read_volume(tmp_path / "unmarked").magnitude, values[0])


def test_help_errors_and_documents_know_every_row(tmp_path, toy, capsys):
    manifest = tmp_path / "m.csv"
    manifest.write_text("volume_id,path,format\na,a.toy,tiff\n")
    assert main(["manifest", "check", str(manifest)]) == 2
    assert ", ".join(("auto", *READERS)) in capsys.readouterr().err
    assert main(["manifest", "scan", "--help"]) == 0
    text = capsys.readouterr().out
    for reader in READERS.values():
        assert (reader.help in text) is reader.scanned, reader.name
    assert make_parser().parse_args(["manifest", "check", "m.csv"])
    volume = tmp_path / "seg.toy"
    write_toy(volume, np.ones((2, 8, 8)))
    np.save(tmp_path / "a.npy", np.ones((2, 8, 8)))
    with pytest.raises(VolumeError, match="is toy; expected nifti, mgh, minc, nrrd, npy") as caught:
        rephase.read_volume(tmp_path / "a.npy", segmentation=str(volume))
    assert caught.value.reason == "unsupported"


def test_the_document_lists_the_table():
    text = (PROJECT / "manifests" / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (yes|no) \|", text, re.MULTILINE)
    assert rows == [
        (
            reader.name,
            " ".join(f"`{suffix}`" for suffix in reader.suffixes),
            reader.help,
            "yes" if reader.scanned else "no",
        )
        for reader in READERS.values()
    ]


@pytest.mark.parametrize("name", READERS)
def test_every_module_has_the_functions_of_a_reader(name):
    module = load_reader(name)
    functions = ["read", "describe", "digest", "probe"]
    if READERS[name].associated:
        functions += ["read_associated", "digest_associated"]
    assert [function for function in functions if not callable(getattr(module, function, None))] == []


def test_the_longest_suffix_decides_whatever_its_case(tmp_path, toy):
    assert match_suffix("A.NII.GZ")[1] == ".nii.gz"
    assert match_suffix("b.txt") is None
    assert format_of("s3://bucket/x.h5") == "hdf5"
    assert format_of(str(tmp_path)) == "dicom"
    with pytest.raises(VolumeError, match="toy"):
        load_reader("tiff")
