"""Find the measured phase of a DICOM magnitude, in the same object, the same folder or another one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom.files import combine_digests, hash_file, list_files, read_series_uid
from rephase.readers.dicom.frames import Frame
from rephase.readers.dicom.geometry import SliceStack, stack_frames
from rephase.readers.dicom.read import files_of, load_frames, load_values, stack_magnitude
from rephase.readers.dicom.select import split_volumes
from rephase.readers.volume import Volume


def read_dicom_phase(
    row: ManifestRow, volume: Volume, limit_bytes: int | None = None
) -> tuple[NDArray[np.float32], str]:
    """Read the phase volume that belongs to a row's magnitude.

    It has the grid and echo time of the magnitude; of several, the one with the same acquisition time is taken.

    Parameters
    ----------
    row
        Its `phase` is a DICOM file or folder, which may be the magnitude's own; `path` is DICOM.
    volume
        The magnitude, of `read_dicom`.
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
    stack = _stack_phase(row)
    if stack.shape != volume.magnitude.shape:
        raise VolumeError(
            "changed", f"{row.path}: changed while it was read; run again when no other program writes it"
        )
    loaded = load_values(stack, limit_bytes, str(row.phase))
    return _radians(loaded.values, stack, str(row.phase)), combine_digests(list(loaded.digests.values()))


def hash_dicom_phase(row: ManifestRow) -> str:
    """Return the SHA-256 of the phase of a row's magnitude, without decoding pixels.

    Raises
    ------
    VolumeError
        As `read_dicom_phase`.
    """
    return combine_digests([hash_file(file) for file in files_of(_stack_phase(row))])


def _stack_phase(row: ManifestRow) -> SliceStack:
    path = str(row.phase)
    magnitude = stack_magnitude(row)
    candidates = [stack for stack in _phase_volumes(path, magnitude) if _fits(stack, magnitude)]
    if len(candidates) > 1:
        when = _acquired(magnitude)
        candidates = [stack for stack in candidates if _acquired(stack) == when] or candidates
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


def _radians(values: NDArray[np.float32], stack: SliceStack, name: str) -> NDArray[np.float32]:
    """Turn rescaled phase to radians in (-pi, pi]."""
    cycle = _cycle(stack.frames[0])
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


def _cycle(frame: Frame) -> float | None:
    """Return 2 pi in rescaled values: from the unit, else where slope and intercept map all stored values on it."""
    if frame.unit in ("MRAD", "RAD"):
        return 2000 * math.pi if frame.unit == "MRAD" else 2 * math.pi
    bits = int(frame.facts.acquisition.get("bits_stored") or 0)
    width = abs(frame.slope) * 2.0**bits
    if frame.intercept < 0 and abs(width + 2 * frame.intercept) < 0.005 * width:
        return -2 * frame.intercept
    return None


def _phase_volumes(path: str, magnitude: SliceStack) -> list[SliceStack]:
    own = magnitude.frames[0].series
    by_series: dict[str, list[Frame]] = {}
    for frame in _readable_frames(path, own):
        if frame.kind == "phase" and frame.computed is None:
            by_series.setdefault(frame.series, []).append(frame)
    stacks: list[SliceStack] = []
    for frames in by_series.values():
        try:
            stacks += [stack_frames(volume.frames, path, all_files=False) for volume in split_volumes(frames, path)]
        except VolumeError:
            if len(by_series) == 1:
                raise
    return stacks


def _readable_frames(path: str, own_series: str) -> Sequence[Frame]:
    """Return the frames of all series that can be read, the magnitude's own series first."""
    files, is_folder = list_files(path)
    if not is_folder:
        return load_frames(path, None)[0]
    found = dict.fromkeys(uid for file in files if (uid := read_series_uid(file)) is not None)
    frames: list[Frame] = []
    for uid in sorted(found, key=lambda uid: uid != own_series):
        try:
            frames += load_frames(path, uid)[0]
        except VolumeError:
            if uid == own_series:
                raise
    return frames


def _fits(phase: SliceStack, magnitude: SliceStack) -> bool:
    te_ms = (phase.frames[0].te_ms, magnitude.frames[0].te_ms)
    same_te = None in te_ms or abs((te_ms[0] or 0) - (te_ms[1] or 0)) < 1e-3
    return same_te and phase.shape == magnitude.shape and bool(np.allclose(phase.affine, magnitude.affine, atol=0.05))


def _acquired(stack: SliceStack) -> tuple[object, ...]:
    times = [frame.acquired for frame in stack.frames]
    steps = {frame.time for frame in stack.frames}
    return (min(times), min(steps, key=lambda step: step or 0))
