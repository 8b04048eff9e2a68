"""Open arrays of .npy, .mat (version 5 to 7.3), BART (.cfl, .hdr) and plain HDF5 files, mapped where possible."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.hdf5_files import open_hdf5
from rephase.manifests.record import ManifestRow
from rephase.readers.npy import map_npy
from rephase.readers.raw.data import Defaults, RawData, named_axes
from rephase.readers.volume import check_limit
from rephase.text import install_hint, one_line

_NUMPY: Defaults = {2: ("height", "width"), 3: ("slice", "height", "width"), 4: ("slice", "coil", "height", "width")}
_MATLAB: Defaults = {2: ("height", "width"), 3: ("height", "width", "slice"), 4: ("height", "width", "coil", "slice")}
_PAIRS: Defaults = {4: ("slice", "height", "width", "pair")}
_BART = ("height", "width", "partition", "coil")
_BART_SLICES, _BART_FRAMES, _BART_ECHOES = 13, 10, 5
_LARGEST_HEADER = 1 << 16


def open_npy(path: Path, row: ManifestRow, name: str, is_kspace: bool, limit_bytes: int | None) -> RawData:
    """Map the array of a .npy file: `(slice [coil] height width)`, or the layout of CC-359's single-coil files."""
    try:
        values = map_npy(path)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError) as error:
        raise VolumeError(
            "unreadable", f"{name}: cannot be read ({one_line(error)}); expected a .npy array of numbers; save it again"
        ) from error
    _check_numbers(values, name, limit_bytes)
    paired = values.dtype.kind != "c" and values.ndim == 4 and values.shape[-1] == 2
    axes = named_axes(values.shape, row, _PAIRS if paired else _NUMPY, name)
    return RawData(values, axes, is_kspace)


def open_mat(path: Path, row: ManifestRow, name: str, is_kspace: bool, limit_bytes: int | None) -> RawData:
    """Read the array that the row's `dataset` names, or the only one, of `(height width [coil] [slice])`."""
    with path.open("rb") as file:
        start = file.read(520)
    if start[512:520] == b"\x89HDF\r\n\x1a\n" or start.startswith(b"\x89HDF"):
        values = _mat_73(path, row, name, limit_bytes)
    else:
        values = _mat_5(path, row, name, limit_bytes)
    axes = named_axes(values.shape, row, _MATLAB, name)
    return RawData(values, axes, is_kspace)


def open_cfl(path: Path, row: ManifestRow, name: str, is_kspace: bool, limit_bytes: int | None) -> RawData:
    """Map a .cfl file by its .hdr: readout, two phase encodings, coils; dimension 13 is slices, 10 frames, 5 echoes."""
    header = path.with_suffix(".hdr")
    try:
        lines = header.read_bytes()[:_LARGEST_HEADER].decode("ascii").splitlines()
        at = next(number for number, line in enumerate(lines) if line.strip() == "# Dimensions")
        sizes = [int(word) for word in lines[at + 1].split()]
        sizes += [1] * (2 - len(sizes))  # BART omits the last ones of size 1
        values = np.memmap(path, np.complex64, "r", shape=tuple(sizes), order="F")
    except (OSError, ValueError, OverflowError, StopIteration, IndexError, UnicodeDecodeError) as error:
        what = "no dimensions" if isinstance(error, StopIteration | IndexError) else one_line(error)
        raise VolumeError(
            "unreadable",
            f"{name}: cannot be read ({what}); expected a .cfl of the size that {header.name} states; copy both files "
            "again",
        ) from error
    _check_numbers(values, name, limit_bytes)
    if 8 * math.prod(sizes) != path.stat().st_size:
        raise VolumeError(
            "unreadable", f"{name}: has {path.stat().st_size} bytes; expected {8 * math.prod(sizes)} by {header.name}; "
            "copy both files again"
        )  # fmt: skip
    taken: NDArray[Any] = values
    if row.axes is not None:
        while taken.ndim > len(row.axes.split()) and taken.shape[-1] == 1:
            taken = taken[..., 0]
        return RawData(taken, named_axes(taken.shape, row, {}, name), is_kspace)
    for dimension, column, chosen in ((_BART_FRAMES, "frame", row.frame), (_BART_ECHOES, "echo", row.echo)):
        if dimension < values.ndim and values.shape[dimension] > 1:
            number = _chosen(chosen, column, values.shape[dimension], name)
            taken = np.take(taken, [number], axis=dimension)
    axes: list[str | None] = []
    for dimension, size in enumerate(taken.shape):
        known = _BART[dimension] if dimension < len(_BART) else "slice" if dimension == _BART_SLICES else None
        if known is None and size > 1:
            raise VolumeError(
                "unsupported",
                f"{name}: has {size} values along dimension {dimension}; expected 1, or dimensions 0 to 3, 5, 10 and "
                "13; extract one volume with 'bart slice'",
            )
        axes.append(known if size > 1 or known in ("height", "width") else None)
    if not is_kspace:  # an image has no encoding along its third axis
        axes = ["slice" if one == "partition" else one for one in axes]
    return RawData(taken, tuple(axes), is_kspace)


def open_pairs(path: Path, row: ManifestRow, name: str, limit_bytes: int | None) -> RawData:
    """Read `kspace` of a CC-359 file: `(slice height width channel)`, real and imaginary parts in turn."""
    with open_hdf5(path) as file:
        dataset = file[row.dataset or "kspace"]
        check_limit(dataset.size * 16, limit_bytes, name)
        values = dataset[()]
    return RawData(values, named_axes(values.shape, row, _PAIRS, name), True)


def _chosen(chosen: int | None, column: str, count: int, name: str) -> int:
    number = None if chosen is None else chosen - (column == "echo")
    if number is None or not 0 <= number < count:
        first = 1 if column == "echo" else 0
        raise VolumeError(
            "ambiguous" if number is None else "mismatch",
            f"{name}: has {count} {column}s; expected a number from {first} to {count - 1 + first} in the column "
            f"{column}; choose one",
        )
    return number


def _check_numbers(values: NDArray[Any], name: str, limit_bytes: int | None) -> None:
    if values.dtype.kind not in "iufc":
        raise VolumeError("unsupported", f"{name}: has values of type {values.dtype}; expected numbers; convert it")
    check_limit(values.size * 16, limit_bytes, name)


def _mat_5(path: Path, row: ManifestRow, name: str, limit_bytes: int | None) -> NDArray[Any]:
    try:
        import scipy.io
    except ImportError:
        raise VolumeError(
            "unsupported",
            f"{name}: is a MATLAB file before version 7.3; expected SciPy, or -v7.3; {install_hint('raw')}",
        ) from None
    try:
        found = {key: shape for key, shape, _ in scipy.io.whosmat(path)}
        key = _variable({one: shape for one, shape in found.items() if len(shape) >= 2}, row, name)
        check_limit(16 * math.prod(found[key]), limit_bytes, name)
        values = np.asarray(scipy.io.loadmat(path, variable_names=[key])[key])
    except VolumeError:
        raise
    except Exception as error:  # scipy raises many kinds on damaged files
        raise VolumeError(
            "unreadable", f"{name}: cannot be read ({one_line(error)}); expected a MATLAB file; save it again"
        ) from error
    _check_numbers(values, name, limit_bytes)
    return values


def _mat_73(path: Path, row: ManifestRow, name: str, limit_bytes: int | None) -> NDArray[Any]:
    try:
        with open_hdf5(path) as file:
            arrays = {key: one for key, one in file.items() if isinstance(one, h5py.Dataset) and one.ndim >= 2}
            key = _variable({one: dataset.shape[::-1] for one, dataset in arrays.items()}, row, name)
            check_limit(16 * arrays[key].size, limit_bytes, name)
            values = arrays[key][()]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise VolumeError(
            "unreadable", f"{name}: cannot be read ({one_line(error)}); expected a MATLAB file; save it again"
        ) from error
    if values.dtype.names and set(values.dtype.names) == {"real", "imag"}:
        values = values["real"] + 1j * values["imag"]
    _check_numbers(values, name, limit_bytes)
    return np.asarray(values.transpose())  # MATLAB counts axes from the other end


def _variable(found: dict[str, tuple[int, ...]], row: ManifestRow, name: str) -> str:
    listed = ", ".join(f"{key} {shape}" for key, shape in list(found.items())[:8]) or "no array"
    if row.dataset is not None:
        if row.dataset not in found:
            raise VolumeError(
                "mismatch", f"{name}: has {listed}; expected the variable {row.dataset}; correct the column dataset"
            )
        return row.dataset
    large = [key for key, shape in found.items() if math.prod(shape) > 64] or list(found)
    if len(large) != 1:
        raise VolumeError("ambiguous", f"{name}: has {listed}; expected one array; name it in the column dataset")
    return large[0]
