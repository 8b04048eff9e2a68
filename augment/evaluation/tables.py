"""The tables of an evaluation, for Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rephase.evaluation.comparison import Evaluation
from rephase.evaluation.metrics import METRICS
from rephase.evaluation.scores import REAL


@dataclass(frozen=True)
class Section:
    """A table with a title and an explanation; without rows, only the explanation."""

    title: str
    words: str
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def sections(result: Evaluation) -> Iterator[Section]:
    """Yield the tables of an evaluation; empty ones are dropped."""
    yield _distances(result)
    yield _values(result)
    yield from _gaps(result)
    yield from _differences(result)
    yield from _classifier(result)
    yield from _verdicts(result)
    yield _ties(result)
    if result.skipped:
        yield Section("Skipped rows", "Rows that were not used.", ("reason",), tuple((one,) for one in result.skipped))


def markdown(result: Evaluation) -> str:
    """Return all tables as Markdown."""
    parts = [f"# Generated against real phase\n\n{headline(result)}"]
    for section in sections(result):
        parts.append(f"## {section.title}\n\n{section.words}")
        if section.rows:
            parts.append(
                "\n".join(_line(row) for row in (section.header, ("---",) * len(section.header), *section.rows))
            )
    return "\n\n".join(parts)


def headline(result: Evaluation) -> str:
    """Return one line with the machine and the data of the evaluation."""
    machine, settings = result.machine, result.settings
    return (
        f"{machine['cpu']}, {machine['cores']} cores, device {machine['device']}, torch {machine['torch']}; manifest "
        f"SHA-256 {settings['manifest_sha256'][:12]}, split {settings['split'] or 'all'}, seed {settings['seed']}, "
        f"{settings['slices']} slices of {settings['volumes']} volumes in {settings['sessions']} sessions."
    )


def _distances(result: Evaluation) -> Section:
    rows = tuple(
        (
            _session(one.session, one.descriptive, one.slices),
            one.generator,
            *(_figure(one.distances[metric.name]) for metric in METRICS),
        )
        for one in result.scores
        if one.generator != REAL
    )
    words = (
        "Distance of each generator's phase from the real phase of the session, over the object; lower is better. "
        "`real (other volume)` is the floor: another echo or run of the session. Sessions marked * are descriptive and "
        "excluded from every conclusion."
    )
    return Section(
        "Distances", words, ("session", "generator", *(_titled(metric.title, metric.unit) for metric in METRICS)), rows
    )


def _values(result: Evaluation) -> Section:
    rows = tuple(
        (
            _session(one.session, one.descriptive, one.slices),
            one.generator,
            *(_figure(one.values[metric.name]) for metric in METRICS),
            _figure(one.diversity),
        )
        for one in result.scores
    )
    words = (
        "Each statistic in one number: mean modulus of gradients, else mean over slices; the circular variance is 1 "
        "minus the mean resultant length. `diversity` is the circular variance over samples of one slice; for the "
        "floor, over the real volumes of the session."
    )
    return Section("Values", words, ("session", "generator", *(metric.title for metric in METRICS), "diversity"), rows)


def _gaps(result: Evaluation) -> Iterator[Section]:
    metrics = list(dict.fromkeys(one.metric for one in result.gaps))
    rows = []
    for key in dict.fromkeys((one.session, one.generator) for one in result.gaps):
        found = {one.metric: one.percent for one in result.gaps if (one.session, one.generator) == key}
        rows.append((*key, *("-" if found[name] is None else f"{found[name]:.0f} %" for name in metrics)))
    if rows:
        words = (
            "Part of the gap between `smooth` and the floor that a generator closes: 100 % reaches the floor, below 0 "
            "is farther than `smooth`; `-` where `smooth` is within the margin of the floor."
        )
        yield Section(
            "Closed part of the gap between smooth and floor", words, ("session", "generator", *metrics), tuple(rows)
        )


def _differences(result: Evaluation) -> Iterator[Section]:
    sessions = list(dict.fromkeys(one.session for one in result.scores))
    rows = [
        (
            *(one.generator, one.reference, one.metric),
            *(f"{one.by_session[name]:+.4g}" if name in one.by_session else "-" for name in sessions),
            "-" if one.mean is None else f"{one.mean:+.4g}",
            "-" if one.low is None or one.high is None else f"{one.low:+.4g} to {one.high:+.4g}",
        )
        for one in result.differences
    ]
    if rows:
        words = (
            "Paired differences of the distances, by session: negative where the generator is nearer to the real phase "
            "than the reference. Mean over the sessions that are not descriptive; bootstrap interval only with enough "
            "of them."
        )
        header = ("generator", "reference", "metric", *sessions, "mean", "interval")
        yield Section("Paired differences", words, header, tuple(rows))


def _classifier(result: Evaluation) -> Iterator[Section]:
    found = result.classifier
    if found is None:
        return
    verdict = "" if found.measurable else f"**Not measurable**: {found.reason}. The figures do not count. "
    words = (
        f"{verdict}Area under the ROC curve of a small classifier of generated against real slices, on sessions "
        f"that it was not trained on: 0.5 is the best, 1 the worst. Real against real phase: {found.null:.3f}."
    )
    rows = tuple((label, f"{value:.3f}") for label, value in found.auroc.items())
    yield Section("Real or generated", words, ("generator", "AUROC"), rows)


def _verdicts(result: Evaluation) -> Iterator[Section]:
    rows = tuple(
        (
            one.generator, one.reference, one.metric, _figure(one.difference), _figure(one.worst), _figure(one.margin),
            {True: "no worse", False: "**worse**", None: "-"}[one.no_worse],
        )
        for one in result.verdicts
    )  # fmt: skip
    if rows:
        words = (
            "Distance of the generator minus that of the reference; the margins are fixed before the run. With few "
            "sessions, each one must be within the margin."
        )
        header = ("generator", "reference", "metric", "mean difference", "worst session", "margin", "verdict")
        yield Section("Non-inferiority", words, header, rows)


def _ties(result: Evaluation) -> Section:
    if not any(one["role"] == "model" for one in result.generators):
        return Section("Ties with baselines", "No model took part.")
    if not result.ties:
        return Section("Ties with baselines", "No baseline ties with the model or beats it.")
    words = "Cases in which a baseline is within the margin of the model, or nearer to the real phase."
    return Section("Ties with baselines", words, ("finding",), tuple((line,) for line in result.ties))


def _session(name: str, descriptive: bool, slices: int) -> str:
    return f"{name}{' *' if descriptive else ''} ({slices} slices)"


def _titled(title: str, unit: str) -> str:
    return f"{title} ({unit})" if unit else title


def _figure(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
