"""Differences between arms: paired by volume, averaged by subject, with a bootstrap over seeds and subjects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rephase.experiments.settings import Comparison, StatisticsConfig

Verdict = Literal["equivalent", "not worse", "worse", "better", "undecided", "no interval"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and subjects; the interval is None with too few subjects."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Judged:
    """The outcome of a comparison.

    Attributes
    ----------
    comparison
        What was compared, with its margin.
    difference
        Mean of the arm less that of the other, and its interval.
    margin
        The margin in units of the metric.
    non_inferior
        Whether the worse end of the interval is within the margin; None without an interval.
    equivalent
        Whether two one-sided tests at 1 - level both reject a difference of the margin or more (TOST, Schuirmann 1987):
        the interval at 2 level - 1 is inside of the margins. None without an interval.
    verdict
        In one word; `better` and `worse` if the interval is off zero and, for `worse`, beyond the margin.
    """

    comparison: Comparison
    difference: Estimate
    margin: float
    non_inferior: bool | None
    equivalent: bool | None
    verdict: Verdict


def by_subject(
    values: Sequence[Mapping[str, float]], subject_of: Mapping[str, str]
) -> tuple[list[str], NDArray[np.float64]]:
    """Average volumes into subjects.

    Parameters
    ----------
    values
        The metric of each test volume, for each seed; all seeds have the same volumes.
    subject_of
        The subject of each volume.

    Returns
    -------
    subjects
        In order of their names.
    table
        `(seed subject)`, the mean over the volumes of a subject.
    """
    subjects = sorted({subject_of[name] for name in values[0]})
    table = np.zeros((len(values), len(subjects)))
    for row, one in enumerate(values):
        for column, subject in enumerate(subjects):
            table[row, column] = np.mean([value for name, value in one.items() if subject_of[name] == subject])
    return subjects, table


def bootstrap(table: NDArray[np.float64], config: StatisticsConfig) -> NDArray[np.float64]:
    """Resample seeds and subjects, each with replacement, and return the mean of each sample.

    Parameters
    ----------
    table
        `(..., seed, subject)`: tables of several arms are resampled alike.
    config
        The number of resamplings.

    Returns
    -------
    means
        `(draw ...)`; equal on every call.
    """
    seeds, subjects = table.shape[-2:]
    random = np.random.Generator(np.random.Philox(0))
    of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=config.draws) / seeds
    of_subjects = random.multinomial(subjects, np.full(subjects, 1 / subjects), size=config.draws) / subjects
    means: NDArray[np.float64] = np.einsum("ds,...sk,dk->d...", of_seeds, table, of_subjects)
    return means


def estimate(table: NDArray[np.float64], config: StatisticsConfig) -> Estimate:
    """Return the mean of `(seed subject)` and its percentile interval, with `config.subjects` subjects or more."""
    low, high = _interval(bootstrap(table, config), config.level) if _enough(table, config) else (None, None)
    return Estimate(float(table.mean()), low, high)


def judge(
    comparison: Comparison,
    arm: NDArray[np.float64],
    against: NDArray[np.float64],
    config: StatisticsConfig,
    lower_is_better: bool,
) -> Judged:
    """Judge the difference of two arms.

    Parameters
    ----------
    comparison
        The arms and the margin.
    arm, against
        `(seed subject)`, the same subjects in both.
    config
        Resamplings, level, and the least number of subjects.
    lower_is_better
        The direction of the metric.
    """
    difference = arm - against
    margin = comparison.margin * (abs(float(against.mean())) if comparison.relative else 1.0)
    found = estimate(difference, config)
    if found.low is None or found.high is None:
        return Judged(comparison, found, margin, None, None, "no interval")
    worst = found.high if lower_is_better else -found.low
    best = found.low if lower_is_better else -found.high
    narrow = _interval(bootstrap(difference, config), 2 * config.level - 1)
    equivalent = -margin < narrow[0] and narrow[1] < margin
    verdict: Verdict = "undecided"
    if worst < 0:
        verdict = "better"
    elif best > margin:
        verdict = "worse"
    elif equivalent:
        verdict = "equivalent"
    elif worst < margin:
        verdict = "not worse"
    return Judged(comparison, found, margin, worst < margin, equivalent, verdict)


def share_closed(
    zero: NDArray[np.float64], arm: NDArray[np.float64], real: NDArray[np.float64], config: StatisticsConfig
) -> Estimate:
    """Return which share of the difference between zero and real phase an arm closes: 0 as zero, 1 as real.

    All three are `(seed subject)`. The share is NaN where the difference is 0, and has no interval where that of the
    difference contains 0, since a ratio to it means nothing.
    """
    gap = float((zero - real).mean())
    if gap == 0:
        return Estimate(math.nan, None, None)
    mean = float((zero - arm).mean()) / gap
    if not _enough(zero, config):
        return Estimate(mean, None, None)
    drawn = bootstrap(np.stack([zero - arm, zero - real]), config)
    low, high = _interval(drawn[:, 1], config.level)
    if low <= 0 <= high:
        return Estimate(mean, None, None)
    return Estimate(mean, *_interval(drawn[:, 0] / drawn[:, 1], config.level))


@dataclass(frozen=True)
class Gate:
    """Whether a condition can be measured at all, with the reason if not."""

    condition: str
    measurable: bool
    reason: str


def sanity(
    condition: str, zero: float, real: float, untrained: float | None, lower_is_better: bool, untrained_name: str
) -> Gate:
    """Check that real data help, and that zero phase is worse, by the means over seeds and subjects.

    Parameters
    ----------
    condition
        Shown in the reason.
    zero, real
        The metric of the arms of these names.
    untrained
        The metric without a network; None if there is no such thing.
    lower_is_better
        The direction of the metric.
    untrained_name
        What `untrained` is.
    """
    sign = 1.0 if lower_is_better else -1.0
    reasons = []
    if untrained is not None and not sign * real < sign * untrained:
        reasons.append(f"real ({real:.4f}) is not better than {untrained_name} ({untrained:.4f})")
    if not sign * zero > sign * real:
        reasons.append(f"zero phase ({zero:.4f}) is not worse than real ({real:.4f})")
    return Gate(condition, not reasons, "; ".join(reasons))


def _enough(table: NDArray[np.float64], config: StatisticsConfig) -> bool:
    return bool(table.shape[-1] >= config.subjects)


def _interval(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)
