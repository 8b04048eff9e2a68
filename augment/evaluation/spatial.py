"""Phase from pixel to pixel: wrapped gradients, structure function, residues, gradient through the slices.

Every statistic is circular (differences are taken of phasors) and counts only pixels of the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.physics.singularities import find_singularities
from rephase.evaluation.phase_volume import PhaseVolume

LAGS = (1, 2, 4, 8, 16, 32)
"""Distances of the structure function in pixels."""
BENDS = (1, 2, 4, 8, 16)
"""Distances of the curvature in pixels, from its middle to its ends."""
BLOCK = 8
"""Pixels a side of the parts of a slice whose steepness is compared."""
_QUANTILES = np.linspace(0.0005, 0.9995, 1000)


def gradient_quantiles(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """1,000 quantiles of the wrapped gradients along height and width, `(2 1000)`, in rad/mm."""
    return np.stack([_quantiles([_gradient(one, axis) for one in volumes]) for axis in (1, 2)])


def through_slice_quantiles(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """1,000 quantiles of the wrapped gradient from slice to slice in rad/mm; NaN without neighbouring slices."""
    return _quantiles([part for one in volumes for part in _through_slices(one)])


def structure_function(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """`1 - <cos(phase(x + r) - phase(x))>` for the `LAGS` r, mean of both directions; NaN beyond the matrix."""
    return _incoherence(volumes, LAGS, _difference)


def curvature_function(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """`1 - <cos(phase(x + r) - 2 phase(x) + phase(x - r))>` for the `BENDS` r, mean of both directions; NaN beyond.

    Phase that is linear over 2 r has none, whatever its slope: this tells waves from blotches, which the structure
    function cannot.
    """
    return _incoherence(volumes, BENDS, _second_difference)


def steepness_map(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Mean modulus of the wrapped gradient, in rad/mm, of all blocks of `BLOCK` pixels a side, flat.

    NaN where less than half of a block is in the object; rests at the ends of a slice are left out.
    """
    return np.concatenate([_steepness(one).ravel() for one in volumes])


def residue_density(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Phase singularities per 1,000 squares of four pixels of the object, `(1)`; NaN where there is none."""
    count = total = 0
    for one in volumes:
        singular, counted = find_singularities(torch.from_numpy(one.phasor), torch.from_numpy(one.support))
        count, total = count + int(singular.sum()), total + int(counted.sum())
    return np.array([1000.0 * count / total if total else np.nan])


def _incoherence(
    volumes: Sequence[PhaseVolume],
    lags: Sequence[int],
    product: Callable[[PhaseVolume, int, int], NDArray[np.complex64]],
) -> NDArray[np.float64]:
    """`1 - <Re p>` for every lag, p the products with that lag along both axes; NaN where there are none."""
    result = np.full(len(lags), np.nan)
    for index, lag in enumerate(lags):
        values = np.concatenate([product(one, lag, axis).real for one in volumes for axis in (1, 2)])
        if values.size:
            result[index] = 1.0 - values.mean(dtype=np.float64)
    return result


def _difference(volume: PhaseVolume, lag: int, axis: int) -> NDArray[np.complex64]:
    """`z(x + lag) conj z(x)` where both pixels are in the object, flat."""
    near, far = _along(volume.phasor, lag, axis, 2)
    product: NDArray[np.complex64] = (far * near.conj())[_inside(volume, lag, axis, 2)]
    return product


def _second_difference(volume: PhaseVolume, lag: int, axis: int) -> NDArray[np.complex64]:
    """`z(x + lag) conj z(x)^2 z(x - lag)` where the three pixels are in the object, flat."""
    before, middle, after = _along(volume.phasor, lag, axis, 3)
    product: NDArray[np.complex64] = (after * middle.conj() ** 2 * before)[_inside(volume, lag, axis, 3)]
    return product


def _inside(volume: PhaseVolume, lag: int, axis: int, count: int) -> NDArray[np.bool_]:
    """Where pixel and those after it, as `_along` gives them, are in the object."""
    inside: NDArray[np.bool_] = np.logical_and.reduce(_along(volume.support, lag, axis, count))
    return inside


def _along(image: NDArray[Any], lag: int, axis: int, count: int) -> list[NDArray[Any]]:
    """`count` parts of an image of one shape, each `lag` pixels further along the axis; empty where they do not fit."""
    length = max(image.shape[axis] - (count - 1) * lag, 0)
    before = (slice(None),) * axis
    return [image[(*before, slice(start, start + length))] for start in range(0, count * lag, lag)]


def _gradient(volume: PhaseVolume, axis: int) -> NDArray[np.float32]:
    gradient: NDArray[np.float32] = np.angle(_difference(volume, 1, axis)) / volume.spacing_mm[axis]
    return gradient


def _steepness(volume: PhaseVolume) -> NDArray[np.float64]:
    """One volume's blocks, `(slice rows columns)`."""
    total, counted = np.zeros(1), np.zeros(1)
    for axis in (1, 2):
        near, far = _along(volume.phasor, 1, axis, 2)
        inside = _inside(volume, 1, axis, 2)
        step = np.abs(np.angle(far * near.conj())) * inside / volume.spacing_mm[axis]
        ends = [(0, int(axis == other)) for other in range(3)]
        total = total + _block_sums(np.pad(step, ends))
        counted = counted + _block_sums(np.pad(inside, ends))
    # a block has two steps a pixel, one along each axis
    return np.where(counted >= BLOCK**2, total / np.maximum(counted, 1.0), np.nan)


def _block_sums(values: NDArray[Any]) -> NDArray[np.float64]:
    """Sums over the blocks of every slice."""
    rows, columns = (size // BLOCK for size in values.shape[1:])
    parts = values[:, : rows * BLOCK, : columns * BLOCK].reshape(len(values), rows, BLOCK, columns, BLOCK)
    sums: NDArray[np.float64] = parts.sum(axis=(2, 4), dtype=np.float64)
    return sums


def _through_slices(volume: PhaseVolume) -> Iterator[NDArray[np.float32]]:
    for near in range(len(volume.slices) - 1):
        far = near + 1
        if volume.slices[far] - volume.slices[near] == 1:
            inside = volume.support[far] & volume.support[near]
            product = (volume.phasor[far] * volume.phasor[near].conj())[inside]
            yield np.angle(product) / volume.spacing_mm[0]


def _quantiles(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    values = np.concatenate(parts) if parts else np.empty(0, np.float32)
    if not values.size:
        return np.full(len(_QUANTILES), np.nan)
    quantiles: NDArray[np.float64] = np.quantile(values.astype(np.float64), _QUANTILES)
    return quantiles
