"""Place an array of coils around the object of one volume: coefficients in the volume's own axes.

Position, rotation, size and loading are drawn per volume by counter-based random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rephase.diffusion.generators import SliceKey
from rephase.diffusion.noise import Stream, uniform, volume_key
from rephase.errors import VolumeError
from rephase.scanner.arrays import ARRAYS, BANK, HEAD_PERIOD_MM, MOST_COILS, array_for, split_coils
from rephase.scanner.bank import CoilBank, head_coils
from rephase.scanner.harmonics import evaluate, fit, index_positions
from rephase.scanner.loops import LoopArray

SHIFT_MM, TURN_DEG, SIZE, GAIN = 6.0, 4.0, 0.04, 0.12
"""Standard deviations of the array's position and rotation about each axis, of its relative size and of the logarithm
of a coil's gain, which changes with the load of the coil."""

_TYPICAL_FIELD_T = 3.0
_POINTS = 9
"""Points per axis at which the maps are fitted."""

_OUTSIDE = 0.02
"""Weight of the fit outside the object, where maps are arbitrary but must not vanish."""


@dataclass(frozen=True)
class ObjectGeometry:
    """Where the object of a volume is.

    Attributes
    ----------
    shape
        Slices, height, width.
    affine
        Index (slice, height, width, 1) to LPS mm, as 4 x 4.
    centre_mm, half_mm
        Centre and half axes of the object along x, y and z (LPS).
    centre_index, half_index
        The same along (slice, height, width), in indices.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    centre_mm: tuple[float, float, float]
    half_mm: tuple[float, float, float]
    centre_index: tuple[float, float, float]
    half_index: tuple[float, float, float]

    @classmethod
    def of(cls, support: NDArray[np.bool_], affine: Sequence[Sequence[float]]) -> ObjectGeometry:
        """Measure the object of a support `(slice height width)`; an empty one counts as full."""
        matrix = np.asarray(affine, np.float64)
        depth, height, width = (int(size) for size in support.shape)
        # counts along the axes: exact, so that they depend on no library
        profiles = [support.sum(axis=(1, 2)), support.sum(axis=(0, 2)), support.sum(axis=(0, 1))]
        ends = np.array([_ends(profile) for profile in profiles], np.float64)
        centre, half = ends.mean(axis=1), (ends[:, 1] - ends[:, 0] + 1) / 2
        centre_mm = matrix[:3, :3] @ centre + matrix[:3, 3]
        half_mm = np.sqrt(np.square(matrix[:3, :3] * half).sum(axis=1))
        return cls((depth, height, width), matrix, _triple(centre_mm), _triple(half_mm), _triple(centre), _triple(half))


@dataclass(frozen=True)
class PlacedCoils:
    """Coils of one volume.

    Attributes
    ----------
    coefficients
        complex64 `(coil 5 5 5)`, for `rephase.scanner.expand`.
    facts
        JSON facts for the receipt: the array and what was drawn.
    """

    coefficients: NDArray[np.complex64]
    facts: dict[str, Any]


def place_coils(
    coils: str,
    bank: CoilBank | None,
    geometry: ObjectGeometry,
    anatomy: str | None,
    field_t: float | None,
    key: SliceKey,
) -> PlacedCoils:
    """Place coils around an object.

    Parameters
    ----------
    coils, bank
        Value of `--coils`, and the bank that it names.
    geometry, anatomy, field_t
        Of the volume; None if unknown.
    key
        Of any slice of the volume.

    Raises
    ------
    VolumeError
        `unsupported`: the object is larger than the field of view of the array.
    """
    u = uniform(volume_key(key), Stream.COILS, 16 + 4 * MOST_COILS).to(torch.float64)
    normal = torch.sqrt(-2 * torch.log1p(-u[0::2])) * torch.cos(2 * math.pi * u[1::2])
    shift, turn = SHIFT_MM * normal[:3], TURN_DEG * normal[3:6]
    size = 1 + SIZE * float(normal[6].clamp(-2, 2))
    index, points = _grid(geometry)
    weights = _weights(index, geometry)
    facts: dict[str, Any] = {}
    if coils.startswith(BANK):
        if bank is None:
            raise ValueError(f"{coils}: the bank was not read")
        which = int(float(u[14]) * len(bank.coefficients))
        values = _from_bank(bank, which, index, geometry, shift, turn, size)
        name, facts = "bank", {"array_of_bank": which}
    else:
        named, count = split_coils(coils)
        name = named or array_for(anatomy)
        array = ARRAYS[name]
        if count > array.most:
            raise VolumeError(
                "unsupported", f"{count} coils; expected at most {array.most} for the array {name}; ask for fewer"
            )
        _check_reach(geometry.half_mm, (array.reach_mm,) * 3, f"the array {name}", "x, y and z")
        local = ((points - torch.tensor(geometry.centre_mm) - shift) @ _rotation(turn)) / size
        if array.reach_mm is not None:
            values = evaluate(head_coils(count), local / HEAD_PERIOD_MM)
        else:
            loops = LoopArray(array.gap_mm, array.most_per_ring)
            values = loops.sensitivities(count, geometry.half_mm, local, field_t or _TYPICAL_FIELD_T)
    count = len(values)
    values = values * torch.polar(torch.exp(GAIN * normal[8 : 8 + count]), 2 * math.pi * u[-count:])[:, None]
    mean = (weights * values.abs().square().sum(dim=0)).sum() / weights.sum()
    positions = torch.stack(
        [index_positions(size)[index[:, axis].long()] for axis, size in enumerate(geometry.shape)], dim=1
    )
    coefficients = fit(values / mean.sqrt(), positions, weights).numpy()
    facts |= {
        "array": name,
        "count": count,
        "shift_mm": [round(float(value), 3) for value in shift],
        "turn_deg": [round(float(value), 3) for value in turn],
        "size": round(size, 4),
    }
    return PlacedCoils(coefficients, facts)


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _ends(profile: NDArray[Any]) -> tuple[int, int]:
    """Return the first and last index between which 99 % of a profile lie; all of an empty one."""
    total = np.cumsum(profile)
    if not total[-1]:
        return 0, len(profile) - 1
    first, last = np.searchsorted(total, [0.005 * total[-1], 0.995 * total[-1]])
    return int(first), int(last)


def _grid(geometry: ObjectGeometry) -> tuple[Tensor, Tensor]:
    """Return points of the volume as indices and in LPS mm, float64 `(point 3)`."""
    axes = [np.unique(np.round(np.linspace(0, size - 1, min(size, _POINTS)))) for size in geometry.shape]
    index = np.stack([one.reshape(-1) for one in np.meshgrid(*axes, indexing="ij")], axis=1)
    # term by term: the sum of a matrix product depends on the library
    points = geometry.affine[:3, 3] + sum(index[:, axis, None] * geometry.affine[:3, axis] for axis in range(3))
    return torch.from_numpy(index), torch.from_numpy(points)


def _weights(index: Tensor, geometry: ObjectGeometry) -> Tensor:
    centre, half = torch.tensor(geometry.centre_index), torch.tensor(geometry.half_index)
    inside = (((index - centre) / (1.1 * half)).square().sum(dim=1) <= 1).to(torch.float64)
    return inside + _OUTSIDE


def _rotation(turn_deg: Tensor) -> Tensor:
    """Return the matrix whose product from the right turns rows back by three angles about x, y and z."""
    matrix = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(torch.deg2rad(turn_deg).tolist()):
        one = torch.eye(3, dtype=torch.float64)
        i, j = [other for other in range(3) if other != axis]
        one[i, i] = one[j, j] = math.cos(angle)
        one[i, j], one[j, i] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ one
    return matrix


def _check_reach(half_mm: Sequence[float], reach_mm: Sequence[float | None], what: str, axes: str) -> None:
    found = [2 * half for half in half_mm]
    if any(reach is not None and one > reach for one, reach in zip(found, reach_mm, strict=True)):
        shown = (" x ".join(f"{value:.0f}" for value in values if value is not None) for values in (found, reach_mm))
        raise VolumeError(
            "unsupported",
            f"the object measures {next(shown)} mm along {axes}; expected at most {next(shown)} mm, the field of view "
            f"of {what}; use coils of another field of view, such as body16",
        )


def _from_bank(
    bank: CoilBank, which: int, index: Tensor, geometry: ObjectGeometry, shift: Tensor, turn: Tensor, size: float
) -> Tensor:
    """Evaluate an array of a bank, whose axes are (slice, height, width), around the centre of the object."""
    spacing = np.linalg.norm(geometry.affine[:3, :3], axis=0)
    half_mm = [half * float(step) for half, step in zip(geometry.half_index, spacing, strict=True)]
    _check_reach(half_mm, bank.reach_mm[which].tolist(), "the bank", "slice, height and width")
    away = (index - torch.tensor(geometry.centre_index)) * torch.from_numpy(spacing)
    local = ((away - shift) @ _rotation(turn)) / size
    return evaluate(torch.from_numpy(bank.coefficients[which]), local / torch.from_numpy(bank.period_mm[which]))
