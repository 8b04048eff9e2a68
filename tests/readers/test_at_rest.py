"""A source that is replaced or changed while it is read is not recorded with the hash of other bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import rephase.readers.nifti.read
import rephase.readers.npy
from rephase.errors import VolumeError
from rephase.pipeline.build_volume import is_transient
from rephase.readers.registry import read_volume


def write_npy(path: Path, value: float) -> None:
    np.save(path, np.full((2, 8, 8), value, np.float32) + np.eye(8, dtype=np.float32))


def write_nifti(path: Path, value: float) -> None:
    nib.save(nib.Nifti1Image(np.full((8, 8, 3), value, np.float32) + 1, np.diag([1, 1, 3, 1.0])), path)


CASES = [
    ("a.npy", write_npy, rephase.readers.npy, "load_values"),
    ("a.npy", write_npy, rephase.readers.npy, "hash_file"),
    ("a.nii", write_nifti, rephase.readers.nifti.read, "open_nifti"),
]


def replaced(path: Path, other: Path) -> None:
    os.replace(other, path)  # noqa: PTH105 - as rsync does


def rewritten(path: Path, other: Path) -> None:
    times = path.stat()
    with path.open("r+b") as file:
        file.write(other.read_bytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("change", [replaced, rewritten])
@pytest.mark.parametrize(("name", "write", "module", "step"), CASES)
def test_a_source_that_changes_before_any_step_of_reading_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    write: Callable[[Path, float], None],
    module: object,
    step: str,
    change: Callable[[Path, Path], None],
) -> None:
    path, other = tmp_path / name, tmp_path / f"other-{name}"
    write(path, 100.0)
    write(other, 300.0)
    call = getattr(module, step)

    def changed(*arguments: object, **named: object) -> object:
        monkeypatch.setattr(module, step, call)
        change(path, other)
        return call(*arguments, **named)

    monkeypatch.setattr(module, step, changed)
    with pytest.raises(VolumeError, match="was replaced or changed while it was read") as caught:
        read_volume(path)
    assert is_transient(caught.value)
    volume = read_volume(path)
    assert volume.magnitude.max() > 299
    assert volume.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_associated_file_that_changes_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_npy(tmp_path / "m.npy", 100.0)
    np.save(tmp_path / "s.npy", np.ones((2, 8, 8), np.uint8))
    np.save(tmp_path / "t.npy", np.zeros((2, 8, 8), np.uint8))
    call = rephase.readers.npy.hash_file

    def changed(path: Path) -> str:
        if path.name == "s.npy":
            os.replace(tmp_path / "t.npy", path)  # noqa: PTH105
        return call(path)

    monkeypatch.setattr(rephase.readers.npy, "hash_file", changed)
    with pytest.raises(VolumeError, match=r"s\.npy: was replaced"):
        read_volume(tmp_path / "m.npy", segmentation=str(tmp_path / "s.npy"))
