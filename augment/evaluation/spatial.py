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
