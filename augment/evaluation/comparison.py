"""The result of an evaluation: means by family, paired differences between generators, and curves, from the scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

from rephase.evaluation.candidates import Candidate
from rephase.evaluation.classifier import FamilySeparation
from rephase.evaluation.config import EvaluationConfig, IntervalConfig
from rephase.evaluation.curves import CURVES
from rephase.evaluation.intervals import Estimate, estimate_mean
from rephase.evaluation.metrics import METRIC_NAMES
from rephase.evaluation.scores import FLOOR, REAL, Score


@dataclass(frozen=True)
class FamilyScore:
    """One generator in one family of pulse sequences: means over the sessions of each distance and value."""

    family: str
    generator: str
    sessions: int
    groups: int
    slices: int
    distances: Mapping[str, Estimate]
    values: Mapping[str, Estimate]


@dataclass(frozen=True)
class Difference:
    """`generator` minus `reference` in one metric and family: negative if the generator is nearer to the real phase.

    `by_session` are the paired differences, `mean` their mean with its interval over groups, and `nearer` the number of
    sessions in which the generator is nearer.
    """

    family: str
    metric: str
    generator: str
    reference: str
    by_session: Mapping[str, float]
    mean: Estimate
    nearer: int


@dataclass(frozen=True)
class FamilyCurve:
    """The points of a curve (of `rephase.evaluation.curves`) of a generator in a family, means over the sessions."""

    family: str
    curve: str
    generator: str
    points: Sequence[Estimate]


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
    scores
        By session and family.
    families, differences, curves
        By family, of `compare_all`.
    classifier
        Separations from real phase, all families first; empty if not requested.
    skipped
        Rows of the manifest that were skipped, with the reason.
    """

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    generators: Sequence[Mapping[str, Any]]
    scores: Sequence[Score]
    families: Sequence[FamilyScore] = ()
    differences: Sequence[Difference] = ()
    curves: Sequence[FamilyCurve] = ()
    classifier: Sequence[FamilySeparation] = ()
    skipped: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; null for values that could not be measured."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def compare_all(result: Evaluation, candidates: Sequence[Candidate], config: EvaluationConfig) -> Evaluation:
    """Add means by family, paired differences and curves to the scores of an evaluation.

    Differences are those of the models from every other generator; without a model, of each pair.
    """
    models = [one.label for one in candidates if one.role != "baseline"]
    labels = [one.label for one in candidates]
    pairs = [(one, other) for one in models for other in labels if one != other] or list(combinations(labels, 2))
    return replace(
        result,
        families=mean_scores(result.scores, config.interval),
        differences=[line for one, other in pairs for line in compare(result.scores, config.interval, one, other)],
        curves=mean_curves(result.scores, config.interval),
    )


def mean_scores(scores: Sequence[Score], config: IntervalConfig) -> list[FamilyScore]:
    """Return the means of each family and generator over its sessions."""

    def means(members: Sequence[Score], of: Callable[[Score], Mapping[str, float]]) -> dict[str, Estimate]:
        return {name: estimate_mean([(one.group, of(one)[name]) for one in members], config) for name in METRIC_NAMES}

    return [
        FamilyScore(
            family,
            generator,
            len(members),
            len({one.group for one in members}),
            sum(one.slices for one in members),
            means(members, lambda one: one.distances),
            means(members, lambda one: one.values),
        )
        for (family, generator), members in _by_family(scores).items()
    ]


def compare(scores: Sequence[Score], config: IntervalConfig, generator: str, reference: str) -> list[Difference]:
    """Return the paired differences of two generators, one per family and metric with a finite one."""
    found = {(one.unit, one.generator): one for one in scores}
    pairs = [
        (one, found[one.unit, reference])
        for one in scores
        if one.generator == generator and (one.unit, reference) in found
    ]
    result = []
    for family in dict.fromkeys(one.family for one, _ in pairs):
        for name in METRIC_NAMES:
            lines = [(one, one.distances[name] - other.distances[name]) for one, other in pairs if one.family == family]
            known = [(one, value) for one, value in lines if math.isfinite(value)]
            if known:
                mean = estimate_mean([(one.group, value) for one, value in known], config)
                by_session = {one.session: value for one, value in known}
                nearer = sum(value < 0 for value in by_session.values())
                result.append(Difference(family, name, generator, reference, by_session, mean, nearer))
    return result


def mean_curves(scores: Sequence[Score], config: IntervalConfig) -> list[FamilyCurve]:
    """Return the mean curves of each family and generator over its sessions."""
    return [
        FamilyCurve(
            family,
            curve.name,
            generator,
            [
                estimate_mean([(one.group, one.curves[curve.name][place]) for one in members], config)
                for place in range(len(curve.x))
            ],
        )
        for (family, generator), members in _by_family(scores).items()
        if generator != FLOOR
        for curve in CURVES
    ]


def _by_family(scores: Sequence[Score]) -> dict[tuple[str, str], list[Score]]:
    """Return the scores of each (family, generator), in order of appearance with the real phase first."""
    found: dict[tuple[str, str], list[Score]] = {}
    for one in sorted(scores, key=lambda score: {REAL: 0, FLOOR: 1}.get(score.generator, 2)):
        found.setdefault((one.family, one.generator), []).append(one)
    return found


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
