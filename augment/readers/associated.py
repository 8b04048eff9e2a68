"""Add measured phase and segmentations from associated files, on the grid of the magnitude, without resampling."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.formats import READERS
from rephase.manifests.record import ManifestRow
from rephase.readers.geometry import Arrangement
from rephase.readers.reader import AssociatedReader, format_of, load_associated
from rephase.readers.sources import join_digests
from rephase.readers.volume import Volume


def associated_digests(row: ManifestRow, source_format: str) -> list[str]:
    """Return the digests of the associated files that `attach_associated` reads, in its order.

    Parameters
    ----------
    row
        The magnitude's row.
    source_format
        Format of the magnitude.
    """
    files = _files(row, source_format)
    return [_reader_of(column, location).digest_associated(location, row) for column, location in files]


def attach_associated(
    volume: Volume, row: ManifestRow, arrangement: Arrangement | None, limit_bytes: int | None = None
) -> Volume:
    """Add the phase and the segmentation that a row names.

    Parameters
    ----------
    volume, arrangement
        The magnitude, as its reader returned it.
    row
        Its `phase` is read in radians, in -4096..4096 or integers of 0..4095 (linear to -pi..pi, as Siemens
        stores it), or in -3142..3142 (thousandths of radians, as GE and Philips do). Its `segmentation` contains labels
        of 0..255.
    limit_bytes
        Memory limit for each file.

    Raises
    ------
    VolumeError
        `mismatch` if a file has other voxels; `missing`, `unreadable`, `unsupported`, `not_finite`.
    """
    digests = [volume.source_sha256]
    for column, location in _files(row, str(volume.acquisition.get("source_format", ""))):
        reader = _reader_of(column, location)
        values, digest = reader.read_associated(location, row, volume, arrangement, limit_bytes)
        digests.append(digest)
        if column == "phase":
            phase, scaling = to_radians(values, location)
            volume = replace(volume, phase=phase, acquisition={**volume.acquisition, "phase_scaling": scaling})
        else:
            volume = replace(volume, segmentation=_labels(values, location))
    if row.phase is not None and volume.phase is None:
        raise VolumeError(
            "mismatch",
            f"{row.phase}: is named as its own phase but has none; expected complex values; name another file",
        )
    return replace(volume, source_sha256=join_digests(digests))


def _files(row: ManifestRow, source_format: str) -> list[tuple[str, str]]:
    """List the columns that name an associated file, with its location.

    A `phase` that is the `path` means the angle of complex values, which is read with the magnitude; but DICOM stores
    phase as separate images, often in the folder of the magnitude.
    """
    files = []
    if row.phase is not None and (row.phase != row.path or source_format == "dicom"):
        files.append(("phase", row.phase))
    if row.segmentation is not None:
        files.append(("segmentation", row.segmentation))
    return files


def _reader_of(column: str, location: str) -> AssociatedReader:
    name = format_of(location)
    if column not in READERS[name].associated:
        known = ", ".join(reader.name for reader in READERS.values() if column in reader.associated)
        raise VolumeError("unsupported", f"{location}: is {name}; expected {known} in the column {column}; convert it")
    return load_associated(name)


def to_radians(values: NDArray[Any], name: str) -> tuple[NDArray[np.float32], str]:
    """Convert stored phase to radians in (-pi, pi]; return them and the scaling as text.

    Raises
    ------
    VolumeError
        `not_finite`, or `unsupported` if the unit of the values is unknown.
    """
    if np.iscomplexobj(values):
        return np.angle(values).astype(np.float32), "angle of complex values"
    if not np.all(np.isfinite(values)):
        raise VolumeError("not_finite", f"{name}: phase is not finite everywhere; expected angles; fix the source")
    least, most = float(values.min()), float(values.max())
    reach = max(-least, most)
    if reach <= 1.002 * math.pi:
        return _wrapped(values.astype(np.float64)), "radians"
    if least >= 0 and most <= 1.001 * 2 * math.pi:
        return _wrapped(values.astype(np.float64)), "radians, 0 to 2 pi"
    whole = bool(np.all(values == np.rint(values)))
    if whole and least >= 0 and 3800 <= most <= 4095:
        return _wrapped((values.astype(np.float64) - 2048) * (math.pi / 2048)), "0..4095 to -pi..pi"
    if least < 0 and 3000 <= reach <= 3142:
        return _wrapped(values.astype(np.float64) / 1000), "milliradians"
    if least < 0 and 3800 <= reach <= 4096:
        return _wrapped(values.astype(np.float64) * (math.pi / 4096)), "-4096..4096 to -pi..pi"
    raise VolumeError(
        "unsupported",
        f"{name}: phase is from {least:g} to {most:g}; "
        "expected radians, milliradians, -4096..4096 or 0..4095; scale it",
    )


def _wrapped(radians: NDArray[np.float64]) -> NDArray[np.float32]:
    """Wrap to (-pi, pi]. The float32 nearest to pi is larger than pi, so the result is clipped below it."""
    wrapped = np.where(radians > math.pi, radians - 2 * math.pi, radians)
    wrapped = np.where(wrapped <= -math.pi, math.pi, wrapped)
    return np.clip(wrapped.astype(np.float32), np.nextafter(np.float32(-math.pi), np.float32(0)), np.float32(math.pi))


def _labels(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    wrong = np.iscomplexobj(values) or not bool(np.all((values >= 0) & (values <= 255) & (values == np.rint(values))))
    if wrong:
        raise VolumeError(
            "unsupported", f"{name}: is no segmentation; expected whole numbers from 0 to 255; convert it"
        )
    return values.astype(np.uint8)
