"""From the results of all trainings to means, intervals, verdicts and controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.experiments.arms import REAL, ZERO, label_of
from rephase.experiments.leaks import Leak
from rephase.experiments.settings import Comparison, StatisticsConfig
from rephase.experiments.statistics import (
    Estimate,
    Gate,
    Judged,
    by_subject,
    estimate,
    judge,
    sanity,
    share_closed,
)
from rephase.experiments.store import Job, Result, Score

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Study:
    """What is measured, by any experiment.

    Attributes
    ----------
    experiment
        Its name.
    metrics
        Metrics, and whether lower is better; the first decides.
    conditions
        Tests on real data.
    crimes
        Pairs of a test on data with zero phase and the test on real data.
    untrained
        Name of what needs no training, such as zero-filled; None if there is no such thing.
    comparisons
        Differences to judge.
    statistics
        Bootstrap.
    must_beat_untrained
        Whether nothing is measurable unless real data train a better network than `untrained`.
    """

    experiment: str
    metrics: Mapping[str, bool]
    conditions: tuple[str, ...]
    crimes: tuple[tuple[str, str], ...]
    untrained: str | None
    comparisons: tuple[Comparison, ...]
    statistics: StatisticsConfig
    must_beat_untrained: bool = True


@dataclass(frozen=True)
class ArmRow:
    """One arm of one network: its means by condition and metric, and its share of the gap by condition."""

    label: str
    model: str
    facts: Mapping[str, Any]
    real_percent: float
    corpus: str | None
    means: Mapping[str, Mapping[str, Estimate]]
    closed: Mapping[str, Estimate]
    curve: list[tuple[int, float]]


@dataclass(frozen=True)
class CrimeRow:
    """A network tested on data with zero phase, and on real data."""

    label: str
    model: str
    condition: str
    zero: Mapping[str, float]
    real: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """The outcome of an experiment; `seconds` of CPU time is not part of its JSON, which repeated runs share.

    `findings` are sentences on what the figures show, and what they do not.
    """

    study: Study
    settings: Mapping[str, Any]
    arms: list[ArmRow]
    gates: Mapping[str, list[Gate]]
    judged: Mapping[str, list[Judged]]
    crimes: list[CrimeRow]
    leaks: list[Leak]
    notes: list[str]
    skipped: bool
    scores: list[dict[str, Any]]
    pictures: Mapping[str, Mapping[str, NDArray[np.float32]]]
    seconds: float
    findings: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything but pictures and times as JSON values."""
        return {
            "experiment": self.study.experiment,
            "settings": self.settings,
            "findings": list(self.findings),
            "notes": self.notes,
            "leaks": [asdict(one) | {"text": one.text} for one in self.leaks],
            "gates": {model: [asdict(one) for one in gates] for model, gates in self.gates.items()},
            "comparisons": {model: [asdict(one) for one in judged] for model, judged in self.judged.items()},
            "crimes": [asdict(one) for one in self.crimes],
            "arms": [asdict(one) for one in self.arms],
            "scores": self.scores,
        }


def conclude(
    study: Study,
    results: Mapping[Job, Result],
    baseline: Result | None,
    *,
    settings: Mapping[str, Any],
    leaks: Sequence[Leak],
    notes: Sequence[str],
    skipped: bool,
) -> Outcome:
    """Average, compare and check the results of all jobs.

    Parameters
    ----------
    study
        What is measured.
    results
        Result of every job.
    baseline
        The scores of `study.untrained`.
    settings, leaks, notes, skipped
        Kept in the outcome.
    """
    groups: dict[tuple[str, str], list[tuple[Job, Result]]] = {}
    for job in sorted(results, key=lambda one: one.seed):
        groups.setdefault((job.model, job.label), []).append((job, results[job]))
    models = list(dict.fromkeys(model for model, _ in groups))
    arms: list[ArmRow] = []
    gates, judged = dict[str, list[Gate]](), dict[str, list[Judged]]()
    crimes: list[CrimeRow] = []
    for model in models:
        tables = {
            label: _tables(study, [result.scores for _, result in members])
            for (own, label), members in groups.items()
            if own == model
        }
        start = None if baseline is None else _tables(study, [baseline.scores])
        if baseline is not None and start is not None and study.untrained is not None:
            arms.append(_arm_row(study, study.untrained, model, None, [baseline], start, tables))
        for label, own in tables.items():
            members = groups[model, label]
            arms.append(_arm_row(study, label, model, members[0][0], [one for _, one in members], own, tables))
        gates[model] = [_gate(study, where, tables, start) for where in study.conditions]
        judged[model] = [
            judge(
                one,
                tables[label_of(one.arm)][one.condition, one.metric],
                tables[label_of(one.against)][one.condition, one.metric],
                study.statistics,
                study.metrics[one.metric],
            )
            for one in study.comparisons
            if {label_of(one.arm), label_of(one.against)} <= tables.keys() and one.condition in study.conditions
        ]
        untrained = {study.untrained: start} if study.untrained is not None and start is not None else {}
        for label, own in {**untrained, **{name: tables[name] for name in (ZERO, REAL) if name in tables}}.items():
            for zero, real in study.crimes:
                pair = ({name: float(own[where, name].mean()) for name in study.metrics} for where in (zero, real))
                crimes.append(CrimeRow(label, model, zero, *pair))
    return Outcome(
        study,
        settings,
        arms,
        gates,
        judged,
        crimes,
        list(leaks),
        list(notes),
        skipped,
        [
            {"arm": job.label, "model": job.model, "seed": job.seed, **asdict(score)}
            for job, result in results.items()
            for score in result.scores
        ]
        + [
            {"arm": study.untrained, "model": "", "seed": 0, **asdict(one)}
            for one in (baseline.scores if baseline else ())
        ],
        _pictures(study, results, baseline),
        sum(one.seconds for one in results.values()),
    )


def _tables(study: Study, seeds: Sequence[Sequence[Score]]) -> dict[tuple[str, str], Table]:
    """Return `(seed subject)` by condition and metric."""
    subject_of = {one.volume: one.subject for one in seeds[0]}
    where = dict.fromkeys(one.condition for one in seeds[0])
    return {
        (condition, metric): by_subject(
            [{one.volume: one.metrics[metric] for one in scores if one.condition == condition} for scores in seeds],
            subject_of,
        )[1]
        for condition in where
        for metric in study.metrics
    }


def _arm_row(
    study: Study,
    label: str,
    model: str,
    job: Job | None,
    results: Sequence[Result],
    own: Mapping[tuple[str, str], Table],
    tables: Mapping[str, Mapping[tuple[str, str], Table]],
) -> ArmRow:
    first = next(iter(study.metrics))
    means = {
        where: {metric: estimate(own[where, metric], study.statistics) for metric in study.metrics}
        for where in study.conditions
    }
    closed = {
        where: share_closed(
            tables[ZERO][where, first],
            np.broadcast_to(own[where, first], tables[ZERO][where, first].shape),
            tables[REAL][where, first],
            study.statistics,
        )
        for where in study.conditions
    }
    curves = np.array([[loss for _, loss in one.curve] for one in results])
    steps = [step for step, _ in results[0].curve]
    curve = [(step, float(loss)) for step, loss in zip(steps, curves.mean(axis=0), strict=True)]
    facts = dict(results[0].facts)
    return ArmRow(
        label, model, facts, job.arm.real_percent if job else 0.0, job.arm.corpus if job else None, means, closed, curve
    )


def _gate(
    study: Study,
    where: str,
    tables: Mapping[str, Mapping[tuple[str, str], Table]],
    start: Mapping[tuple[str, str], Table] | None,
) -> Gate:
    first = next(iter(study.metrics))
    zero, real = (float(tables[name][where, first].mean()) for name in (ZERO, REAL))
    untrained = None if start is None or not study.must_beat_untrained else float(start[where, first].mean())
    return sanity(where, zero, real, untrained, study.metrics[first], study.untrained or "")


def _pictures(
    study: Study, results: Mapping[Job, Result], baseline: Result | None
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Return the pictures by volume, then by arm: the truth, what is untrained, and every arm of the first seed."""
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    if baseline is not None:
        for name, image in baseline.pictures.items():
            if name.startswith("truth "):
                found.setdefault(name.removeprefix("truth "), {})["truth"] = image
        for name in list(found):
            found[name][study.untrained or ""] = baseline.pictures[name]
    for job, result in results.items():
        if job.seed == 0:
            models = len({one.model for one in results}) > 1
            for name, image in result.pictures.items():
                found.setdefault(name, {})[f"{job.label} ({job.model})" if models else job.label] = image
    return found
