"""fastMRI's HDF5: one file a volume, `kspace`, the target, the mask where there is one, header and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rephase.exports.attributes import export_attributes
from rephase.exports.source import SourceVolume
from rephase.exports.stamp import STAMP_KEY, Digests, Stamp, is_foreign, read_stamp
from rephase.hdf5_files import creating
from rephase.ismrmrd_header import ismrmrd_header

__all__ = ["COMPRESSIONS", "SUFFIX", "check_package", "is_foreign", "read_digests", "read_stamp", "write"]

SUFFIX = ".h5"
COMPRESSIONS = ("none", "gzip")
_HEADER = "ismrmrd_header"


def check_package() -> None:
    """Do nothing: h5py is always there."""


def write(volume: SourceVolume, path: Path, stamp: Stamp, compression: str) -> Stamp:
    """Write one file; the stamp comes last.

    Parameters
    ----------
    volume
        To be read slice by slice.
    path
        Where nothing is yet.
    stamp
        Without checksums.
    compression
        One of `COMPRESSIONS`. Uncompressed arrays are contiguous; gzip has a chunk a slice.

    Returns
    -------
    stamp
        As written, with the checksums of what was read from the corpus.
    """
    digests = Digests()
    header = ismrmrd_header(volume.name, volume.receipt, volume.num_coils or 1)
    digests.take(_HEADER, header)
    with creating(path) as file:
        file[_HEADER] = np.bytes_(header)
        for array in volume.arrays:
            _write_array(file, volume, array, digests, compression)
        file.attrs.update(export_attributes(volume.name, volume.receipt))
        if "mask" in volume.arrays:
            file.attrs.update(_sampling(file["mask"][...], volume.receipt))
        done = stamp.with_digests(digests)
        file.attrs[STAMP_KEY] = done.to_json()
    return done


def _write_array(file: h5py.File, volume: SourceVolume, array: str, digests: Digests, compression: str) -> None:
    shape = volume.shape(array)
    packed = {} if compression == "none" else {"compression": compression, "chunks": (1, *shape[1:])}
    if len(shape) == 1:  # a mask: one piece, and small
        packed = {}
    dataset = file.create_dataset(array, shape, volume.dtype(array), **packed)
    for number, values in enumerate(digests.passing(array, volume.slices(array))):
        dataset[number if len(shape) > 1 else ...] = values


def _sampling(mask: NDArray[np.float32], receipt: Mapping[str, Any]) -> dict[str, int]:
    """What fastMRI's own undersampled files say of their mask."""
    middle = len(mask) // 2
    left, right = (int(np.argmin(np.append(side, 0))) for side in (mask[middle::-1] > 0, mask[middle:] > 0))
    acquired = receipt["padding_right"] - receipt["padding_left"]
    sampled = max(int((mask > 0).sum()), 1)
    return {"acceleration": round(acquired / sampled), "num_low_frequency": max(left + right - 1, 0)}


def read_digests(path: Path) -> dict[str, str]:
    """Read a file and give the checksums of what it holds.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    digests = Digests()
    with h5py.File(path, "r") as file:
        for array, dataset in file.items():
            if dataset.shape == ():
                digests.take(array, bytes(dataset[()]))
            elif dataset.ndim == 1:
                digests.take(array, dataset[...])
            else:
                for number in range(len(dataset)):
                    digests.take(array, dataset[number])
    return digests.result()
