"""The tables of an evaluation, for Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rephase.evaluation.classifier import CONTROLS, FamilySeparation
from rephase.evaluation.comparison import Evaluation
from rephase.evaluation.intervals import Estimate
from rephase.evaluation.metrics import METRICS
from rephase.evaluation.scores import FLOOR, REAL
from rephase.manifests.splits import HELD_BACK
from rephase.pages import counted

_TITLES = tuple(f"{metric.title} ({metric.unit})" if metric.unit else metric.title for metric in METRICS)


@dataclass(frozen=True)
class Section:
    """A table with a title and an explanation; without rows, only the explanation."""

    title: str
    words: str
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def sections(result: Evaluation) -> Iterator[Section]:
    """Yield the tables of an evaluation, conclusions by family first; empty ones are dropped."""
    for family in dict.fromkeys(one.family for one in result.families):
        yield _family(result, family)
    yield from (_classifier(one) for one in result.classifier)
    yield _nearer(result)
    yield from _differences(result)
    yield _distances(result)
    yield _values(result)
    if result.skipped:
        yield Section("Skipped rows", "Rows that were not used.", ("reason",), tuple((one,) for one in result.skipped))


def markdown(result: Evaluation) -> str:
    """Return all tables as Markdown."""
    parts = [f"# Generated against real phase\n\n{headline(result)}"]
    for section in sections(result):
        parts.append(f"## {section.title}\n\n{section.words}")
        if section.rows:
            parts.append(markdown_table(section))
    return "\n\n".join(parts)


def markdown_table(section: Section) -> str:
    """Return the table of a section as Markdown."""
    return "\n".join(_line(row) for row in (section.header, ("---",) * len(section.header), *section.rows))


def headline(result: Evaluation) -> str:
    """Return one line with the machine and the data of the evaluation."""
    machine, settings = result.machine, result.settings
    split = f"split {settings['split']}"
    if settings["split"] == HELD_BACK:
        split += " (held back: no choice may use these figures)"
    withheld = f", withheld from the generators: {', '.join(settings['withheld'])}" if settings["withheld"] else ""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, device {machine['device']}, torch {machine['torch']}; manifest "
        f"SHA-256 {settings['manifest_sha256'][:12]}, {split}{withheld}, seed {settings['seed']}, "
        f"{counted(settings['slices'], 'slice')} of {counted(settings['volumes'], 'volume')} in "
        f"{counted(settings['sessions'], 'session')}."
    )


def _family(result: Evaluation, family: str) -> Section:
    members = [one for one in result.families if one.family == family]
    words = (
        f"Distances from the real phase of the session, mean over {counted(members[0].sessions, 'session')} "
        f"({counted(members[0].groups, 'group')}, {counted(members[0].slices, 'slice')}) of the family {family}; lower "
        "is better. In brackets, the bootstrap interval over groups where there are enough. The first row is the real "
        "phase: the "
        f"value of each statistic. `{FLOOR}` is another echo or run of the session, where there is one. The last two "
        "columns also show the generator's own value, after the distance."
    )
    rows = []
    for one in members:
        shown = one.values if one.generator == REAL else one.distances
        cells = [_estimate(shown[metric.name]) for metric in METRICS]
        if one.generator not in (REAL, FLOOR):
            for place, metric in enumerate(METRICS):
                if metric.shows_value:
                    cells[place] += f"; {_figure(one.values[metric.name].mean)}"
        rows.append((f"{one.generator}: values" if one.generator == REAL else one.generator, *cells))
    return Section(f"Distances, {family}", words, ("generator", *_TITLES), tuple(rows))


def _classifier(found: FamilySeparation) -> Section:
    title = f"Real or generated, {found.family if found.separations else 'all'}"
    verdict = "" if found.measurable else f"**Not measurable**: {found.reason}. The figures do not count. "
    words = (
        f"{verdict}AUROC of a classifier of generated against real slices, in groups that it was not trained on "
        f"({counted(found.slices, 'slice')}, {counted(found.groups, 'group')}), with the bootstrap interval over "
        "groups. What counts is its distance from 0.5, on either side. "
        f"{', '.join(CONTROLS[:-1])} and {CONTROLS[-1]} phase show that it can tell; real against real phase: "
        f"{found.null:.3f}."
    )
    rows = tuple(
        (
            one.generator,
            _with_interval(one.auroc, one.low, one.high, 3),
            _with_interval(one.distance, one.distance_low, one.distance_high, 3),
            one.verdict if found.measurable else "-",
        )
        for one in found.separations
    )
    return Section(title, words, ("generator", "AUROC", "distance from 0.5", "within the limit"), rows)


def _nearer(result: Evaluation) -> Section:
    title = "Baselines nearer than the model"
    roles = {one["label"]: one["role"] for one in result.generators}
    wanted = ("model", "baseline")
    lines = [one for one in result.differences if (roles[one.generator], roles[one.reference]) == wanted]
    if not lines:
        return Section(title, "No model was compared with a baseline.")
    rows = tuple(
        (
            *(one.family, one.metric, one.generator, one.reference),
            _estimate(one.mean),
            ", ".join(name for name, value in one.by_session.items() if value >= 0),
        )
        for one in lines
        if any(value >= 0 for value in one.by_session.values())
    )
    if not rows:
        return Section(title, "No baseline is nearer to the real phase than the model, in any session.")
    words = (
        "Distance of the model minus that of the baseline, mean over the sessions, and the sessions in which the "
        "baseline is as near or nearer."
    )
    header = ("family", "metric", "model", "baseline", "mean difference", "sessions")
    return Section(title, words, header, rows)


def _differences(result: Evaluation) -> Iterator[Section]:
    keys = dict.fromkeys((one.family, one.generator, one.reference) for one in result.differences)
    found = {(one.family, one.generator, one.reference, one.metric): one for one in result.differences}
    rows = []
    for key in keys:
        lines = [found.get((*key, metric.name)) for metric in METRICS]
        cells = [
            "-" if one is None else f"{_estimate(one.mean, signed=True)}; {one.nearer} of {one.mean.sessions}"
            for one in lines
        ]
        rows.append((*key, *cells))
    if rows:
        words = (
            "Paired differences of the distances: negative where the generator is nearer to the real phase than the "
            "reference. Mean over the sessions, in brackets the interval over groups, then the sessions in which the "
            "generator is nearer."
        )
        yield Section("Paired differences", words, ("family", "generator", "reference", *_TITLES), tuple(rows))


def _distances(result: Evaluation) -> Section:
    rows = tuple(
        (*_session(one.session, one.family, one.slices), one.generator, *_figures(one.distances))
        for one in result.scores
        if one.generator != REAL
    )
    words = "Distance of each generator's phase from the real phase of the session, over the object; lower is better."
    return Section("Distances by session", words, ("session", "family", "generator", *_TITLES), rows)


def _values(result: Evaluation) -> Section:
    rows = tuple(
        (
            *_session(one.session, one.family, one.slices),
            one.generator,
            *_figures(one.values),
            _figure(one.diversity),
        )
        for one in result.scores
    )
    words = (
        "Each statistic in one number: mean modulus of gradients, else mean over slices; the circular variance is 1 "
        "minus the mean resultant length. `diversity` is the circular variance over samples of one slice; for the "
        "floor, over the real volumes of the session."
    )
    header = ("session", "family", "generator", *(metric.title for metric in METRICS), "diversity")
    return Section("Values by session", words, header, rows)


def _session(name: str, family: str, slices: int) -> tuple[str, str]:
    return f"{name} ({counted(slices, 'slice')})", family


def _figures(values: Mapping[str, float]) -> list[str]:
    return [_figure(values[metric.name]) for metric in METRICS]


def _estimate(one: Estimate, signed: bool = False) -> str:
    return _with_interval(one.mean, one.low, one.high, 3, signed)


def _with_interval(value: float, low: float | None, high: float | None, digits: int, signed: bool = False) -> str:
    def shown(number: float) -> str:
        return f"{number:+.{digits}g}" if signed else f"{number:.{digits}g}"

    if not math.isfinite(value):
        return "-"
    return shown(value) if low is None or high is None else f"{shown(value)} ({shown(low)} to {shown(high)})"


def _figure(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
