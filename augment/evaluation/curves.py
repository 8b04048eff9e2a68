"""Curves of a phase for the page: histogram of gradients, structure functions, spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rephase.evaluation.kspace_statistics import NUM_RINGS
from rephase.evaluation.metrics import Statistics
from rephase.evaluation.statistics import LAGS, NEAR_LAGS

EDGES = tuple(float(edge) for edge in np.geomspace(0.004, 4.0, 25))
"""Edges of the bins of the modulus of the gradient, rad/mm; the outermost bins are open."""


@dataclass(frozen=True)
class Curve:
    """What the page shows of a curve.

    `x` are the abscissae of the values; `logarithmic` says whether its axis is.
    """

    name: str
    title: str
    x: tuple[float, ...]
    x_title: str
    y_title: str
    logarithmic: bool = True


_MIDDLES = tuple(float(middle) for middle in np.sqrt(np.multiply(EDGES[1:], EDGES[:-1])))
_GRADIENT = ("modulus of the gradient, rad/mm", "share of the pixels")
_STRUCTURE = ("distance, pixels", "1 - <cos of the difference>")

CURVES = (
    Curve("gradient", "Wrapped gradient", _MIDDLES, *_GRADIENT),
    Curve("gradient_no_ramp", "Wrapped gradient, ramp removed", _MIDDLES, *_GRADIENT),
    Curve("structure", "Structure function", LAGS, *_STRUCTURE),
    Curve("structure_no_ramp", "Structure function, ramp removed", NEAR_LAGS, *_STRUCTURE),
    Curve(
        "spectrum",
        "Radial spectrum",
        tuple((ring + 0.5) / NUM_RINGS for ring in range(NUM_RINGS)),
        "fraction of the way to the nearer edge of k-space",
        "power, dB of the strongest ring",
        logarithmic=False,
    ),
)


def curves_of(statistics: Statistics) -> dict[str, list[float]]:
    """Return the values of each of `CURVES`; NaN where it could not be measured."""
    return {curve.name: [float(y) for y in _values(curve.name, statistics[curve.name])] for curve in CURVES}


def _values(name: str, statistic: NDArray[np.float64]) -> NDArray[np.float64]:
    return gradient_shares(statistic) if name.startswith("gradient") else statistic


def gradient_shares(quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of gradients in each bin of their modulus, from equally likely quantiles; NaN if unknown."""
    values = np.abs(quantiles[np.isfinite(quantiles)])
    if not values.size:
        return np.full(len(EDGES) - 1, np.nan)
    counts = np.histogram(values.clip(EDGES[0], EDGES[-1]), EDGES)[0]
    shares: NDArray[np.float64] = counts / values.size
    return shares
