from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.readers.registry import read_volume, read_with_phase

TINY = np.random.default_rng(0).uniform(1.0, 2.0, (2, 16, 16)) * 1e-300


def _npy(path: Path) -> ManifestRow:
    np.save(path / "tiny.npy", TINY)
    return ManifestRow(line=2, volume_id="tiny", path=str(path / "tiny.npy"))


def _nifti(path: Path) -> ManifestRow:
    nibabel.save(nibabel.Nifti1Image(TINY.T, np.eye(4)), path / "tiny.nii")
    return ManifestRow(line=2, volume_id="tiny", path=str(path / "tiny.nii"))


def _hdf5(path: Path, name: str = "reconstruction_rss", values: np.ndarray = TINY) -> ManifestRow:
    with h5py.File(path / "tiny.h5", "w") as file:
        file[name] = values
    return ManifestRow(line=2, volume_id="tiny", path=str(path / "tiny.h5"))


def _kspace(path: Path) -> ManifestRow:
    return _hdf5(path, "kspace", TINY.astype(np.complex128))


@pytest.mark.parametrize("write", [_npy, _nifti, _hdf5, _kspace])
def test_values_that_float32_turns_to_zero_are_no_volume_of_zeros(write, tmp_path):
    with pytest.raises(VolumeError, match=r"tiny.*1e-38"):
        read_volume(write(tmp_path))


def test_so_for_the_phase_of_kspace(tmp_path):
    with pytest.raises(VolumeError, match="1e-38"):
        read_with_phase(_kspace(tmp_path))


def test_zeros_are_a_volume_and_so_are_values_that_float32_holds(tmp_path):
    assert not read_volume(_hdf5(tmp_path, values=np.zeros((2, 16, 16)))).magnitude.any()
    small = TINY * 1e262
    np.testing.assert_allclose(read_volume(_hdf5(tmp_path, values=small)).magnitude, small, rtol=1e-5)
