"""The table of metrics: statistic, distance between two statistics, and a summary in one number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rephase.evaluation.kspace_statistics import (
    homodyne_errors,
    middle_shares,
    radial_spectrum,
    symmetry_defects,
    zero_filled_errors,
)
from rephase.evaluation.statistics import (
    PhaseVolume,
    curvature_function,
    gradient_quantiles,
    gradients_without_gauge,
    phase_density,
    residue_density,
    resultant_lengths,
    steepness_map,
    structure_function,
    structure_without_gauge,
    through_slice_quantiles,
)

Statistics = Mapping[str, NDArray[np.float64]]
"""Statistics of some volumes, by the metric's name."""

_NUM_QUANTILES = 200
_MIN_ELEMENTS = 3
_FLAT = 1e-6
"""In rad/mm: about the error from rounding the phase."""


@dataclass(frozen=True)
class Metric:
    """One metric.

    `measure` returns a statistic of pooled volumes, `distance` compares two of them (in `unit`; 0: equal), `summary`
    reduces one to a number. `shows_value` marks those whose value says as much as their distance.
    """

    name: str
    title: str
    unit: str
    measure: Callable[[Sequence[PhaseVolume]], NDArray[np.float64]]
    distance: Callable[[NDArray[np.float64], NDArray[np.float64]], float]
    summary: Callable[[NDArray[np.float64]], float]
    shows_value: bool = False


def mean_difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the mean absolute difference of two arrays where both are finite; of quantiles, Wasserstein-1."""
    difference = np.abs(one - other)
    known = np.isfinite(difference)
    return float(difference[known].mean()) if known.any() else float("nan")


def sample_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the Wasserstein-1 distance of two samples, by their quantiles."""
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("nan")
    levels = (np.arange(_NUM_QUANTILES) + 0.5) / _NUM_QUANTILES
    return float(np.abs(np.quantile(one, levels) - np.quantile(other, levels)).mean())


def difference_of_means(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the absolute difference of the means of two samples."""
    return float(abs(one.mean() - other.mean()))


def circular_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the Wasserstein-1 distance of two densities over the circle, in rad.

    On a circle the difference of the distribution functions is free up to a constant, and subtracting its median yields
    the least cost (Rabin, Delon, Gousseau, J Math Imaging Vis 2011).
    """
    difference = np.cumsum(one - other)
    return float(np.abs(difference - np.median(difference)).mean() * 2.0 * np.pi)


def decorrelation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return 1 minus the correlation of two maps where both are finite; 1 if one is flat, 0 if both are.

    NaN if the maps differ in size, or share fewer than three finite elements.
    """
    if one.shape != other.shape:
        return float("nan")
    known = np.isfinite(one) & np.isfinite(other)
    if known.sum() < _MIN_ELEMENTS:
        return float("nan")
    here, there = one[known], other[known]
    flat = [bool(np.ptp(part) < _FLAT) for part in (here, there)]
    if any(flat):
        return float(not all(flat))
    return float(1.0 - np.corrcoef(here, there)[0, 1])


def _root_mean_square(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.nanmean((one - other) ** 2))) if np.isfinite(one - other).any() else float("nan")


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _mean_modulus(values: NDArray[np.float64]) -> float:
    return _mean(np.abs(values))


def _resultant_of_density(density: NDArray[np.float64]) -> float:
    angle = (np.arange(len(density)) + 0.5) * (2.0 * np.pi / len(density))
    return float(np.abs((density * np.exp(1j * angle)).sum()))


METRICS = (
    Metric("gradient", "wrapped gradient", "rad/mm", gradient_quantiles, mean_difference, _mean_modulus),
    Metric("structure", "structure function", "", structure_function, mean_difference, _mean),
    Metric(
        "gradient_no_ramp",
        "wrapped gradient, ramp removed",
        "rad/mm",
        gradients_without_gauge,
        mean_difference,
        _mean_modulus,
    ),
    Metric(
        "structure_no_ramp", "structure function, ramp removed", "", structure_without_gauge, mean_difference, _mean
    ),
    Metric("curvature", "second-order structure function", "", curvature_function, mean_difference, _mean),
    Metric("residues", "residues", "per 1,000 px", residue_density, mean_difference, _mean),
    Metric("place", "location of steep phase", "", steepness_map, decorrelation, _mean),
    Metric(
        "through_slice", "through-slice gradient", "rad/mm", through_slice_quantiles, mean_difference, _mean_modulus
    ),
    Metric("resultant", "mean resultant length", "", resultant_lengths, sample_distance, _mean),
    Metric("density", "distribution of the phase", "rad", phase_density, circular_distance, _resultant_of_density),
    Metric("spectrum", "radial log-spectrum", "dB", radial_spectrum, _root_mean_square, _mean),
    Metric("symmetry", "conjugate-symmetry defect", "", symmetry_defects, sample_distance, _mean),
    Metric("homodyne", "homodyne 5/8 error", "", homodyne_errors, sample_distance, _mean),
    Metric("middle", "energy in the middle 8 %", "", middle_shares, difference_of_means, _mean, True),
    Metric("zero_filled", "zero-filled NMSE, R = 4", "", zero_filled_errors, difference_of_means, _mean, True),
)
METRIC_NAMES = tuple(metric.name for metric in METRICS)


def measure_phase(volumes: Sequence[PhaseVolume]) -> Statistics:
    """Compute the statistics of several volumes, pooled."""
    if not volumes:
        raise ValueError("no volume to measure; expected one or more")
    return {metric.name: metric.measure(volumes) for metric in METRICS}


def distances(one: Statistics, other: Statistics) -> dict[str, float]:
    """Return the distances of two statistics by metric; NaN if one could not be measured."""
    return {metric.name: metric.distance(one[metric.name], other[metric.name]) for metric in METRICS}


def summaries(statistics: Statistics) -> dict[str, float]:
    """Return one number per statistic: mean over the slices, or mean modulus for gradients."""
    return {metric.name: metric.summary(statistics[metric.name]) for metric in METRICS}
