"""Frames of long compressed files: each is what nibabel reads, and a process unpacks a file once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_oracle import assert_equals_nibabel

from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.readers.nifti import unpacked
from rephase.readers.registry import hash_source, read_volume


@pytest.fixture
def unpackings(monkeypatch):
    """Every file that is unpacked; the copies of other tests are forgotten."""
    found = []
    plain = unpacked._unpack

    def noted(packed, most_bytes):
        found.append(packed.name)
        return plain(packed, most_bytes)

    forget()
    monkeypatch.setattr(unpacked, "_unpack", noted)
    yield found
    forget()


def forget():
    while unpacked._copies:
        os.close(unpacked._copies.popitem()[1])


def long_file(path, num_frames=9, seed=0):
    values = np.random.default_rng(seed).integers(1, 900, (20, 18, 5, num_frames)).astype(np.int16)
    nib.Nifti1Image(values, np.diag([2.0, 2, 4, 1])).to_filename(path)
    return path


def test_a_file_is_unpacked_once_for_all_its_frames_in_any_order_and_thread(tmp_path, unpackings):
    path = long_file(tmp_path / "a.nii.gz")
    faults = []

    def read(frame):
        try:
            assert_equals_nibabel(path, read_volume(path, frame=frame), frame)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=read, args=(frame,)) for frame in (8, 0, 5, 3, 1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (faults, len(unpackings)) == ([], 1)
    row = ManifestRow(line=2, volume_id="v", path=str(path), frame=4)
    assert read_volume(row).source_sha256 == hash_source(row)


def test_copies_are_few_and_leave_no_file(tmp_path, unpackings, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    paths = [long_file(tmp_path / f"{number}.nii.gz", seed=number) for number in range(4)]
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for path in paths:
        for frame in (0, 8):
            assert_equals_nibabel(path, read_volume(path, frame=frame), frame)
    assert len(unpackings) == 4 and len(unpacked._copies) == unpacked.MOST_COPIES
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + unpacked.MOST_COPIES
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_changed_file_is_unpacked_again(tmp_path, unpackings):
    path = long_file(tmp_path / "a.nii.gz")
    before = read_volume(path, frame=2)
    long_file(path, seed=1)
    after = read_volume(path, frame=2)
    assert_equals_nibabel(path, after, 2)
    assert before.source_sha256 != after.source_sha256 and len(unpackings) == 2


def test_without_space_for_a_copy_frames_are_read_from_the_stream(tmp_path, unpackings, monkeypatch):
    monkeypatch.setattr(unpacked, "SHARE_OF_FREE", 0.0)
    path = long_file(tmp_path / "a.nii.gz")
    for frame in (0, 4, 8):
        assert_equals_nibabel(path, read_volume(path, frame=frame), frame)
    assert unpacked._copies == {}


def test_a_damaged_file_leaves_no_copy(tmp_path, unpackings):
    path = long_file(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(VolumeError, match="truncated or damaged"):
        read_volume(path, frame=0)
    assert unpacked._copies == {}
