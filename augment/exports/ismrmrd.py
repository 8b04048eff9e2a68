"""ISMRMRD (MRD version 1) HDF5: group `dataset` with the header, one acquisition a phase-encoding line, the images.

The record's layout and the flags come from the `ismrmrd` package, which is an extra: `pip install 'rephase[ismrmrd]'`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rephase.errors import RequestError
from rephase.exports.attributes import export_attributes
from rephase.exports.source import SourceVolume
from rephase.exports.stamp import STAMP_KEY, Digests, Stamp, is_foreign, read_stamp
from rephase.hdf5_files import creating
from rephase.ismrmrd_header import ismrmrd_header

SUFFIX = ".h5"
COMPRESSIONS = ("none",)
GROUP = "dataset"
__all__ = ["COMPRESSIONS", "SUFFIX", "check_package", "is_foreign", "read_digests", "read_stamp", "write"]
_COMPLEX = np.dtype([("real", "<f4"), ("imag", "<f4")])


def check_package() -> None:
    """Look whether the package is there.

    Raises
    ------
    RequestError
        If it is not.
    """
    try:
        import ismrmrd  # noqa: F401
    except ImportError as error:
        raise RequestError(
            f"--format ismrmrd: the package ismrmrd cannot be loaded ({error}); expected it beside rephase; "
            "pip install 'rephase[ismrmrd]'"
        ) from None


def write(volume: SourceVolume, path: Path, stamp: Stamp, compression: str) -> Stamp:
    """Write one file; the stamp comes last.

    Lines that were not acquired (outside of the padding, or not in the mask) are left out. `compression` is always
    `none`: HDF5 does not compress records of variable length.
    """
    digests = Digests()
    header = ismrmrd_header(volume.name, volume.receipt, volume.num_coils or 1)
    digests.take("xml", header)
    with creating(path) as file:
        group = file.create_group(GROUP)
        text = group.create_dataset("xml", (1,), h5py.special_dtype(vlen=bytes))
        text[0] = header
        _write_acquisitions(group, volume, digests)
        for array in volume.arrays[1:]:
            _write_images(group, volume, array, digests)
        group.attrs.update(export_attributes(volume.name, volume.receipt))
        done = stamp.with_digests(digests)
        file.attrs[STAMP_KEY] = done.to_json()
    return done


def _write_acquisitions(group: h5py.Group, volume: SourceVolume, digests: Digests) -> None:
    from ismrmrd.hdf5 import acquisition_dtype

    lines = _acquired_lines(volume)
    num_slices = volume.shape("kspace")[0]
    dataset = group.create_dataset(
        "data", (num_slices * len(lines),), acquisition_dtype, maxshape=(None,), chunks=(64,)
    )
    for number, kspace in enumerate(volume.slices("kspace")):
        part = slice(number * len(lines), (number + 1) * len(lines))
        records = _records(volume, number, lines, kspace if kspace.ndim == 3 else kspace[np.newaxis])
        dataset[part] = records
        digests.take("data", _bytes_of(records))


def _acquired_lines(volume: SourceVolume) -> NDArray[np.int64]:
    left, right = volume.receipt["padding_left"], volume.receipt["padding_right"]
    lines = np.arange(left, right)
    if "mask" in volume.arrays:
        mask = next(volume.slices("mask"))
        lines = lines[mask[lines] > 0]
    return lines


def _records(
    volume: SourceVolume, number: int, lines: NDArray[np.int64], kspace: NDArray[np.complex64]
) -> NDArray[Any]:
    """The acquisitions of one slice; `kspace` is `(coil height width)`."""
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


def _geometry(volume: SourceVolume, number: int) -> dict[str, NDArray[np.float64]]:
    """Directions in patient coordinates (LPS), and the middle of the slice, which the FFT puts at `n // 2`."""
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


def _write_images(group: h5py.Group, volume: SourceVolume, array: str, digests: Digests) -> None:
    """Write an array as ISMRMRD's own `append_array` does: complex numbers as a pair named real and imag."""
    shape = volume.shape(array)
    shape = shape if len(shape) > 1 else (1, *shape)
    dtype = volume.dtype(array)
    dataset = group.create_dataset(array, shape, _COMPLEX if dtype.kind == "c" else dtype)
    for number, values in enumerate(digests.passing(array, volume.slices(array))):
        dataset[number] = np.ascontiguousarray(values).view(dataset.dtype)


def read_digests(path: Path) -> dict[str, str]:
    """Read a file and give the checksums of what it holds: `data` is every acquisition, header and samples.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    digests = Digests()
    with h5py.File(path, "r") as file:
        for array, dataset in file[GROUP].items():
            if array == "xml":
                digests.take(array, bytes(dataset[0]))
            elif array == "data":
                for start in range(0, len(dataset), dataset.chunks[0]):
                    digests.take(array, _bytes_of(dataset[start : start + dataset.chunks[0]]))
            else:
                for values in dataset:
                    digests.take(array, values)
    return digests.result()


def _bytes_of(records: NDArray[Any]) -> bytes:
    parts = []
    for record in records:
        parts += [record["head"].tobytes(), record["traj"].tobytes(), record["data"].tobytes()]
    return b"".join(parts)
