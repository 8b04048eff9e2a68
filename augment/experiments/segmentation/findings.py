"""What the figures of the experiment on segmentation show, and what they do not, in sentences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rephase.diffusion.phases import generated_phases
from rephase.experiments.arms import ANGLE, MAGNITUDE_ONLY, REAL, ZERO
from rephase.experiments.conclusions import ArmRow, Outcome
from rephase.experiments.segmentation.config import REAL_TEST
from rephase.experiments.statistics import Estimate, by_subject, estimate

_NEAR = 0.01
"""Dice within which means without intervals count as a tie."""


def findings(outcome: Outcome, labels: str) -> list[str]:
    """Return sentences on labels, spread of phase, ranking of generators, and simple baselines that tie."""
    found = [
        f"Labels: {labels}.",
        "Dice and HD95 (mm) are of whole volumes, empty slices too: a false pixel there counts. Two empty masks have a "
        "Dice of 1 and a distance of 0; a distance to an empty mask counts as the diagonal of the volume.",
    ]
    for model, gates in outcome.gates.items():
        rows = {one.label: one for one in outcome.arms if one.model == model}
        if not all(gate.measurable for gate in gates):
            found.append(f"{model}: not measurable, so nothing follows from its figures.")
            continue
        found += [f"{model}: {text}" for text in _spread(outcome, model, rows)]
        found += [f"{model}: {text}" for text in (_ranking(rows), *_ties(outcome, model, rows)) if text]
    return found


def _spread(outcome: Outcome, model: str, rows: dict[str, ArmRow]) -> list[str]:
    """Say whether all other phases are better than zero phase, by the interval of the paired difference."""
    zero = rows[ZERO]
    others = [row for label, row in rows.items() if label in (*generated_phases(), ANGLE) and label != ZERO]
    if not others:
        return []
    text = f"zero phase {_text(zero)}, real {_text(rows[REAL])}"
    ahead = {
        row.label: estimate(_table(outcome, model, row.label) - _table(outcome, model, ZERO), outcome.study.statistics)
        for row in others
    }
    below = [label for label, one in ahead.items() if not one.mean > 0]
    unclear = [label for label, one in ahead.items() if one.mean > 0 and one.low is not None and one.low <= 0]
    if below or unclear:
        parts = [f"{', '.join(below)} no better than zero phase"] if below else []
        if unclear:
            parts.append(f"{', '.join(unclear)} above zero phase, but the interval of the difference contains 0")
        return [f"{text}; {'; '.join(parts)}"]
    lowest = min(others, key=lambda row: dice_of(row).mean)
    above = f"{text}, and every other phase above zero (the lowest: {lowest.label} {_text(lowest)})"
    if any(one.low is None for one in ahead.values()):
        return [f"{above}, with too few test subjects for intervals"]
    return [f"{above}: the experiment separates any spread of phase in training from none"]


def _ranking(rows: dict[str, ArmRow]) -> str:
    """Say which generators the intervals do not separate."""
    members = [row for label, row in rows.items() if label in generated_phases() and label != ZERO]
    if len(members) < 2:
        return ""
    names = ", ".join(row.label for row in members)
    if any(dice_of(row).low is None for row in members):
        return f"it cannot rank {names}: there are too few test subjects for intervals"
    apart = [f"{a.label} and {b.label}" for n, a in enumerate(members) for b in members[n + 1 :] if not overlap(a, b)]
    if not apart:
        return f"it cannot rank {names}: all of their intervals overlap"
    return f"of {names}, the intervals separate only {'; '.join(apart)}: the others are not ranked"


def _ties(outcome: Outcome, model: str, rows: dict[str, ArmRow]) -> list[str]:
    """Say which simple baselines are as good as the best synthetic phase, by the interval of the paired difference."""
    synthetic = [row for label, row in rows.items() if label in generated_phases()]
    best = max(synthetic, key=lambda row: dice_of(row).mean)
    found = []
    for label, what in (
        (MAGNITUDE_ONLY, "a network that is given no phase at all"),
        (outcome.study.untrained, "a threshold of the magnitude, without a network"),
        (ANGLE, "one random angle per slice"),
        ("smooth", "a random polynomial"),
    ):
        if label is None or label not in rows or label == best.label:
            continue
        row = rows[label]
        ahead = estimate(_table(outcome, model, best.label) - _table(outcome, model, label), outcome.study.statistics)
        if ahead.mean <= _NEAR or (ahead.low is not None and ahead.low <= 0):
            found.append(
                f"{label}, {what}, has {_text(row)} and ties or beats the best synthetic phase, {best.label} "
                f"{_text(best)}: the latter is no evidence for that phase"
            )
    return found


def _table(outcome: Outcome, model: str, label: str) -> NDArray[np.float64]:
    """Return the Dice of an arm on real data, `(seed subject)`; what needs no network has one seed."""
    seeds: dict[int, dict[str, float]] = {}
    subject_of = {}
    for one in outcome.scores:
        if one["arm"] == label and one["model"] in (model, "") and one["condition"] == REAL_TEST:
            seeds.setdefault(one["seed"], {})[one["volume"]] = one["metrics"]["dice"]
            subject_of[one["volume"]] = one["subject"]
    return by_subject([seeds[seed] for seed in sorted(seeds)], subject_of)[1]


def overlap(a: ArmRow, b: ArmRow) -> bool:
    """Return whether the intervals of two arms overlap; False if there are none."""
    one, other = dice_of(a), dice_of(b)
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low <= other.high and other.low <= one.high


def dice_of(row: ArmRow) -> Estimate:
    """Return the Dice of an arm on real data."""
    return row.means[REAL_TEST]["dice"]


def _text(row: ArmRow) -> str:
    one = dice_of(row)
    return f"{one.mean:.2f}" + ("" if one.low is None else f" ({one.low:.2f} to {one.high:.2f})")
