"""Phase from pixel to pixel: wrapped gradients, structure function, residues, gradient through the slices.

Every statistic is circular (differences are taken of phasors) and counts only pixels of the object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from augment.evaluation.phase_volume import PhaseVolume
from diffusion.singularities import find_singularities

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
    result = np.full(len(LAGS), np.nan)
    for index, lag in enumerate(LAGS):
        parts = [_difference(one, lag, axis).real for one in volumes for axis in (1, 2) if lag < one.phasor.shape[axis]]
        values = np.concatenate(parts) if parts else np.empty(0, np.float32)
        if values.size:
            result[index] = 1.0 - values.mean(dtype=np.float64)
    return result


def curvature_function(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """`1 - <cos(phase(x + r) - 2 phase(x) + phase(x - r))>` for the `BENDS` r, mean of both directions; NaN beyond.

    Phase that is linear over 2 r has none, whatever its slope: this tells waves from blotches, which the structure
    function cannot.
    """
    result = np.full(len(BENDS), np.nan)
    for index, lag in enumerate(BENDS):
        sizes = [(one, axis) for one in volumes for axis in (1, 2) if 2 * lag < one.phasor.shape[axis]]
        parts = [_second_difference(one, lag, axis).real for one, axis in sizes]
        values = np.concatenate(parts) if parts else np.empty(0, np.float32)
        if values.size:
            result[index] = 1.0 - values.mean(dtype=np.float64)
    return result


def steepness_map(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Mean modulus of the wrapped gradient, in rad/mm, of all blocks of `BLOCK` pixels a side, flat.

    NaN where less than half of a block is in the object; rests at the ends of a slice are left out.
    """
    return np.concatenate([_blocks(one).ravel() for one in volumes])


def residue_density(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Phase singularities per 1,000 squares of four pixels of the object, `(1)`; NaN where there is none."""
    count = total = 0
    for one in volumes:
        singular, counted = find_singularities(torch.from_numpy(one.phasor), torch.from_numpy(one.support))
        count, total = count + int(singular.sum()), total + int(counted.sum())
    return np.array([1000.0 * count / total if total else np.nan])


def _difference(volume: PhaseVolume, lag: int, axis: int) -> NDArray[np.complex64]:
    """`z(x + lag) conj z(x)` where both pixels are in the object, flat."""
    phasor, support = volume.phasor, volume.support
    size = phasor.shape[axis]
    far, near = (np.take(phasor, range(*part), axis) for part in ((lag, size), (0, size - lag)))
    inside = np.take(support, range(lag, size), axis) & np.take(support, range(0, size - lag), axis)
    product: NDArray[np.complex64] = (far * near.conj())[inside]
    return product


def _blocks(volume: PhaseVolume) -> NDArray[np.float64]:
    """One volume's steepness, `(slice rows columns)`."""
    steps = [_steps(volume, axis) for axis in (1, 2)]
    total = sum(_block_sums(np.where(inside, np.abs(step), 0.0)) for step, inside in steps)
    counted = sum(_block_sums(inside.astype(np.float64)) for _, inside in steps)
    # a block has two steps a pixel, one along each axis
    return np.where(counted >= BLOCK**2, total / np.maximum(counted, 1.0), np.nan)


def _steps(volume: PhaseVolume, axis: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The wrapped gradient to the next pixel in rad/mm, and where both are in the object; of the volume's shape."""
    size = volume.phasor.shape[axis]
    ends = [(0, int(other == axis)) for other in range(3)]
    far, near = (np.take(volume.phasor, range(*part), axis) for part in ((1, size), (0, size - 1)))
    inside = np.take(volume.support, range(1, size), axis) & np.take(volume.support, range(size - 1), axis)
    step = np.angle(far * near.conj()).astype(np.float64) / volume.spacing_mm[axis]
    return np.pad(step, ends), np.pad(inside, ends)


def _block_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over the blocks of every slice."""
    rows, columns = (size // BLOCK for size in values.shape[1:])
    parts = values[:, : rows * BLOCK, : columns * BLOCK].reshape(len(values), rows, BLOCK, columns, BLOCK)
    sums: NDArray[np.float64] = parts.sum(axis=(2, 4))
    return sums


def _second_difference(volume: PhaseVolume, lag: int, axis: int) -> NDArray[np.complex64]:
    """`z(x + lag) conj z(x)^2 z(x - lag)` where the three pixels are in the object, flat."""
    size = volume.phasor.shape[axis]
    places = [range(start, start + size - 2 * lag) for start in (0, lag, 2 * lag)]
    before, middle, after = (np.take(volume.phasor, place, axis) for place in places)
    inside = np.logical_and.reduce([np.take(volume.support, place, axis) for place in places])
    product: NDArray[np.complex64] = (after * middle.conj() ** 2 * before)[inside]
    return product


def _gradient(volume: PhaseVolume, axis: int) -> NDArray[np.float32]:
    gradient: NDArray[np.float32] = np.angle(_difference(volume, 1, axis)) / volume.spacing_mm[axis]
    return gradient


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
