"""What the scores say: paired differences, the closed part of the gap to the floor, ties, non-inferiority."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rephase.evaluation.config import EvaluationConfig
from rephase.evaluation.metrics import METRIC_NAMES, METRICS
from rephase.evaluation.scores import FLOOR, REAL, Score

SMOOTH = "smooth"
GAP_METRICS = tuple(metric.name for metric in METRICS if metric.gap)


@dataclass(frozen=True)
class Difference:
    """`generator` minus `reference` in one metric: negative where the generator is nearer to the real phase.

    `mean`, `low` and `high` are over the sessions that are not descriptive; the interval is None below the number of
    sessions that the configuration asks for.
    """

    metric: str
    generator: str
    reference: str
    by_session: dict[str, float]
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Gap:
    """The part of the way from `smooth` to the floor that a generator goes, in percent.

    None where there is hardly a way: `smooth` is within the metric's margin of the floor.
    """

    metric: str
    generator: str
    session: str
    percent: float | None


@dataclass(frozen=True)
class Verdict:
    """Whether `generator` is no worse than `reference` in a metric, by a margin that was fixed before.

    With fewer sessions than the configuration asks for an interval, every one must be within the margin; else the upper
    end of the interval must. `no_worse` is None where nothing could be compared.
    """

    metric: str
    generator: str
    reference: str
    difference: float | None
    worst: float | None
    margin: float
    no_worse: bool | None


def compare(scores: Sequence[Score], config: EvaluationConfig, generator: str, reference: str) -> list[Difference]:
    """Paired differences of two generators, a line for each metric."""
    found = {(one.session, one.generator): one for one in scores}
    sessions = [one.session for one in scores if one.generator == generator and (one.session, reference) in found]
    result = []
    for name in METRIC_NAMES:
        by_session, deciding = {}, []
        for session in sessions:
            mine, theirs = found[session, generator], found[session, reference]
            difference = mine.distances[name] - theirs.distances[name]
            if math.isfinite(difference):
                by_session[session] = difference
                deciding += [] if mine.descriptive else [difference]
        low, high = _interval(deciding, config) if len(deciding) >= config.interval_sessions else (None, None)
        mean = float(np.mean(deciding)) if deciding else None
        result.append(Difference(name, generator, reference, by_session, mean, low, high))
    return result


def closed_gaps(scores: Sequence[Score], config: EvaluationConfig) -> list[Gap]:
    """How much of the way from `smooth` to the floor each generator goes, by session, for the metrics marked so."""
    found = {(one.session, one.generator): one for one in scores}
    result = []
    for one in scores:
        ends = [found.get((one.session, name)) for name in (SMOOTH, FLOOR)]
        if one.generator in (SMOOTH, FLOOR, REAL) or None in ends:
            continue
        for name in GAP_METRICS:
            smooth, floor = (end.distances[name] for end in ends if end is not None)
            way = smooth - floor
            percent = (
                100.0 * (smooth - one.distances[name]) / way if way > config.noninferiority.margins[name] else None
            )
            result.append(Gap(name, one.generator, one.session, percent))
    return result


def find_ties(
    scores: Sequence[Score], config: EvaluationConfig, models: Sequence[str], baselines: Sequence[str]
) -> list[str]:
    """Say in which sessions a baseline ties with a model, within the margin, or is nearer to the real phase."""
    found = {(one.session, one.generator): one for one in scores}
    lines = []
    for one in (score for score in scores if score.generator in models):
        for name in METRIC_NAMES:
            margin = config.noninferiority.margins[name]
            for baseline in baselines:
                other = found.get((one.session, baseline))
                if other is None:
                    continue
                ahead = other.distances[name] - one.distances[name]
                if math.isfinite(ahead) and ahead <= margin:
                    word = "ties with" if ahead >= -margin else "beats"
                    remark = " (descriptive)" if one.descriptive else ""
                    figures = f"{other.distances[name]:.4g} against {one.distances[name]:.4g}"
                    lines.append(f"{baseline} {word} {one.generator} on {name} in {one.session}{remark}: {figures}")
    return lines


def judge(scores: Sequence[Score], config: EvaluationConfig, generator: str, reference: str) -> list[Verdict]:
    """Say for each metric whether a generator is no worse than another, by the margins of the configuration."""
    descriptive = {one.session for one in scores if one.descriptive}
    result = []
    for line in compare(scores, config, generator, reference):
        margin = config.noninferiority.margins[line.metric]
        deciding = [value for session, value in line.by_session.items() if session not in descriptive]
        worst = max(deciding) if deciding else None
        bound = worst if line.high is None else line.high
        no_worse = None if bound is None else bound <= margin
        result.append(Verdict(line.metric, generator, reference, line.mean, worst, margin, no_worse))
    return result


def _interval(values: Sequence[float], config: EvaluationConfig) -> tuple[float, float]:
    """A percentile bootstrap of the mean over sessions (Efron and Tibshirani 1993, section 13.3)."""
    random = np.random.Generator(np.random.Philox(0))
    chosen = random.integers(len(values), size=(config.interval_draws, len(values)))
    means = np.asarray(values)[chosen].mean(axis=1)
    tail = (1.0 - config.interval_level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)
