"""Circular statistics of a phase without its gauge, and how much several draws differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rephase.evaluation.phase_volume import PhaseVolume

NUM_BINS = 72
"""Of the distribution of the phase over the circle."""


def resultant_lengths(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """The mean resultant length `|<exp(i phase)>|` of each slice's object; 1 minus it is the circular variance.

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
    """The share of the object's pixels in each of `NUM_BINS` bins from -pi to pi, all slices pooled."""
    counts = np.zeros(NUM_BINS)
    for one in volumes:
        counts += np.histogram(np.angle(one.fixed_phasor[one.support]), bins=NUM_BINS, range=(-np.pi, np.pi))[0]
    total = counts.sum()
    density: NDArray[np.float64] = counts / total if total else np.full(NUM_BINS, np.nan)
    return density


def circular_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Wasserstein-1 distance of two densities over the circle, in rad.

    On a circle the difference of the distribution functions is free up to a constant, and its median gives the least
    cost (Rabin, Delon, Gousseau, J Math Imaging Vis 2011).
    """
    difference = np.cumsum(one - other)
    return float(np.abs(difference - np.median(difference)).mean() * 2.0 * np.pi)


def diversity(draws: Sequence[PhaseVolume]) -> float:
    """How much draws of one volume differ: the circular variance over the draws, mean over the object.

    Global and linear phase are removed from each before, since they differ by chance alone. 0: all alike; for n
    independent uniform phases about `1 - 0.886 / sqrt(n)`. NaN with fewer than two draws or without an object.
    """
    if len(draws) < 2:
        return float("nan")
    inside = np.logical_and.reduce([one.support for one in draws])
    if not inside.any():
        return float("nan")
    mean = np.mean([one.fixed_phasor[inside] for one in draws], axis=0, dtype=np.complex128)
    return float(1.0 - np.abs(mean).mean())
