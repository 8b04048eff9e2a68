"""Means over sessions with a bootstrap interval over groups, such as persons."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rephase.evaluation.config import IntervalConfig


@dataclass(frozen=True)
class Estimate:
    """A mean over sessions, and its interval: None with too few groups. NaN without any finite value."""

    mean: float
    low: float | None
    high: float | None
    sessions: int
    groups: int


def estimate_mean(values: Iterable[tuple[str, float]], config: IntervalConfig) -> Estimate:
    """Compute the mean of finite (group, value) pairs, one per session, and its interval over groups."""
    known = [(group, value) for group, value in values if math.isfinite(value)]
    names = list(dict.fromkeys(group for group, _ in known))
    if not names:
        return Estimate(math.nan, None, None, 0, 0)
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    for group, value in known:
        sums[names.index(group)] += value
        counts[names.index(group)] += 1
    low = high = None
    if len(names) >= config.groups:
        drawn = draw_groups(len(names), config)
        low, high = percentiles((drawn @ sums) / (drawn @ counts), config)
    return Estimate(float(sums.sum() / counts.sum()), low, high, len(known), len(names))


def draw_groups(num_groups: int, config: IntervalConfig) -> NDArray[np.float64]:
    """Return how often each group is in each bootstrap sample, `(draws groups)`; equal on every call."""
    random = np.random.Generator(np.random.Philox(0))
    share = np.full(num_groups, 1.0 / num_groups)
    return random.multinomial(num_groups, share, size=config.draws).astype(np.float64)


def percentiles(values: NDArray[np.float64], config: IntervalConfig) -> tuple[float, float]:
    """Return the percentile interval of bootstrap values (Efron and Tibshirani 1993, section 13.3)."""
    tail = (1.0 - config.level) / 2.0
    low, high = np.nanquantile(values, [tail, 1.0 - tail])
    return float(low), float(high)
