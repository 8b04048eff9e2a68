"""Charts of the page: mean curves of a family with bars for their intervals, in coordinates of an SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rephase.evaluation.comparison import Evaluation, FamilyCurve
from rephase.evaluation.curves import CURVES, Curve
from rephase.evaluation.intervals import Estimate
from rephase.evaluation.scores import REAL

WIDTH, HEIGHT = 480, 300
"""Size of a chart in its own units."""
LEFT, RIGHT, TOP, BOTTOM = 52, 470, 12, 252
"""Edges of the plot in the chart."""
_NUM_COLOURS = 9
_NUM_TICKS = 5
_NUM_BARS = 8
_HEADROOM = 1.5
"""The axis reaches this multiple of the real curve, or all of the models: lines of worse baselines are cut."""


@dataclass(frozen=True)
class Line:
    """A line of a chart: `style` is its class in the style sheet, `bars` are (x, upper end, lower end)."""

    label: str
    style: str
    path: str
    bars: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Chart:
    """One curve of all generators; ticks are (position, text)."""

    title: str
    x_title: str
    y_title: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]


def make_charts(result: Evaluation) -> dict[str, list[Chart]]:
    """Return the charts of each family; curves without a measured real phase are left out."""
    roles = {one["label"]: one["role"] for one in result.generators}
    baselines = [label for label, role in roles.items() if role == "baseline"]
    styles = {REAL: "real"} | {label: f"c{place % _NUM_COLOURS}" for place, label in enumerate(baselines)}
    models = [label for label, role in roles.items() if role != "baseline"]
    styles |= {label: f"model m{place % _NUM_COLOURS}" for place, label in enumerate(models)}
    charts: dict[str, list[Chart]] = {}
    for family in dict.fromkeys(one.family for one in result.curves):
        for curve in CURVES:
            members = [one for one in result.curves if (one.family, one.curve) == (family, curve.name)]
            if any(one.generator == REAL and _known(one.points) for one in members):
                charts.setdefault(family, []).append(_chart(curve, members, styles, {REAL, *models}))
    return charts


def _chart(curve: Curve, members: Sequence[FamilyCurve], styles: Mapping[str, str], important: set[str]) -> Chart:
    low, high = _limits(members, important)
    x_of = scale(curve.x[0], curve.x[-1], LEFT + 8, RIGHT - 8, curve.logarithmic)
    y_of = scale(low, high, BOTTOM, TOP, False)
    every = max(len(curve.x) // _NUM_BARS, 1)
    lines = []
    for order, one in enumerate(members):
        known = [(x_of(x), point) for x, point in zip(curve.x, one.points, strict=True) if _known([point])]
        path = " ".join(f"{'L' if place else 'M'}{x:.1f} {y_of(p.mean):.1f}" for place, (x, p) in enumerate(known))
        shift = 1.5 * (order - len(members) / 2)  # so that the bars of several lines stand side by side
        bars = tuple(
            (round(x + shift, 1), round(y_of(p.high), 1), round(y_of(p.low), 1))
            for x, p in known[every // 2 :: every]
            if p.low is not None and p.high is not None
        )
        lines.append(Line(one.generator, styles[one.generator], path, bars))
    # the important lines are drawn last, over the others
    lines.sort(key=lambda line: line.label in important)
    ticks = _powers(curve.x) if curve.logarithmic else round_numbers(0.0, 1.0)
    return Chart(
        curve.title,
        curve.x_title,
        curve.y_title,
        tuple((round(x_of(x), 1), f"{x:g}") for x in ticks),
        tuple((round(y_of(y), 1), f"{y:g}") for y in round_numbers(low, high)),
        tuple(lines),
    )


def _limits(members: Sequence[FamilyCurve], important: set[str]) -> tuple[float, float]:
    values = {one.generator: [end for p in one.points for end in (p.mean, p.low, p.high)] for one in members}
    finite = {name: [v for v in found if v is not None and math.isfinite(v)] for name, found in values.items()}
    top = max(max(finite[REAL]) * _HEADROOM, *(max(finite[name], default=0.0) for name in important if name in finite))
    bottom = min([0.0, *(min(found) for found in finite.values() if found)])
    return bottom, top if top > bottom else bottom + 1.0


def scale(low: float, high: float, start: float, end: float, logarithmic: bool) -> Callable[[float], float]:
    """Return the map of values from `low` to `high` to positions from `start` to `end`."""
    forward = math.log if logarithmic else float

    def position(value: float) -> float:
        share = (forward(value) - forward(low)) / (forward(high) - forward(low))
        return start + share * (end - start)

    return position


def _powers(xs: Sequence[float]) -> list[float]:
    """Return the abscissae themselves if they are few, else the powers of ten between them."""
    if len(xs) <= _NUM_BARS:
        return list(xs)
    first, last = math.ceil(math.log10(xs[0])), math.floor(math.log10(xs[-1]))
    return [10.0**power for power in range(first, last + 1)]


def round_numbers(low: float, high: float) -> list[float]:
    """Return about `_NUM_TICKS` multiples of 1, 2 or 5 times a power of ten from `low` to `high`."""
    least = (high - low) / _NUM_TICKS
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
    return [round(step * place, 10) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _known(points: Sequence[Estimate]) -> bool:
    return any(math.isfinite(point.mean) for point in points)
