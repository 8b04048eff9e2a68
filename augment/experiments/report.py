"""JSON, tables and page of an experiment."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

from rephase.evaluation.page import CHART_SIZE, section_table
from rephase.evaluation.tables import Section, markdown_table
from rephase.experiments.charts import make_charts, title_of
from rephase.experiments.conclusions import ArmRow, Outcome
from rephase.experiments.statistics import Estimate
from rephase.files import replacing
from rephase.pages import counted, render
from rephase.pictures import picture_magnitude

_DIGITS = {"nmse": 4, "ssim": 3, "psnr": 2, "dice": 3, "hd95": 1}
_ARROWS = {True: "↓", False: "↑"}


def write(outcome: Outcome, folder: Path) -> None:
    """Write `<experiment>.json`, `.md` and `.html`."""
    name = outcome.study.experiment
    texts = {
        "json": json.dumps(_finite(outcome.to_json()), indent=1) + "\n",
        "md": markdown(outcome) + "\n",
        "html": _page(outcome),
    }
    for suffix, text in texts.items():
        with replacing(folder / f"{name}.{suffix}") as partial:
            partial.write_text(text, encoding="utf-8")


def markdown(outcome: Outcome) -> str:
    """Return all tables as Markdown."""
    parts = [f"# {_title(outcome)}\n\n{headline(outcome)}"]
    for section in sections(outcome):
        parts.append(f"## {section.title}\n\n{section.words}")
        if section.rows:
            parts.append(markdown_table(section))
    return "\n\n".join(parts)


def headline(outcome: Outcome) -> str:
    """Return one line with the machine and the data."""
    settings = outcome.settings
    machine, rows = settings["machine"], settings["rows"]
    sizes = ", ".join(
        f"{what} {counted(rows[name]['volumes'], 'volume')} of {counted(rows[name]['subjects'], 'subject')}"
        for name, what in (("train", "training"), ("magnitudes", "magnitudes"), ("test", "test"))
    )
    return (
        f"{machine['cpu']}, {machine['cores']} cores, device {machine['device']}, torch {machine['torch']}; {sizes}; "
        f"{counted(settings['config']['seeds'], 'seed')}."
    )


def sections(outcome: Outcome) -> Iterator[Section]:
    """Yield the tables: whether anything was measured, verdicts, arms, controls."""
    if outcome.findings:
        yield Section(
            "What it shows",
            "In words, from the figures below.",
            ("finding",),
            tuple((one,) for one in outcome.findings),
        )
    yield _gates(outcome)
    models = list(outcome.gates)
    for model in models:
        measurable = {one.condition for one in outcome.gates[model] if one.measurable}
        yield _comparisons(outcome, model, measurable)
        for condition in outcome.study.conditions:
            yield _arms(outcome, model, condition, condition in measurable)
    if outcome.crimes:
        yield _crimes(outcome)
    lines = [(one.text,) for one in outcome.leaks if one.text]
    yield Section(
        "What the generator has seen",
        "Weights that were trained on rows of the experiment have an advantage there: such arms are marked with a "
        "star; a generator that was trained on other subjects is the clean one."
        if lines
        else "No arm samples with weights that were trained on rows of the experiment, by the hashes of their sources.",
        ("arm",) if lines else (),
        tuple(lines),
    )
    if outcome.notes:
        yield Section(
            "Notes",
            "What the data do not allow, and rows that were not used.",
            ("note",),
            tuple((one,) for one in outcome.notes),
        )


def _gates(outcome: Outcome) -> Section:
    rows = tuple(
        (model, gate.condition, "measurable" if gate.measurable else "not measurable", gate.reason or "-")
        for model, gates in outcome.gates.items()
        for gate in gates
    )
    return Section(
        "Can anything be measured?",
        "A condition counts only if "
        + ("real data train a better one than none, and " if outcome.study.must_beat_untrained else "")
        + "zero phase trains a worse network than real data; otherwise the data or the network are too small, and its "
        "table ranks nothing.",
        ("network", "test", "result", "reason"),
        rows,
    )


def _comparisons(outcome: Outcome, model: str, measurable: set[str]) -> Section:
    rows = []
    for one in outcome.judged[model]:
        what, digits = one.comparison, _DIGITS.get(one.comparison.metric, 4)
        counts = what.condition in measurable
        rows.append(
            (
                f"{_starred(outcome, what.arm)} - {_starred(outcome, what.against)}",
                f"{title_of(what.metric)}, {what.condition}",
                _number(one.difference, digits, sign=True),
                f"{one.margin:.{digits}f}",
                _yes(one.non_inferior),
                _yes(one.equivalent),
                one.verdict if counts else "not measurable",
            )
        )
    level = 100 * outcome.study.statistics.level
    return Section(
        f"Comparisons, {model}",
        f"Differences and margins that were fixed before the run, with {level:g} % intervals: bootstrap over seeds and "
        "subjects. Not inferior: the worse end of the interval is within the margin. Equivalent: both one-sided tests "
        "reject a difference of the margin (TOST).",
        ("difference", "metric", "mean", "margin", "not inferior", "equivalent", "verdict"),
        tuple(rows),
    )


def _arms(outcome: Outcome, model: str, condition: str, measurable: bool) -> Section:
    first = next(iter(outcome.study.metrics))
    members = [one for one in outcome.arms if one.model == model]
    sign = 1 if outcome.study.metrics[first] else -1
    members.sort(key=lambda one: sign * one.means[condition][first].mean)
    words = (
        f"Means over subjects and seeds, the best first, with intervals over both where there are "
        f"{outcome.study.statistics.subjects} test subjects. Gap closed: the share of the difference between zero and "
        f"real phase, in {title_of(first)}."
    )
    words += "" if measurable else " **Not measurable** (see above): the order means nothing."
    header = ("arm", *(f"{title_of(name)} {_ARROWS[lower]}" for name, lower in outcome.study.metrics.items()))
    return Section(
        f"{condition[0].upper()}{condition[1:]}, {model}",
        words,
        (*header, "gap closed", "slices", "subjects", "updates"),
        tuple(_arm_cells(outcome, one, condition) for one in members),
    )


def _arm_cells(outcome: Outcome, one: ArmRow, condition: str) -> tuple[str, ...]:
    share = one.closed[condition]
    closed = "-" if math.isnan(share.mean) else f"{round(100 * share.mean)} %"
    if share.low is not None and share.high is not None:
        closed += f" ({round(100 * share.low)} to {round(100 * share.high)})"
    return (
        _starred(outcome, one.label),
        *(_number(one.means[condition][name], _DIGITS.get(name, 4)) for name in outcome.study.metrics),
        closed,
        *(str(one.facts.get(name, "-")) for name in ("slices", "subjects", "updates")),
    )


def _crimes(outcome: Outcome) -> Section:
    metrics = tuple(outcome.study.metrics)
    rows = tuple(
        (
            one.label,
            one.model,
            one.condition,
            *(f"{values[name]:.{_DIGITS.get(name, 4)}f}" for values in (one.zero, one.real) for name in metrics),
        )
        for one in outcome.crimes
    )
    return Section(
        "The data crime",
        "Tested on the magnitudes of the test volumes with zero phase, as when k-space is computed from images, and on "
        "their real k-space. A figure on the left says nothing about the right (Shimron et al., PNAS 2022).",
        (
            "arm",
            "network",
            "test",
            *(f"{title_of(name)} on zero phase" for name in metrics),
            *(f"{title_of(name)} on real" for name in metrics),
        ),
        rows,
    )


def _page(outcome: Outcome) -> str:
    examples = [
        (
            name,
            [(title, picture_magnitude(image)) for title, image in images.items()],
            next(iter(images.values())).shape,
        )
        for name, images in outcome.pictures.items()
    ]
    return render(
        "experiment.html",
        title=_title(outcome),
        experiment=outcome.study.experiment,
        headline=headline(outcome),
        charts=make_charts(outcome),
        size=CHART_SIZE,
        examples=[(name, pictures, shape[1] / shape[0]) for name, pictures, shape in examples],
        tables=[section_table(one) for one in sections(outcome)],
        now=time.time(),
    )


def _title(outcome: Outcome) -> str:
    return f"{outcome.study.experiment.capitalize()} on real data, by what the network was trained on"


def _starred(outcome: Outcome, label: str) -> str:
    leaking = {one.arm for one in outcome.leaks if one.text}
    marked = any(
        name in label.replace("+", " ").replace(":", " ").replace(">", " ").replace(",", " ").split()
        for name in leaking
    )
    return f"{label} *" if marked else label


def _number(value: Estimate, digits: int, sign: bool = False) -> str:
    text = f"{value.mean:{'+' if sign else ''}.{digits}f}"
    if value.low is not None and value.high is not None:
        text += f" ({value.low:.{digits}f} to {value.high:.{digits}f})"
    return text


def _yes(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"


def _finite(value: object) -> object:
    """Replace NaN and infinity, which JSON has not, by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
