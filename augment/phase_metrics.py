"""What is measured of a phase: distributions over the object, and the distance of two of them.

Every statistic is circular (differences are taken of phasors) and counts only pixels of the object. The choice follows
the literature on wrapped phase: gradients, structure function, phase residues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SUPPORT = 0.05
"""The object: magnitude above this part of the volume's 99th percentile."""
LAGS = (1, 2, 4, 8, 16, 32)
_QUANTILES = np.linspace(0.0005, 0.9995, 1000)


@dataclass(frozen=True)
class PhaseStatistics:
    """Statistics of the phase of one or more volumes.

    Attributes
    ----------
    gradients
        1,000 quantiles of the wrapped gradients along height and width, `(2 1000)`, in rad/mm.
    structure
        `1 - <cos(phase(x + r) - phase(x))>` for the `LAGS` r in pixels, mean of both directions; NaN beyond the matrix.
    residues
        Phase singularities per 1,000 pixels.
    """

    gradients: NDArray[np.float64]
    structure: NDArray[np.float64]
    residues: float


def object_support(magnitude: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The pixels of the object in a volume `(slice height width)`."""
    support: NDArray[np.bool_] = magnitude > SUPPORT * np.percentile(magnitude, 99.0)
    return support


def measure_phase(
    phasors: Sequence[NDArray[np.complex64]],
    supports: Sequence[NDArray[np.bool_]],
    spacings_mm: Sequence[tuple[float, float]],
) -> PhaseStatistics:
    """Pool the statistics of several volumes.

    Parameters
    ----------
    phasors
        Unit-modulus phase of each volume, `(slice height width)`.
    supports
        The object in each, same shapes.
    spacings_mm
        Of each, along height and width.
    """
    volumes = list(zip(phasors, supports, spacings_mm, strict=True))
    gradients = [
        np.quantile(np.concatenate([_gradient(z, s, mm, axis) for z, s, mm in volumes]), _QUANTILES) for axis in (1, 2)
    ]
    return PhaseStatistics(np.stack(gradients), _structure(volumes), _residues(volumes))


def gradient_distance(one: PhaseStatistics, other: PhaseStatistics) -> float:
    """Wasserstein-1 distance of the wrapped gradients in rad/mm, mean of both directions."""
    return float(np.abs(one.gradients - other.gradients).mean())


def structure_distance(one: PhaseStatistics, other: PhaseStatistics) -> float:
    """Mean absolute difference of the structure functions."""
    return float(np.nanmean(np.abs(one.structure - other.structure)))


def residue_distance(one: PhaseStatistics, other: PhaseStatistics) -> float:
    """Absolute difference of the residue densities per 1,000 pixels."""
    return abs(one.residues - other.residues)


def _difference(
    phasor: NDArray[np.complex64], support: NDArray[np.bool_], lag: int, axis: int
) -> NDArray[np.complex64]:
    """`z(x + lag) conj z(x)` where both pixels are in the object, flat."""
    size = phasor.shape[axis]
    far, near = (np.take(phasor, range(*part), axis) for part in ((lag, size), (0, size - lag)))
    inside = np.take(support, range(lag, size), axis) & np.take(support, range(0, size - lag), axis)
    product: NDArray[np.complex64] = (far * near.conj())[inside]
    return product


def _gradient(
    phasor: NDArray[np.complex64], support: NDArray[np.bool_], spacing_mm: tuple[float, float], axis: int
) -> NDArray[np.float32]:
    gradient: NDArray[np.float32] = np.angle(_difference(phasor, support, 1, axis)) / spacing_mm[axis - 1]
    return gradient


def _structure(
    volumes: Sequence[tuple[NDArray[np.complex64], NDArray[np.bool_], tuple[float, float]]],
) -> NDArray[np.float64]:
    result = np.full(len(LAGS), np.nan)
    for index, lag in enumerate(LAGS):
        parts = [_difference(z, s, lag, axis).real for z, s, _ in volumes for axis in (1, 2) if lag < z.shape[axis]]
        values = np.concatenate(parts) if parts else np.empty(0, np.float32)
        if values.size:
            result[index] = 1.0 - values.mean(dtype=np.float64)
    return result


def _residues(volumes: Sequence[tuple[NDArray[np.complex64], NDArray[np.bool_], tuple[float, float]]]) -> float:
    count = total = 0
    for z, s, _ in volumes:
        corners = [z[:, :-1, :-1], z[:, :-1, 1:], z[:, 1:, 1:], z[:, 1:, :-1]]
        turn = sum(np.angle(b * a.conj()) for a, b in zip(corners, corners[1:] + corners[:1], strict=True))
        inside = s[:, :-1, :-1] & s[:, :-1, 1:] & s[:, 1:, 1:] & s[:, 1:, :-1]
        count += int((np.abs(turn)[inside] > np.pi).sum())
        total += int(inside.sum())
    return 1000.0 * count / max(total, 1)
