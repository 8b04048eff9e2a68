"""ISMRMRD (MRD version 1) HDF5: the group `dataset` with the header, the acquisitions and the images.

An acquisition is one phase-encoding line of one slice. The layout of its record and the flags come from the `ismrmrd`
package, an optional extra.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rephase.exports.attributes import STAMP_KEY, export_attributes, read_stamp
from rephase.exports.committed import CommittedVolume
from rephase.hdf5_files import creating
from rephase.ismrmrd_header import ismrmrd_header

__all__ = ["read_stamp", "write"]

GROUP = "dataset"
_COMPLEX = np.dtype([("real", "<f4"), ("imag", "<f4")])


def write(volume: CommittedVolume, path: Path, stamp: str, compression: str) -> None:
    """Write one file without the lines that were not acquired: those outside the padding or not in the mask.

    Files are uncompressed: HDF5 does not compress records of variable length.
    """
    with creating(path) as file:
        group = file.create_group(GROUP)
        text = group.create_dataset("xml", (1,), h5py.special_dtype(vlen=bytes))
        text[0] = ismrmrd_header(volume.name, volume.receipt, volume.num_coils or 1)
        _write_acquisitions(group, volume)
        for array in volume.arrays[1:]:
            _write_images(group, volume, array)
        group.attrs.update(export_attributes(volume.name, volume.receipt))
        file.attrs[STAMP_KEY] = stamp


def _write_acquisitions(group: h5py.Group, volume: CommittedVolume) -> None:
    from ismrmrd.hdf5 import acquisition_dtype

    lines = np.arange(volume.receipt["padding_left"], volume.receipt["padding_right"])
    if "mask" in volume.arrays:
        mask = next(volume.slices("mask"))
        lines = lines[mask[lines] > 0]
    num_slices = volume.shape("kspace")[0]
    dataset = group.create_dataset(
        "data", (num_slices * len(lines),), acquisition_dtype, maxshape=(None,), chunks=(64,)
    )
    for number, kspace in enumerate(volume.slices("kspace")):
        part = slice(number * len(lines), (number + 1) * len(lines))
        dataset[part] = _records(volume, number, lines, kspace if kspace.ndim == 3 else kspace[np.newaxis])


def _records(
    volume: CommittedVolume, number: int, lines: NDArray[np.int64], kspace: NDArray[np.complex64]
) -> NDArray[Any]:
    """Return the acquisitions of one slice; `kspace` is `(coil height width)`."""
    from ismrmrd.hdf5 import acquisition_dtype

    num_coils, height, _ = kspace.shape
    records = np.zeros(len(lines), acquisition_dtype)
    head = records["head"]
    head["version"] = 1
    head["scan_counter"] = number * len(lines) + np.arange(len(lines))
    head["number_of_samples"] = height
    head["available_channels"] = head["active_channels"] = num_coils
    head["channel_mask"] = _channel_mask(num_coils)
    head["center_sample"] = height // 2
    head["discard_pre"] = int(volume.receipt.get("readout_start") or 0)
    head["idx"]["kspace_encode_step_1"] = lines - volume.receipt["padding_left"]
    head["idx"]["slice"] = number
    for field, values in _geometry(volume, number).items():
        head[field] = values
    head["flags"] = _flags(len(lines), number == volume.shape("kspace")[0] - 1)
    for record, line in enumerate(lines):
        records["data"][record] = np.ascontiguousarray(kspace[:, :, line]).view(np.float32).reshape(-1)
        records["traj"][record] = np.zeros(0, np.float32)
    return records


def _channel_mask(num_coils: int) -> NDArray[np.uint64]:
    words = [(((1 << num_coils) - 1) >> (64 * word)) & (2**64 - 1) for word in range(16)]
    return np.array(words, np.uint64)


def _geometry(volume: CommittedVolume, number: int) -> dict[str, NDArray[np.float64]]:
    """Return the directions (LPS unit vectors) and the position (mm) of the slice's centre, at `n // 2` for the FFT."""
    affine = np.array(volume.receipt["affine"])
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    height, width, _ = volume.receipt["recon_size"]
    middle = affine @ np.array([number, height // 2, width // 2, 1.0])
    names = ("slice_dir", "read_dir", "phase_dir")
    return {"position": middle[:3]} | {name: directions[:, axis] for axis, name in enumerate(names)}


def _flags(num_lines: int, is_last_slice: bool) -> NDArray[np.uint64]:
    import ismrmrd.constants as names

    flags = np.zeros(num_lines, np.uint64)
    marks = [
        (0, names.ACQ_FIRST_IN_ENCODE_STEP1), (0, names.ACQ_FIRST_IN_SLICE),
        (-1, names.ACQ_LAST_IN_ENCODE_STEP1), (-1, names.ACQ_LAST_IN_SLICE),
    ]  # fmt: skip
    if is_last_slice:
        marks.append((-1, names.ACQ_LAST_IN_MEASUREMENT))
    for record, flag in marks:
        flags[record] |= np.uint64(1 << (flag - 1))  # the format counts flags from 1
    return flags


def _write_images(group: h5py.Group, volume: CommittedVolume, array: str) -> None:
    """Write an array as `ismrmrd.Dataset.append_array` does: a complex number is a pair named real and imag."""
    shape = volume.shape(array)
    shape = shape if len(shape) > 1 else (1, *shape)
    dtype = volume.dtype(array)
    dataset = group.create_dataset(array, shape, _COMPLEX if dtype.kind == "c" else dtype)
    for number, values in enumerate(volume.slices(array)):
        dataset[number] = np.ascontiguousarray(values).view(dataset.dtype)
