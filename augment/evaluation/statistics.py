"""Statistics of a real or generated phase over the object: between pixels, and over the circle.

Every statistic is circular (differences are computed from phasors) and uses only pixels of the object. Functions take
the volumes of a session, which are pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.physics.gauge import fix_gauge
from rephase.diffusion.physics.singularities import find_singularities

LAGS = (1, 2, 4, 8, 16, 32)
"""Distances of the structure function in pixels."""
NEAR_LAGS = LAGS[:5]
"""Those up to 16 pixels, over which the estimated ramp is reliable."""
BENDS = (1, 2, 4, 8, 16)
"""Distances of the curvature in pixels, from its middle to its ends."""
BLOCK = 8
"""Side of a block of `steepness_map`, pixels."""
_QUANTILES = np.linspace(0.0005, 0.9995, 1000)
NUM_BINS = 72
"""Bins of `phase_density`."""


@dataclass(frozen=True)
class PhaseVolume:
    """Slices of a volume with a phase, real or generated.

    Attributes
    ----------
    phasor
        Unit-modulus phase, complex64 `(slice height width)`.
    magnitude, support
        float32 and bool of the same shape; the support is that of the entire volume.
    spacing_mm
        Along (slice, height, width).
    slices
        Indices of the slices in their volume, ascending; neighbouring slices differ by one.
    """

    phasor: NDArray[np.complex64]
    magnitude: NDArray[np.float32]
    support: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    slices: tuple[int, ...]

    def with_phasor(self, phasor: NDArray[np.complex64]) -> PhaseVolume:
        """Return the same slices with another phase."""
        if phasor.shape != self.phasor.shape:
            raise ValueError(f"phasor {phasor.shape}: expected {self.phasor.shape}, as the magnitude")
        return replace(self, phasor=phasor)

    @cached_property
    def image(self) -> NDArray[np.complex64]:
        """Complex images without global and linear phase, which differ from scan to scan."""
        fixed: NDArray[np.complex64] = fix_gauge(torch.from_numpy(self.magnitude * self.phasor)).numpy()
        return fixed

    @cached_property
    def fixed_phasor(self) -> NDArray[np.complex64]:
        """Phase of `image` as phasors; 1 where the magnitude is zero."""
        phasor: NDArray[np.complex64] = np.exp(1j * np.angle(self.image)).astype(np.complex64)
        return phasor

    @cached_property
    def without_gauge(self) -> PhaseVolume:
        """The same slices without global and linear phase."""
        return self.with_phasor(self.fixed_phasor)


def gradient_quantiles(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return 1,000 quantiles of the wrapped gradients along height and width, `(2 1000)`, in rad/mm."""
    return np.stack([_quantiles([_gradient(one, axis) for one in volumes]) for axis in (1, 2)])


def through_slice_quantiles(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return 1,000 quantiles of the wrapped gradient between slices in rad/mm; NaN without neighbouring slices."""
    return _quantiles([part for one in volumes for part in _through_slices(one)])


def structure_function(volumes: Sequence[PhaseVolume], lags: Sequence[int] = LAGS) -> NDArray[np.float64]:
    """Return `1 - <cos(phase(x + r) - phase(x))>` for each lag r, mean of both directions; NaN beyond the matrix."""
    return _incoherence(volumes, lags, _difference)


def gradients_without_gauge(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return `gradient_quantiles` of the phase without global and linear phase, which a coil combination decides."""
    return gradient_quantiles([one.without_gauge for one in volumes])


def structure_without_gauge(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return `structure_function` of the phase without global and linear phase, for r in `NEAR_LAGS`."""
    return structure_function([one.without_gauge for one in volumes], NEAR_LAGS)


def curvature_function(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return `1 - <cos(phase(x + r) - 2 phase(x) + phase(x - r))>` for r in `BENDS`, mean of both directions.

    0 where the phase is linear over 2 r, whatever its slope, so it separates ramps from blotches; the structure
    function does not. NaN beyond the matrix.
    """
    return _incoherence(volumes, BENDS, _second_difference)


def steepness_map(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return the mean modulus of the wrapped gradient in each block of `BLOCK` x `BLOCK` pixels, rad/mm, flat.

    NaN if less than 50% of a block is in the object; incomplete blocks at the edges are dropped.
    """
    return np.concatenate([_steepness(one).ravel() for one in volumes])


def residue_density(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return phase singularities per 1,000 squares of 2 x 2 pixels of the object, `(1)`; NaN without such squares."""
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
    """Return `1 - <Re p>` for each lag, p the products with that lag along both axes; NaN without products."""
    result = np.full(len(lags), np.nan)
    for index, lag in enumerate(lags):
        values = np.concatenate([product(one, lag, axis).real for one in volumes for axis in (1, 2)])
        if values.size:
            result[index] = 1.0 - values.mean(dtype=np.float64)
    return result


def _difference(volume: PhaseVolume, lag: int, axis: int) -> NDArray[np.complex64]:
    """Return `z(x + lag) conj z(x)` where both pixels are in the object, flat."""
    near, far = _along(volume.phasor, lag, axis, 2)
    product: NDArray[np.complex64] = (far * near.conj())[_inside(volume, lag, axis, 2)]
    return product


def _second_difference(volume: PhaseVolume, lag: int, axis: int) -> NDArray[np.complex64]:
    """Return `z(x + lag) conj z(x)^2 z(x - lag)` where the three pixels are in the object, flat."""
    before, middle, after = _along(volume.phasor, lag, axis, 3)
    product: NDArray[np.complex64] = (after * middle.conj() ** 2 * before)[_inside(volume, lag, axis, 3)]
    return product


def _inside(volume: PhaseVolume, lag: int, axis: int, count: int) -> NDArray[np.bool_]:
    """Return where all pixels that `_along` combines are in the object."""
    inside: NDArray[np.bool_] = np.logical_and.reduce(_along(volume.support, lag, axis, count))
    return inside


def _along(image: NDArray[Any], lag: int, axis: int, count: int) -> list[NDArray[Any]]:
    """Return `count` views of one shape, each `lag` pixels further along the axis; empty if they do not fit."""
    length = max(image.shape[axis] - (count - 1) * lag, 0)
    before = (slice(None),) * axis
    return [image[(*before, slice(start, start + length))] for start in range(0, count * lag, lag)]


def _gradient(volume: PhaseVolume, axis: int) -> NDArray[np.float32]:
    gradient: NDArray[np.float32] = np.angle(_difference(volume, 1, axis)) / volume.spacing_mm[axis]
    return gradient


def _steepness(volume: PhaseVolume) -> NDArray[np.float64]:
    """Return the blocks of one volume, `(slice rows columns)`."""
    total, counted = np.zeros(1), np.zeros(1)
    for axis in (1, 2):
        near, far = _along(volume.phasor, 1, axis, 2)
        inside = _inside(volume, 1, axis, 2)
        step = np.abs(np.angle(far * near.conj())) * inside / volume.spacing_mm[axis]
        ends = [(0, int(axis == other)) for other in range(3)]
        total = total + _block_sums(np.pad(step, ends))
        counted = counted + _block_sums(np.pad(inside, ends))
    # two steps per pixel, one along each axis
    return np.where(counted >= BLOCK**2, total / np.maximum(counted, 1.0), np.nan)


def _block_sums(values: NDArray[Any]) -> NDArray[np.float64]:
    """Sum over the blocks of each slice."""
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


def resultant_lengths(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return the mean resultant length `|<exp(i phase)>|` of each slice; 1 minus it is the circular variance.

    Mardia and Jupp, Directional Statistics (2000), section 2.3.
    """
    lengths = [
        np.abs(z[s].mean(dtype=np.complex128))
        for one in volumes
        for z, s in zip(one.fixed_phasor, one.support, strict=True)
        if s.any()
    ]
    return np.array(lengths) if lengths else np.array([np.nan])


def phase_density(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return the fraction of the object's pixels in each of `NUM_BINS` bins from -pi to pi, all slices pooled."""
    counts = np.zeros(NUM_BINS)
    for one in volumes:
        counts += np.histogram(np.angle(one.fixed_phasor[one.support]), bins=NUM_BINS, range=(-np.pi, np.pi))[0]
    total = counts.sum()
    density: NDArray[np.float64] = counts / total if total else np.full(NUM_BINS, np.nan)
    return density


def diversity(samples: Sequence[PhaseVolume]) -> float:
    """Return the circular variance over samples of one volume, mean over the object.

    Global and linear phase are removed first. 0: all equal; about `1 - 0.886 / sqrt(n)` for n independent uniform
    phases. NaN with fewer than two samples or without an object.
    """
    if len(samples) < 2:
        return float("nan")
    inside = np.logical_and.reduce([one.support for one in samples])
    if not inside.any():
        return float("nan")
    mean = np.mean([one.fixed_phasor[inside] for one in samples], axis=0, dtype=np.complex128)
    return float(1.0 - np.abs(mean).mean())
