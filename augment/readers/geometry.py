"""Bring arrays from the axes of a file to those of the corpus by permutation and flips, never by resampling.

Coordinates are LPS: x increases to the patient's left, y to posterior, z to superior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.facts import known_facts
from rephase.manifests.record import ManifestRow
from rephase.readers.volume import PhaseEncode, Volume

Affine = NDArray[np.float64]
FrozenAffine = tuple[tuple[float, float, float, float], ...]

# how DICOM displays a plane, by the axis of its normal (x, y, z): directions of increasing width and height
_DISPLAYED = {
    0: ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),  # sagittal: to posterior, to inferior
    1: ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),  # coronal: to left, to inferior
    2: ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),  # axial: to left, to posterior
}
_LETTERS = ("RL", "AP", "IS")
_CLEARLY_LARGER = 1.2
_NEARLY_PARALLEL = 0.85


@dataclass(frozen=True)
class Arrangement:
    """Which axes of a file become slice, height and width, which of them are flipped, and the resulting geometry."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    affine: FrozenAffine
    spacing_mm: tuple[float, float, float]
    orientation: str
    transposed: bool
    phase_encode: PhaseEncode

    def arrange(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array of the file's three axes as a view (slice, height, width)."""
        return permute(array, self.axes, self.flips)

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Return the shape of `arrange` for an array of this shape."""
        num_slices, height, width = (int(shape[axis]) for axis in self.axes)
        return num_slices, height, width


def permute(array: NDArray[Any], axes: Sequence[int], flips: Sequence[bool]) -> NDArray[Any]:
    """Return a view, transposed and then flipped along the new axes."""
    return array.transpose(axes)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def arrange_axes(affine: Affine, shape: Sequence[int], slice_axis: int, phase_axis: int | None = None) -> Arrangement:
    """Compute the display order of a volume.

    Parameters
    ----------
    affine
        4 x 4: index of the file's array to LPS mm; not singular.
    shape
        Shape of the file's array, three sizes.
    slice_axis, phase_axis
        Axes of the file's array; `phase_axis` is None if unknown.

    Returns
    -------
    arrangement
        In plane as DICOM displays the nearest of the three main planes; slices increase along width x height. Height
        and width are exchanged if phase was encoded along the displayed columns.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    first, second = (axis for axis in range(3) if axis != slice_axis)
    normal = np.cross(directions[:, first], directions[:, second])
    to_width, to_height = (np.array(v) for v in _DISPLAYED[int(np.argmax(np.abs(normal)))])
    along = np.abs(directions.T @ np.stack([to_width, to_height], axis=1))
    straight = along[first, 0] + along[second, 1] >= along[second, 0] + along[first, 1]
    width_axis, height_axis = (first, second) if straight else (second, first)
    flip_width = bool(directions[:, width_axis] @ to_width < 0)
    flip_height = bool(directions[:, height_axis] @ to_height < 0)
    grown = np.cross(_flipped(directions[:, width_axis], flip_width), _flipped(directions[:, height_axis], flip_height))
    flip_slice = bool(directions[:, slice_axis] @ grown < 0)
    axes, flips = (slice_axis, height_axis, width_axis), (flip_slice, flip_height, flip_width)
    known = phase_axis is not None and phase_axis != slice_axis
    transposed = known and phase_axis == height_axis
    if transposed:
        axes, flips = (axes[0], axes[2], axes[1]), (flips[0], flips[2], flips[1])
    phase_encode: PhaseEncode = "assumed" if not known else "column" if transposed else "row"
    return arrangement_of(affine, shape, axes, flips, transposed, phase_encode)


def _flipped(direction: NDArray[np.float64], flip: bool) -> NDArray[np.float64]:
    return -direction if flip else direction


def arrangement_of(
    affine: Affine,
    shape: Sequence[int],
    axes: tuple[int, int, int],
    flips: tuple[bool, bool, bool],
    transposed: bool,
    phase_encode: PhaseEncode,
) -> Arrangement:
    """Return the arrangement that takes these axes of the file as slice, height and width, and flips these of them."""
    moved = np.eye(4)
    moved[:3, :3] = affine[:3, list(axes)]
    moved[:3, 3] = affine[:3, 3]
    for new, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        if flip:
            moved[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            moved[:3, new] *= -1
    lengths = np.linalg.norm(moved[:3, :3], axis=0)
    return Arrangement(
        axes=axes,
        flips=flips,
        affine=freeze_affine(moved),
        spacing_mm=(float(lengths[0]), float(lengths[1]), float(lengths[2])),
        orientation=orientation_of(moved),
        transposed=transposed,
        phase_encode=phase_encode,
    )


def as_displayed(
    shape: Sequence[int],
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    slice_axis: int = 0,
    phase_encode: PhaseEncode = "assumed",
) -> Arrangement:
    """Return the arrangement of an array without an affine: rows and columns as displayed, slices assumed axial.

    Parameters
    ----------
    shape
        Shape of the file's array: the slice axis at any position, height before width.
    spacing_mm
        Along (slice, height, width).
    slice_axis, phase_encode
        From other sources, if known. The array is not transposed.
    """
    height_axis, width_axis = (axis for axis in range(3) if axis != slice_axis)
    affine = np.zeros((4, 4))
    affine[2, slice_axis], affine[1, height_axis], affine[0, width_axis] = spacing_mm
    affine[3, 3] = 1
    return arrangement_of(affine, shape, (slice_axis, height_axis, width_axis), (False,) * 3, False, phase_encode)


def orientation_of(affine: Affine) -> str:
    """Return the patient direction in which each index of an affine increases: three letters of RL, AP, IS."""
    letters = ""
    for column in affine[:3, :3].T:
        axis = int(np.argmax(np.abs(column)))
        letters += _LETTERS[axis][int(column[axis] > 0)]
    return letters


def choose_slice_axis(given: int | None, header: int | None, shape: Sequence[int], spacing_mm: Sequence[float]) -> int:
    """Return the slice axis: the manifest's, the header's, the only one of size 1, of the largest spacing, the last."""
    stated = _stated_axis(given, header, shape, spacing_mm)
    return 2 if stated is None else stated


def is_chosen(given: int | None, header: int | None, shape: Sequence[int], spacing_mm: Sequence[float]) -> bool:
    """Check whether `choose_slice_axis` takes the last axis because nothing states the slice axis."""
    return _stated_axis(given, header, shape, spacing_mm) is None


def _stated_axis(
    given: int | None, header: int | None, shape: Sequence[int], spacing_mm: Sequence[float]
) -> int | None:
    if given is not None:
        return given
    if header is not None:
        return header
    single = [axis for axis in range(3) if shape[axis] == 1]
    if len(single) == 1:
        return single[0]
    order = np.argsort(spacing_mm)
    return int(order[2]) if spacing_mm[order[2]] > _CLEARLY_LARGER * spacing_mm[order[1]] else None


def axis_along(affine: Affine, normal: Sequence[float]) -> int | None:
    """Return the axis of a file's array that runs along a direction of the patient (LPS); None if none does."""
    length = np.linalg.norm(normal)
    if not 0 < length < np.inf:
        return None
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    along = np.abs(directions.T @ (np.asarray(normal) / length))
    return int(np.argmax(along)) if along.max() > _NEARLY_PARALLEL else None


_LEAST_MM, _MOST_IN_PLANE_MM, _MOST_BETWEEN_SLICES_MM = 0.01, 20.0, 150.0
_UNITS = {"meter": (1000.0, "metres"), "mm": (1.0, "millimetres"), "micron": (1e-3, "micrometres")}


def check_plausible(spacing_mm: Sequence[float], where: str, stated_unit: str | None = None) -> None:
    """Check that the spacing (slice, height, width) may be that of an image of a person or an animal.

    Parameters
    ----------
    spacing_mm
        Of the volume.
    where
        Name of the file, for messages.
    stated_unit
        A key of `_UNITS` if the header states the unit of its numbers.

    Raises
    ------
    VolumeError
        `unreadable`, with the likely reason.
    """
    if _is_plausible(spacing_mm):
        return
    stated, word = _UNITS.get(stated_unit or "", (1.0, ""))
    others = [
        unit for factor, unit in _UNITS.values() if _is_plausible([step * factor / stated for step in spacing_mm])
    ]
    found = f"its header states {word}, but the numbers" if word else "the numbers"
    reason = f"{found} are likely {others[0]}; correct the unit in the header" if others else "correct the header"
    raise VolumeError(
        "unreadable",
        f"{where}: has voxels of {' x '.join(f'{step:g}' for step in spacing_mm)} mm (slice, height, width); expected "
        f"{_LEAST_MM:g} to {_MOST_IN_PLANE_MM:g} mm in plane and up to {_MOST_BETWEEN_SLICES_MM:g} mm between slices; "
        f"{reason}",
    )


def _is_plausible(spacing_mm: Sequence[float]) -> bool:
    between, *in_plane = spacing_mm
    finite = all(np.isfinite(step) and step >= _LEAST_MM for step in spacing_mm)
    return finite and max(in_plane) <= _MOST_IN_PLANE_MM and between <= _MOST_BETWEEN_SLICES_MM


def match_grid(
    affine: Affine, shape: Sequence[int], volume_affine: FrozenAffine, volume_shape: Sequence[int], where: str
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Find the permutation and flips that bring an associated file onto the grid of a volume.

    Parameters
    ----------
    affine, shape
        Affine and shape of the associated file's array.
    volume_affine, volume_shape
        Affine and shape of the volume in the corpus's axes.
    where
        Name of the associated file, for messages.

    Raises
    ------
    VolumeError
        `mismatch` if its voxels are not a permutation of those of the volume.
    """
    step = np.linalg.inv(np.array(volume_affine)) @ affine
    nearest = np.rint(step[:3, :3])
    axes = tuple(int(axis) for axis in np.argmax(np.abs(nearest), axis=1))
    is_permutation = sorted(axes) == [0, 1, 2] and np.abs(nearest).sum() == 3
    # headers are rounded: allow a tenth of a voxel over the length of the volume
    aligned = bool(np.all(np.abs(step[:3, :3] - nearest) * np.array(shape) < 0.1))
    if not (is_permutation and aligned) or [shape[axis] for axis in axes] != list(volume_shape):
        found = f"{where}: has shape {tuple(shape)} on another grid"
        raise VolumeError(
            "mismatch",
            f"{found}; expected the voxels of the magnitude, {tuple(volume_shape)} (slice, height, width); "
            "align the files",
        )
    flips = tuple(bool(nearest[new, axis] < 0) for new, axis in enumerate(axes))
    corner = step[:3, 3] - np.array([size - 1 if flip else 0 for size, flip in zip(volume_shape, flips, strict=True)])
    if np.abs(corner).max() > 0.1:
        raise VolumeError(
            "mismatch",
            f"{where}: is shifted by {np.round(corner, 2).tolist()} voxels; expected the grid of the magnitude; "
            "align them",
        )
    return (axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2])


def freeze_affine(affine: Affine) -> FrozenAffine:
    """Return a 4 x 4 array as tuples of Python numbers, without negative zeros."""
    rows = (affine + 0.0).tolist()
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in rows)


def arranged_volume(
    row: ManifestRow,
    values: NDArray[np.float32],
    phase: NDArray[np.float32] | None,
    arrangement: Arrangement,
    digest: str,
    acquisition: dict[str, Any],
) -> Volume:
    """Return the volume of a magnitude and its phase as stored, with the facts of the manifest row."""
    return Volume(
        magnitude=_contiguous(arrangement.arrange(values)),
        spacing_mm=arrangement.spacing_mm,
        affine=arrangement.affine,
        orientation=arrangement.orientation,
        transposed=arrangement.transposed,
        phase_encode=arrangement.phase_encode,
        source_sha256=digest,
        phase=None if phase is None else _contiguous(arrangement.arrange(phase)),
        **known_facts(row),
        acquisition=acquisition,
    )


def _contiguous(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a contiguous array. `ascontiguousarray` keeps negative strides of axes of length 1; torch rejects them."""
    return values.copy() if min(values.strides) < 0 else np.ascontiguousarray(values)
