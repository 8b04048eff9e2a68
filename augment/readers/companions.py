"""Companion files of a magnitude: real phase and segmentations, brought onto its grid without resampling."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.readers.geometry import Arrangement, match_grid, permute
from rephase.readers.nifti.read import file_values
from rephase.readers.npy import load_values
from rephase.readers.sources import format_of, hash_file, join_digests, local_path
from rephase.readers.volume import Volume


def companion_digests(row: ManifestRow, source_format: str) -> list[str]:
    """List the digests of the files beside the magnitude that `attach_companions` reads, in its order.

    `source_format` is that of the magnitude: arrays of complex values hold their phase themselves, DICOM does not.
    """
    digests = []
    if row.phase is not None and _has_phase_beside(row, source_format):
        digests.append(_phase_digest(row))
    if row.segmentation is not None:
        with local_path(row.segmentation) as path:
            digests.append(hash_file(path))
    return digests


def _has_phase_beside(row: ManifestRow, source_format: str) -> bool:
    return row.phase is not None and (row.phase != row.path or source_format == "dicom")


def _phase_digest(row: ManifestRow) -> str:
    with local_path(str(row.phase)) as path:
        if format_of(path, "auto") != "dicom":
            return hash_file(path)
    from rephase.readers.dicom.phase import hash_dicom_phase

    return hash_dicom_phase(row)


def _read_phase(
    row: ManifestRow, volume: Volume, arrangement: Arrangement | None, limit_bytes: int | None
) -> tuple[NDArray[Any], str]:
    with local_path(str(row.phase)) as path:
        if format_of(path, "auto") != "dicom":
            return _read(str(row.phase), row, volume, arrangement, limit_bytes)
    from rephase.readers.dicom.phase import read_dicom_phase

    return read_dicom_phase(row, volume, limit_bytes)


def attach_companions(
    volume: Volume, row: ManifestRow, arrangement: Arrangement | None, limit_bytes: int | None = None
) -> Volume:
    """Add the phase and the segmentation that a row names.

    Parameters
    ----------
    volume, arrangement
        The magnitude, and the way from its file's axes; None for DICOM, where an array without an affine is taken in
        the order of the displayed slices.
    row
        Its `phase` is read in radians, in -4096..4096 or whole numbers of 0..4095 (linear to -pi..pi, as Siemens
        stores it), or in -3142..3142 (thousandths of radians, as GE and Philips do). Its `segmentation` holds labels
        of 0..255.
    limit_bytes
        Of memory for each file.

    Raises
    ------
    VolumeError
        `mismatch` where a companion has other voxels; `missing`, `unreadable`, `unsupported`, `not_finite`.
    """
    digests = [volume.source_sha256]
    source_format = str(volume.acquisition.get("source_format", ""))
    if row.phase is not None and _has_phase_beside(row, source_format):
        values, digest = _read_phase(row, volume, arrangement, limit_bytes)
        phase, scaling = to_radians(values, row.phase)
        volume = replace(volume, phase=phase, acquisition={**volume.acquisition, "phase_scaling": scaling})
        digests.append(digest)
    if row.segmentation is not None:
        values, digest = _read(row.segmentation, row, volume, arrangement, limit_bytes)
        volume = replace(volume, segmentation=_labels(values, row.segmentation))
        digests.append(digest)
    if row.phase is not None and volume.phase is None:
        raise VolumeError(
            "mismatch", f"{row.phase}: is named as phase too but holds none; expected complex values or another file"
        )
    return replace(volume, source_sha256=join_digests(digests))


def _read(
    location: str, row: ManifestRow, volume: Volume, arrangement: Arrangement | None, limit_bytes: int | None
) -> tuple[NDArray[Any], str]:
    with local_path(location) as path:
        match format_of(path, "auto"):
            case "nifti":
                values = _from_nifti(path, location, row, volume, limit_bytes)
            case "npy":
                values = _from_npy(path, location, volume, arrangement, limit_bytes)
            case other:
                raise VolumeError(
                    "unsupported",
                    f"{location}: is {other}; expected .nii, .nii.gz or .npy beside a magnitude; convert it",
                )
        return np.ascontiguousarray(values), hash_file(path)


def _from_nifti(path: Path, name: str, row: ManifestRow, volume: Volume, limit_bytes: int | None) -> NDArray[Any]:
    values, header = file_values(path, name, row.frame, limit_bytes)
    axes, flips = match_grid(header.affine, header.shape, volume.affine, volume.magnitude.shape, name)
    return permute(values, axes, flips)


def _from_npy(
    path: Path, name: str, volume: Volume, arrangement: Arrangement | None, limit_bytes: int | None
) -> NDArray[Any]:
    values = load_values(path, name, limit_bytes)
    if arrangement is not None:
        values = arrangement.arrange(values)
    elif volume.transposed:
        values = values.swapaxes(1, 2)
    if values.shape != volume.magnitude.shape:
        raise VolumeError(
            "mismatch",
            f"{name}: has shape {values.shape} in the magnitude's axes; expected {volume.magnitude.shape}; align them",
        )
    return values


def to_radians(values: NDArray[Any], name: str) -> tuple[NDArray[np.float32], str]:
    """Turn stored phase to radians in (-pi, pi], and say how.

    Raises
    ------
    VolumeError
        `not_finite`, or `unsupported` where the values are in no known unit.
    """
    if np.iscomplexobj(values):
        return np.angle(values).astype(np.float32), "angle of complex values"
    if not np.all(np.isfinite(values)):
        raise VolumeError("not_finite", f"{name}: phase is not finite somewhere; expected angles; mend the source")
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
        f"{name}: phase is from {least:g} to {most:g}; expected radians, +-4096, 0..4095 or milliradians; scale it",
    )


def _wrapped(radians: NDArray[np.float64]) -> NDArray[np.float32]:
    """Bring to (-pi, pi]; the float32 nearest pi is larger than pi, so the last step is a cut."""
    turned = np.where(radians > math.pi, radians - 2 * math.pi, radians)
    turned = np.where(turned <= -math.pi, math.pi, turned)
    return np.clip(turned.astype(np.float32), np.nextafter(np.float32(-math.pi), np.float32(0)), np.float32(math.pi))


def _labels(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    wrong = np.iscomplexobj(values) or not bool(np.all((values >= 0) & (values <= 255) & (values == np.rint(values))))
    if wrong:
        raise VolumeError("unsupported", f"{name}: is no segmentation; expected whole numbers of 0 to 255; convert it")
    return values.astype(np.uint8)
