"""Find the measured phase of a DICOM magnitude, in the same object, the same folder or another one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom.facts import find, number, unit_of_values
from rephase.readers.dicom.files import looking_into
from rephase.readers.dicom.index import digest_files, index_path, one_at_a_time
from rephase.readers.dicom.read import DicomVolume, dataset_and_group, find_volume, volumes_of
from rephase.readers.dicom.series import Part


@one_at_a_time
def read_dicom_phase(row: ManifestRow, limit_bytes: int | None = None) -> tuple[NDArray[np.float32], str]:
    """Read the phase volume that belongs to a row's magnitude.

    It has the grid and echo time of the magnitude; of several, the one with the same acquisition time is taken.

    Parameters
    ----------
    row
        Its `phase` is a DICOM file or folder, which may be the magnitude's own; `path` is DICOM.
    limit_bytes
        As in `read_dicom`.

    Returns
    -------
    phase
        Radians in (-pi, pi], of the magnitude's shape.
    digest
        SHA-256 of the files, as `hash_dicom_phase`.

    Raises
    ------
    VolumeError
        `mismatch` where no phase fits, `ambiguous` where several do, `unsupported` where its scale is unknown.
    """
    found = _find_phase(row, limit_bytes)
    return _radians(found, str(row.phase)), digest_files([header.file for header in found.part.headers])


@one_at_a_time
def hash_dicom_phase(row: ManifestRow) -> str:
    """Return the SHA-256 of the phase of a row's magnitude; raise as `read_dicom_phase`."""
    return digest_files([header.file for header in _find_phase(row, None).part.headers])


def _find_phase(row: ManifestRow, limit_bytes: int | None) -> DicomVolume:
    path = str(row.phase)
    magnitude = find_volume(row, limit_bytes)
    candidates = [found for found in _phases(path, magnitude, limit_bytes) if _fits(found, magnitude)]
    if len(candidates) > 1:
        when = acquired(magnitude)
        candidates = [found for found in candidates if acquired(found) == when] or candidates
    if not candidates:
        raise VolumeError(
            "mismatch",
            f"{path}: no phase with the grid and echo time of {row.path}; expected one; correct the column phase",
        )
    if len(candidates) > 1:
        raise VolumeError(
            "ambiguous",
            f"{path}: {len(candidates)} phase volumes match {row.path}; expected one; put it into a folder of its own",
        )
    return candidates[0]


def _phases(path: str, magnitude: DicomVolume, limit_bytes: int | None) -> list[DicomVolume]:
    """Return the phase volumes of all series that can be read; the magnitude's own series must be readable."""
    own = magnitude.part.headers[0].series
    volumes: list[DicomVolume] = []
    index, _ = index_path(path, deep=False)
    for series, headers in index.images.items():
        parts, unusable = index.parts(headers, "phase", path)
        lost = list(unusable)
        for part in parts:
            try:
                volumes += volumes_of(part, path, limit_bytes)
            except VolumeError as error:
                lost.append(error)
        if lost and series == own:
            raise lost[0]
    return volumes


def _fits(phase: DicomVolume, magnitude: DicomVolume) -> bool:
    te_ms = (phase.part.te_ms, magnitude.part.te_ms)
    same_te = None in te_ms or abs((te_ms[0] or 0) - (te_ms[1] or 0)) < 1e-3
    grids = (phase.arrangement.affine, magnitude.arrangement.affine)
    return same_te and phase.shape == magnitude.shape and bool(np.allclose(*grids, atol=0.05))


def acquired(volume: DicomVolume) -> tuple[str, int]:
    """Return date and time of the acquisition of a part, and the place of the volume among those that it made."""
    return acquired_at(volume.part), volume.time


def acquired_at(part: Part) -> str:
    """Return the earliest date and time of the acquisition of a part, empty where they were removed."""
    frames = [frame.acquired for header in part.headers for frame in header.frames if frame.kind == part.kind]
    return min([*filter(None, frames), *([] if any(frames) else [header.acquired for header in part.headers])])


def _radians(phase: DicomVolume, name: str) -> NDArray[np.float32]:
    """Turn rescaled phase to radians in (-pi, pi]."""
    values = phase.values()
    cycle = _cycle(phase.part)
    reach = float(np.abs(values).max(initial=0.0))
    if cycle is None and reach <= 1.002 * math.pi:
        cycle = 2 * math.pi
    elif cycle is None and 3000 <= reach <= 3143:
        cycle = 2000 * math.pi
    if cycle is None or reach > 0.52 * cycle:
        raise VolumeError(
            "unsupported",
            f"{name}: phase reaches {reach:g} in an unknown unit; "
            "expected radians, milliradians or -pi to pi over all stored values; convert it",
        )
    angle = values.astype(np.float64) * (2 * math.pi / cycle)
    wrapped = np.where(angle > math.pi, angle - 2 * math.pi, angle)
    wrapped = np.where(wrapped <= -math.pi, wrapped + 2 * math.pi, wrapped)
    # The float32 nearest to pi is larger than pi.
    return np.minimum(wrapped, np.nextafter(np.float32(math.pi), np.float32(0))).astype(np.float32)


def _cycle(part: Part) -> float | None:
    """Return 2 pi in rescaled values: from the unit, else where slope and intercept map all stored values on it."""
    file = part.headers[0].file
    dataset, group = dataset_and_group(file, "phase", part.te_ms if part.is_mixed else None)
    with looking_into(file):
        unit = unit_of_values(dataset, group)
        slope, intercept = (
            number(find(dataset, group, word, "PixelValueTransformationSequence")) or 0.0
            for word in ("RescaleSlope", "RescaleIntercept")
        )
        width = abs(slope) * 2.0 ** int(dataset.get("BitsStored") or 0)
    if unit in ("MRAD", "RAD"):
        return 2000 * math.pi if unit == "MRAD" else 2 * math.pi
    return -2 * intercept if intercept < 0 and abs(width + 2 * intercept) < 0.005 * width else None
