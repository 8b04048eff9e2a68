"""Read one magnitude volume from a NumPy file, never a pickled one; and volumes from arrays without orientation."""

from __future__ import annotations

import threading
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.manifests.header import Probed
from rephase.manifests.record import ManifestRow
from rephase.readers.geometry import Arrangement, arranged_volume, as_displayed
from rephase.readers.kinds import kind_of_values
from rephase.readers.sources import hash_file, hash_location, local_path
from rephase.readers.volume import Description, Volume, check_limit, refuse_vanished
from rephase.text import one_line

# raised by NumPy on damaged headers, deep brackets and sizes beyond any memory included
_HEADER_ERRORS = (
    OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError, AttributeError,
    IndexError, KeyError, tokenize.TokenError,
)  # fmt: skip

_ONE_HEADER = threading.Lock()


def read(row: ManifestRow, limit_bytes: int | None = None) -> tuple[Volume, Arrangement]:
    """Read an array of shape (slice, height, width), or (height, width) for one slice, oriented as displayed.

    A complex array yields the magnitude, and also the phase if `row.phase` is the same path.

    Raises
    ------
    VolumeError
        `missing`, `unreadable`, `unsupported`, `not_magnitude` or `too_large`.
    """
    with local_path(row.path) as path:
        values = load_values(path, row.path, limit_bytes)
        sha256 = hash_file(path)
    return plain_volume(row, values, as_displayed(values.shape, slice_axis=row.slice_axis or 0), sha256, "npy")


def describe(row: ManifestRow) -> Description:
    """Describe the array from the header alone."""
    with local_path(row.path) as path:
        shape = _map(path, row.path).shape
    return Description(as_displayed(shape, slice_axis=row.slice_axis or 0).sizes(shape))


def digest(row: ManifestRow) -> str:
    """Return the SHA-256 of the file."""
    return hash_location(row.path)


def probe(files: Iterable[Path]) -> Probed:
    """Return no volumes: an array without a header may contain anything, so a row must name it explicitly."""
    return Probed()


def read_associated(
    location: str, row: ManifestRow, volume: Volume, arrangement: Arrangement | None, limit_bytes: int | None
) -> tuple[NDArray[Any], str]:
    """Read an array whose axes are those of the magnitude's file, or of the displayed slices of DICOM."""
    with local_path(location) as path:
        values = load_values(path, location, limit_bytes)
        sha256 = hash_file(path)
    if arrangement is not None:
        values = arrangement.arrange(values)
    elif volume.transposed:
        values = values.swapaxes(1, 2)
    if values.shape != volume.magnitude.shape:
        raise VolumeError(
            "mismatch",
            f"{location}: has shape {values.shape} in the magnitude's axes; expected {volume.magnitude.shape}; "
            "align them",
        )
    return np.ascontiguousarray(values), sha256


def digest_associated(location: str, row: ManifestRow) -> str:
    """Return the SHA-256 of the file."""
    return hash_location(location)


def load_values(path: Path, name: str, limit_bytes: int | None) -> NDArray[Any]:
    """Read the array of a file as float32 or complex64, three-dimensional."""
    mapped = _map(path, name)
    check_limit(mapped.size * (16 if mapped.dtype.kind == "c" else 8), limit_bytes, name)
    with np.errstate(over="ignore"):
        values = mapped.astype(np.complex64 if mapped.dtype.kind == "c" else np.float32)
    refuse_vanished(values, lambda: float(np.abs(mapped).max()), name)
    return values


def map_npy(path: Path) -> NDArray[Any]:
    """Map the array of a .npy file; unlike `np.load` only of such a file, and never a pickle.

    Headers are read one at a time: they go through `ast.literal_eval`, where Python counts the recursion of all threads
    together, so that of two at once one may get a SystemError (gh-106905). Other code parses too, hence the second try.
    """
    with _ONE_HEADER:
        try:
            return np.lib.format.open_memmap(path, mode="r")
        except SystemError:
            return np.lib.format.open_memmap(path, mode="r")


def _map(path: Path, name: str) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                raise VolumeError(
                    "unsupported", f"{name}: is an archive of arrays; expected .npy; save one array per file"
                )
        mapped = map_npy(path)
    except VolumeError:
        raise
    except _HEADER_ERRORS as error:
        raise VolumeError(
            "unreadable", f"{name}: cannot be read ({one_line(error)}); expected a .npy array of numbers; save it again"
        ) from error
    return as_volume(mapped, name)


def as_volume(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Check an array's type and sizes; two dimensions become one slice."""
    if array.dtype.kind not in "iufc":
        raise VolumeError("unsupported", f"{name}: has values of type {array.dtype}; expected numbers; convert it")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise VolumeError(
            "unsupported", f"{name}: has shape {array.shape}; expected (slice, height, width); save one volume per file"
        )
    return array if array.ndim == 3 else array[np.newaxis]


def plain_volume(
    row: ManifestRow,
    values: NDArray[Any],
    arrangement: Arrangement,
    digest: str,
    source_format: str,
    spacing_known: bool = False,
) -> tuple[Volume, Arrangement]:
    """Return the volume of an array without orientation, which `acquisition` records as assumed.

    Raises
    ------
    VolumeError
        `not_magnitude` if the values are phase or another signed image.
    """
    phase = None
    if np.iscomplexobj(values):
        phase = np.angle(values).astype(np.float32) if row.phase == row.path or row.kspace else None
        values = np.abs(values)
    else:
        slices = arrangement.arrange(values)
        first = max(0, len(slices) // 2 - 3)
        if found := kind_of_values(slices[first : first + 6]):
            kind = "a phase image" if found[0] == "phase" else "a signed image (real part, field map or phase)"
            raise VolumeError(
                "not_magnitude", f"{row.path}: is {kind} ({found[1]}); expected a magnitude image; name its file"
            )
    facts = {"source_format": source_format, "orientation": "assumed: rows and columns as displayed, axial"}
    if not spacing_known:
        facts["spacing"] = "assumed: 1 mm"
    return arranged_volume(row, values, phase, arrangement, digest, facts), arrangement
