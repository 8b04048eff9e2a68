"""Finds the real phase that belongs to a DICOM magnitude, in the same object, the same folder or another one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom.files import combine_digests, hash_file, list_sources, read_series_uid
from rephase.readers.dicom.frames import Frame
from rephase.readers.dicom.geometry import Placement, place_frames
from rephase.readers.dicom.read import load_frames, load_values, place_magnitude, sources_of
from rephase.readers.dicom.select import split_volumes
from rephase.readers.volume import Volume


def read_dicom_phase(
    row: ManifestRow, volume: Volume, limit_bytes: int | None = None
) -> tuple[NDArray[np.float32], str]:
    """Read the phase volume that belongs to a row's magnitude.

    It has the magnitude's grid and echo time; of several such, that of the same acquisition time is taken.

    Parameters
    ----------
    row
        Its `phase` is a DICOM file or folder, which may be the magnitude's own; `path` is DICOM.
    volume
        The magnitude, as `read_dicom` gave it.
    limit_bytes
        As in `read_dicom`.

    Returns
    -------
    phase
        Radians in (-pi, pi], of the magnitude's shape.
    digest
        SHA-256 of the files, as `hash_dicom_phase` says it.

    Raises
    ------
    VolumeError
        `mismatch` where no phase fits, `ambiguous` where several do, `unsupported` where its scale is unknown.
    """
    placement = _place_phase(row)
    if placement.shape != volume.magnitude.shape:
        raise VolumeError("changed", f"{row.path}: changed while it was read; leave it alone and try again")
    loaded = load_values(placement, limit_bytes, str(row.phase))
    return _radians(loaded.values, placement, str(row.phase)), combine_digests(list(loaded.digests.values()))


def hash_dicom_phase(row: ManifestRow) -> str:
    """Say the SHA-256 of the phase that belongs to a row's magnitude, without decoding a pixel.

    Raises
    ------
    VolumeError
        As `read_dicom_phase`.
    """
    return combine_digests([hash_file(source) for source in sources_of(_place_phase(row))])


def _place_phase(row: ManifestRow) -> Placement:
    path = str(row.phase)
    magnitude = place_magnitude(row)
    candidates = [place for place in _phase_volumes(path, magnitude) if _fits(place, magnitude)]
    if len(candidates) > 1:
        when = _acquired(magnitude)
        candidates = [place for place in candidates if _acquired(place) == when] or candidates
    if not candidates:
        raise VolumeError(
            "mismatch", f"{path}: no phase with the grid and echo time of {row.path}; correct the column phase"
        )
    if len(candidates) > 1:
        raise VolumeError(
            "ambiguous", f"{path}: {len(candidates)} phase volumes fit {row.path}; put the right one alone in a folder"
        )
    return candidates[0]


def _radians(values: NDArray[np.float32], placement: Placement, name: str) -> NDArray[np.float32]:
    """Turn rescaled phase to radians in (-pi, pi]."""
    full_turn = _full_turn(placement.frames[0])
    reach = float(np.abs(values).max(initial=0.0))
    if full_turn is None and reach <= 1.002 * math.pi:
        full_turn = 2 * math.pi
    elif full_turn is None and 3000 <= reach <= 3143:
        full_turn = 2000 * math.pi
    if full_turn is None or reach > 0.52 * full_turn:
        raise VolumeError("unsupported", f"{name}: phase reaches {reach:g} in an unknown unit; expected a known one")
    angle = values.astype(np.float64) * (2 * math.pi / full_turn)
    turned = np.where(angle > math.pi, angle - 2 * math.pi, angle)
    turned = np.where(turned <= -math.pi, turned + 2 * math.pi, turned)
    # The float32 nearest to pi is larger than pi.
    return np.minimum(turned, np.nextafter(np.float32(math.pi), np.float32(0))).astype(np.float32)


def _full_turn(frame: Frame) -> float | None:
    """Width of 2 pi in rescaled values: from the unit, else where slope and intercept map all stored values on it."""
    if frame.unit in ("MRAD", "RAD"):
        return 2000 * math.pi if frame.unit == "MRAD" else 2 * math.pi
    bits = int(frame.facts.acquisition.get("bits_stored") or 0)
    width = abs(frame.slope) * 2.0**bits
    if frame.intercept < 0 and abs(width + 2 * frame.intercept) < 0.005 * width:
        return -2 * frame.intercept
    return None


def _phase_volumes(path: str, magnitude: Placement) -> list[Placement]:
    own = magnitude.frames[0].series
    by_series: dict[str, list[Frame]] = {}
    for frame in _readable_frames(path, own):
        if frame.kind == "phase" and frame.computed is None:
            by_series.setdefault(frame.series, []).append(frame)
    placements: list[Placement] = []
    for frames in by_series.values():
        try:
            placements += [place_frames(stack.frames, path, all_files=False) for stack in split_volumes(frames, path)]
        except VolumeError:
            if len(by_series) == 1:
                raise
    return placements


def _readable_frames(path: str, own_series: str) -> Sequence[Frame]:
    """Frames series by series, so that a file of no series spoils none; the magnitude's own series first."""
    sources, is_folder = list_sources(path)
    if not is_folder:
        return load_frames(path, None)[0]
    found = dict.fromkeys(uid for source in sources if (uid := read_series_uid(source)) is not None)
    frames: list[Frame] = []
    for uid in sorted(found, key=lambda uid: uid != own_series):
        try:
            frames += load_frames(path, uid)[0]
        except VolumeError:
            if uid == own_series:
                raise
    return frames


def _fits(phase: Placement, magnitude: Placement) -> bool:
    te_ms = (phase.frames[0].te_ms, magnitude.frames[0].te_ms)
    same_te = None in te_ms or abs((te_ms[0] or 0) - (te_ms[1] or 0)) < 1e-3
    return same_te and phase.shape == magnitude.shape and bool(np.allclose(phase.affine, magnitude.affine, atol=0.05))


def _acquired(placement: Placement) -> tuple[object, ...]:
    times = [frame.acquired for frame in placement.frames]
    steps = {frame.time for frame in placement.frames}
    return (min(times), min(steps, key=lambda step: step or 0))
