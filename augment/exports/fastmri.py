"""fastMRI's HDF5 layout: one file per volume with k-space, target, mask, ISMRMRD header and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.exports.attributes import STAMP_KEY, export_attributes, read_stamp
from rephase.exports.committed import CommittedVolume
from rephase.hdf5_files import creating
from rephase.ismrmrd_header import ismrmrd_header

__all__ = ["read_stamp", "write"]


def write(volume: CommittedVolume, path: Path, stamp: str, compression: str) -> None:
    """Write one file. Uncompressed arrays are contiguous; with gzip, a chunk is one slice."""
    with creating(path) as file:
        file["ismrmrd_header"] = np.bytes_(ismrmrd_header(volume.name, volume.receipt, volume.num_coils or 1))
        for array in volume.arrays:
            shape = volume.shape(array)
            is_mask = len(shape) == 1
            packed = {} if compression == "none" or is_mask else {"compression": compression, "chunks": (1, *shape[1:])}
            dataset = file.create_dataset(array, shape, volume.dtype(array), **packed)
            for number, values in enumerate(volume.slices(array)):
                dataset[... if is_mask else number] = values
        file.attrs.update(export_attributes(volume.name, volume.receipt))
        if "mask" in volume.arrays:
            file.attrs.update(_sampling(file["mask"][...], volume.receipt))
        file.attrs[STAMP_KEY] = stamp


def _sampling(mask: NDArray[np.float32], receipt: Mapping[str, Any]) -> dict[str, int]:
    """Return the attributes with which fastMRI's undersampled files describe their mask."""
    middle = len(mask) // 2
    left, right = (int(np.argmin(np.append(side, 0))) for side in (mask[middle::-1] > 0, mask[middle:] > 0))
    acquired = receipt["padding_right"] - receipt["padding_left"]
    sampled = max(int((mask > 0).sum()), 1)
    return {"acceleration": round(acquired / sampled), "num_low_frequency": max(left + right - 1, 0)}
