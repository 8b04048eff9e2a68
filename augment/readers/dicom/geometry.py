"""Sort the slices of a DICOM volume and compute its geometry."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.readers.dicom.frames import Frame
from rephase.readers.volume import PhaseEncode

_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))  # towards the negative and the positive end of the LPS axes


@dataclass(frozen=True)
class SliceStack:
    """Frames in slice order, and the geometry of their (slice, height, width) array as in `Volume`."""

    frames: tuple[Frame, ...]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: tuple[tuple[float, float, float, float], ...]
    orientation: str
    transposed: bool
    phase_encode: PhaseEncode


def stack_frames(frames: Sequence[Frame], name: str, *, all_files: bool = True) -> SliceStack:
    """Sort the frames of one volume along the slice normal and check that they form a regular stack.

    Parameters
    ----------
    frames
        Of one volume: parallel, of one matrix.
    name
        For messages.
    all_files
        Whether the frames should be complete: a number of slices in the header must then be reached.

    Raises
    ------
    VolumeError
        `incomplete` where slices are missing or unevenly spaced.
    """
    ordered = tuple(sorted(frames, key=lambda frame: frame.depth_mm))
    first = ordered[0]
    if all_files and first.num_expected is not None and len(ordered) < first.num_expected:
        found = f"{len(ordered)} slices; expected {first.num_expected} by the header"
        raise VolumeError("incomplete", f"{name}: {found}; copy the series again")
    step = _slice_step(ordered, name)
    down = np.multiply(first.column_direction, first.spacing_mm[0])
    right = np.multiply(first.row_direction, first.spacing_mm[1])
    transposed = first.facts.phase_encode == "column"
    height, width = (right, down) if transposed else (down, right)
    sizes = (first.columns, first.rows) if transposed else (first.rows, first.columns)
    between_mm = abs(float(np.dot(step, first.normal)))
    return SliceStack(
        frames=ordered,
        shape=(len(ordered), *sizes),
        spacing_mm=(between_mm, float(np.linalg.norm(height)), float(np.linalg.norm(width))),
        affine=_affine(step, height, width, np.asarray(first.position)),
        orientation=_orientation(np.stack([step, height, width])),
        transposed=transposed,
        phase_encode=first.facts.phase_encode,
    )


def _slice_step(frames: Sequence[Frame], name: str) -> NDArray[np.float64]:
    first, last = frames[0], frames[-1]
    if len(frames) == 1:
        return np.multiply(first.normal, first.thickness_mm)
    depths = np.array([frame.depth_mm for frame in frames])
    _check_regular(depths, name)
    step: NDArray[np.float64] = np.subtract(last.position, first.position) / (len(frames) - 1)
    positions = np.array([frame.position for frame in frames])
    off_mm = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(frames)), step), axis=1).max()
    if off_mm > max(first.spacing_mm) + 0.3 * float(np.linalg.norm(step)):
        raise VolumeError(
            "unsupported",
            f"{name}: slices lie up to {off_mm:.1f} mm off a straight line; expected one straight stack; split it",
        )
    return step


def _check_regular(depths: NDArray[np.float64], name: str) -> None:
    """Check that steps are equal; a step of about n times the smallest means n - 1 missing slices."""
    steps = np.diff(depths)
    smallest = float(steps.min())
    gaps = np.flatnonzero(steps > 1.5 * smallest)
    if gaps.size:
        at = int(gaps[0])
        missing = int(sum(round(float(steps[gap]) / smallest) - 1 for gap in gaps))
        raise VolumeError(
            "incomplete",
            f"{name}: {missing} of {len(depths) + missing} slices missing, first between {depths[at]:.2f} and "
            f"{depths[at + 1]:.2f} mm (spacing {smallest:.2f} mm); copy the series again",
        )
    if float(steps.max()) > 1.1 * smallest:
        raise VolumeError(
            "incomplete",
            f"{name}: slices {smallest:.2f} to {float(steps.max()):.2f} mm apart; expected equal distances; "
            "copy the series again",
        )


def _affine(*columns: NDArray[np.float64]) -> tuple[tuple[float, float, float, float], ...]:
    matrix = np.vstack([np.stack(columns, axis=1), [0.0, 0.0, 0.0, 1.0]])
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in matrix)


def _orientation(directions: NDArray[np.float64]) -> str:
    """Return the letters of the nearest patient axes; each axis is used once, so oblique stacks work too."""
    cosines = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    best = max(itertools.permutations(range(3)), key=lambda axes: sum(abs(cosines[i, a]) for i, a in enumerate(axes)))
    return "".join(_LETTERS[axis][int(cosines[i, axis] > 0)] for i, axis in enumerate(best))
