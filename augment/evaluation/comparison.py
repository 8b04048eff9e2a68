"""The result of an evaluation: paired differences, closed gaps, ties and non-inferiority from the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from rephase.evaluation.candidates import Candidate
from rephase.evaluation.classifier import ClassifierResult
from rephase.evaluation.config import EvaluationConfig
from rephase.evaluation.metrics import METRIC_NAMES, METRICS
from rephase.evaluation.scores import FLOOR, REAL, Score

SMOOTH = "smooth"
GAP_METRICS = tuple(metric.name for metric in METRICS if metric.gap)


@dataclass(frozen=True)
class Difference:
    """`generator` minus `reference` in one metric: negative if the generator is nearer to the real phase.

    `mean`, `low` and `high` are over the sessions that are not descriptive; the interval is None for fewer
    sessions than `interval_sessions` of the configuration.
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
    """The part of the gap between `smooth` and the floor that a generator closes, in percent.

    None if `smooth` is within the metric's margin of the floor.
    """

    metric: str
    generator: str
    session: str
    percent: float | None


@dataclass(frozen=True)
class Verdict:
    """Whether `generator` is no worse than `reference` in a metric, by a margin fixed before the run.

    The upper end of the confidence interval must be within the margin; with fewer sessions than `interval_sessions`,
    each session must. `no_worse` is None without any comparison.
    """

    metric: str
    generator: str
    reference: str
    difference: float | None
    worst: float | None
    margin: float
    no_worse: bool | None


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes
    ----------
    machine
        `rephase.pipeline.environment.machine_facts`.
    settings
        Request, configuration, and versions and hashes of all inputs.
    generators
        Label, role, network evaluations per slice and identity of each.
    scores, gaps, differences, verdicts, ties
        Results of `rephase.evaluation.scores` and `compare_all`.
    classifier
        None if not requested.
    skipped
        Rows of the manifest that were skipped, with the reason.
    """

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    generators: Sequence[Mapping[str, Any]]
    scores: Sequence[Score]
    gaps: Sequence[Gap] = ()
    differences: Sequence[Difference] = ()
    verdicts: Sequence[Verdict] = ()
    ties: Sequence[str] = ()
    classifier: ClassifierResult | None = None
    skipped: Sequence[str] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; null for values that could not be measured."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def compare_all(result: Evaluation, candidates: Sequence[Candidate], config: EvaluationConfig) -> Evaluation:
    """Add differences, gaps, ties and verdicts to the scores of an evaluation."""
    scores = result.scores
    labels = {role: [one.label for one in candidates if one.role == role] for role in ("model", "against", "baseline")}
    references = [SMOOTH] if SMOOTH in labels["baseline"] else labels["baseline"][:1]
    return replace(
        result,
        gaps=closed_gaps(scores, config),
        differences=[
            line
            for label in (*labels["model"], *labels["against"], *labels["baseline"])
            for reference in references
            if label != reference
            for line in compare(scores, config, label, reference)
        ],
        verdicts=[
            line for one, other in _pairs(candidates, config) for line in noninferiority(scores, config, one, other)
        ],
        ties=find_ties(scores, config, labels["model"], labels["baseline"]),
    )


def compare(scores: Sequence[Score], config: EvaluationConfig, generator: str, reference: str) -> list[Difference]:
    """Return the paired differences of two generators, one per metric."""
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
    """Return the part of the gap between `smooth` and the floor that each generator closes, by session and metric."""
    found = {(one.session, one.generator): one for one in scores}
    result = []
    for one in scores:
        ends = [found.get((one.session, name)) for name in (SMOOTH, FLOOR)]
        if one.generator in (SMOOTH, FLOOR, REAL) or None in ends:
            continue
        for name in GAP_METRICS:
            smooth, floor = (end.distances[name] for end in ends if end is not None)
            gap = smooth - floor
            percent = (
                100.0 * (smooth - one.distances[name]) / gap if gap > config.noninferiority.margins[name] else None
            )
            result.append(Gap(name, one.generator, one.session, percent))
    return result


def find_ties(
    scores: Sequence[Score], config: EvaluationConfig, models: Sequence[str], baselines: Sequence[str]
) -> list[str]:
    """List the sessions in which a baseline ties with a model (within the margin) or is nearer to the real phase."""
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


def noninferiority(scores: Sequence[Score], config: EvaluationConfig, generator: str, reference: str) -> list[Verdict]:
    """Return for each metric whether a generator is no worse than another, by the margins of the configuration."""
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
    """Compute the percentile bootstrap interval of the mean over sessions (Efron and Tibshirani 1993, section 13.3)."""
    random = np.random.Generator(np.random.Philox(0))
    chosen = random.integers(len(values), size=(config.interval_draws, len(values)))
    means = np.asarray(values)[chosen].mean(axis=1)
    tail = (1.0 - config.interval_level) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


def _pairs(candidates: Sequence[Candidate], config: EvaluationConfig) -> list[tuple[str, str]]:
    """List the pairs to test for non-inferiority: default steps against the teacher's and the other checkpoint's."""
    models = {one.nfe: one.label for one in candidates if one.role == "model"}
    if not models:
        return []
    default = models.get(config.noninferiority.steps) or models[min(models)]
    teacher = models.get(config.noninferiority.teacher_steps)
    pairs = [(default, teacher)] if teacher is not None and teacher != default else []
    return pairs + [(default, one.label) for one in candidates if one.role == "against"]


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
