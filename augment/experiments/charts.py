"""Charts of an experiment: arms with their intervals, the share of real data, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rephase.evaluation.charts import BOTTOM, LEFT, RIGHT, TOP, Chart, Line, round_numbers, scale
from rephase.experiments.arms import NATURAL, REAL
from rephase.experiments.conclusions import ArmRow, Outcome
from rephase.experiments.statistics import Estimate

_COLOURS = 9
Point = tuple[float, Estimate]


def title_of(metric: str) -> str:
    """Return the name of a metric as it is written: an abbreviation, or a surname."""
    return {"dice": "Dice"}.get(metric, metric.upper())


def make_charts(outcome: Outcome) -> list[tuple[str, list[Chart]]]:
    """Return the charts of each network, with its name."""
    charts = []
    for model in outcome.gates:
        members = [one for one in outcome.arms if one.model == model]
        styles = {one.label: _style(one, place) for place, one in enumerate(members)}
        metric = next(iter(outcome.study.metrics))
        found = []
        for condition in outcome.study.conditions:
            points = [
                (one.label, styles[one.label], [(float(place), one.means[condition][metric])])
                for place, one in enumerate(members)
            ]
            found.append(
                _chart(f"{title_of(metric)}, {condition}", "arm, in the order of the key", title_of(metric), points, [])
            )
        hardest = outcome.study.conditions[-1]
        shares = _shares(members, styles, hardest, metric)
        if shares:
            found.append(
                _chart(
                    f"{title_of(metric)} by real subjects, {hardest}",
                    "% of subjects",
                    title_of(metric),
                    shares,
                    [0, 25, 50, 75, 100],
                )
            )
        curves = [
            (one.label, styles[one.label], [(float(step), Estimate(loss, None, None)) for step, loss in one.curve])
            for one in members
            if one.curve
        ]
        last = max(step for one in members for step, _ in one.curve)
        found.append(_chart("Training loss", "update", "loss", curves, round_numbers(0, last)))
        charts.append((model, found))
    return charts


def _shares(
    members: Sequence[ArmRow], styles: Mapping[str, str], condition: str, metric: str
) -> list[tuple[str, str, list[Point]]]:
    """Return lines over the share of real subjects: alone, and with each corpus, in the style of its mixture."""
    real = [one for one in members if one.real_percent and one.label.startswith(REAL) and one.corpus is None]
    lines = []
    if len(real) > 1:
        lines.append((REAL, "real", _sorted(real, condition, metric)))
    mixtures = {one.corpus: styles[one.label] for one in members if one.corpus and one.real_percent}
    for corpus, style in mixtures.items():
        mixed = [one for one in members if one.corpus == corpus and (one.real_percent or one.label == corpus)]
        lines.append((f"real + {corpus}", style, _sorted(mixed, condition, metric)))
    return lines


def _sorted(members: Sequence[ArmRow], condition: str, metric: str) -> list[Point]:
    return sorted(((one.real_percent, one.means[condition][metric]) for one in members), key=lambda point: point[0])


def _style(one: ArmRow, place: int) -> str:
    if one.label == REAL:
        return "real"
    return f"model m{place % _COLOURS}" if one.real_percent or one.label == NATURAL else f"c{place % _COLOURS}"


def _chart(
    title: str, x_title: str, y_title: str, lines: Sequence[tuple[str, str, list[Point]]], ticks: Sequence[float]
) -> Chart:
    xs = [x for *_, points in lines for x, _ in points]
    ends = [
        end for *_, points in lines for _, one in points for end in (one.mean, one.low, one.high) if end is not None
    ]
    low, high = min(ends), max(ends)
    room = 0.08 * (high - low) or 0.08 * abs(high) or 1.0
    x_of = scale(min(xs) - 0.5, max(xs) + 0.5, LEFT + 4, RIGHT - 4, False)
    y_of = scale(low - room, high + room, BOTTOM, TOP, False)
    drawn = []
    for label, style, points in lines:
        path = " ".join(f"{'L' if n else 'M'}{x_of(x):.1f} {y_of(p.mean):.1f}" for n, (x, p) in enumerate(points))
        if len(points) == 1:  # a mark instead of a line
            x, y = x_of(points[0][0]), y_of(points[0][1].mean)
            path = f"M{x - 5:.1f} {y:.1f}H{x + 5:.1f}"
        bars = tuple(
            (round(x_of(x), 1), round(y_of(p.high), 1), round(y_of(p.low), 1))
            for x, p in points
            if p.low is not None and p.high is not None
        )
        drawn.append(Line(label, style, path, bars))
    return Chart(
        title,
        x_title,
        y_title,
        tuple((round(x_of(x), 1), f"{x:g}") for x in ticks),
        tuple((round(y_of(y), 1), f"{y:g}") for y in round_numbers(low - room, high + room)),
        tuple(reversed(drawn)),
    )
