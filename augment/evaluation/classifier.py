"""The classifier of real against generated phase: folds by group, AUROC by family, and when its figures count."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rephase.evaluation.config import ClassifierConfig, IntervalConfig
from rephase.evaluation.discriminator import score_items, train_network
from rephase.evaluation.intervals import draw_groups, percentiles
from rephase.evaluation.patches import Item
from rephase.evaluation.sessions import divide_groups

CONTROLS = ("zero", "white", "smooth")
"""Phases that the classifier must separate from real ones for its figures to be valid."""
ALL = "all"
"""All families together."""


@dataclass(frozen=True)
class Separation:
    """How well a generator is told from real phase in a family.

    `auroc` has an interval over groups, None with too few. `distance` is its distance from 0.5, on either side: below
    0.5 the classifier learned a difference that turns round in other groups, which is a difference too. `verdict` is
    "met" or "missed" if the interval is on one side of the limit, else "undecided".
    """

    generator: str
    auroc: float
    low: float | None
    high: float | None
    distance: float
    distance_low: float | None
    distance_high: float | None
    verdict: str


@dataclass(frozen=True)
class FamilySeparation:
    """Separations in one family, or in `ALL`.

    `null` is the AUROC of real against real phase. If not `measurable`, the figures are invalid, for the `reason`.
    """

    family: str
    slices: int
    groups: int
    measurable: bool
    reason: str
    null: float
    separations: tuple[Separation, ...] = ()


@dataclass(frozen=True)
class Ranking:
    """Pairs of a real and a generated slice of the same fold, counted by their groups.

    `wins[g, h]` are those in which the generated slice, of group h, scores higher than the real one, of group g (ties
    count 1/2); `pairs` are all. Their ratio is the AUROC (Mann and Whitney 1947), also for resampled groups.
    """

    groups: tuple[str, ...]
    wins: NDArray[np.float64]
    pairs: NDArray[np.float64]

    def __add__(self, other: Ranking) -> Ranking:
        return Ranking(self.groups, self.wins + other.wins, self.pairs + other.pairs)

    @property
    def auroc(self) -> float:
        """The share of pairs in order; NaN without pairs."""
        total = float(self.pairs.sum())
        return float(self.wins.sum()) / total if total else math.nan

    def interval(self, config: IntervalConfig) -> tuple[float | None, float | None]:
        """Return the bootstrap interval of the AUROC over groups; None with too few."""
        present = (self.pairs.sum(axis=0) > 0) | (self.pairs.sum(axis=1) > 0)
        if present.sum() < config.groups:
            return None, None
        weights = draw_groups(int(present.sum()), config)
        wins, pairs = (
            np.einsum("dg,gh,dh->d", weights, matrix[np.ix_(present, present)], weights)
            for matrix in (self.wins, self.pairs)
        )
        with np.errstate(invalid="ignore"):
            return percentiles(wins / pairs, config)


def classify(
    real: Sequence[Item],
    generated: Iterable[tuple[str, Sequence[Item]]],
    config: ClassifierConfig,
    interval: IntervalConfig,
    device: str = "cpu",
    progress: Callable[[], object] = lambda: None,
) -> tuple[FamilySeparation, ...]:
    """Train and test the classifier for each generator, and for real against real.

    Parameters
    ----------
    real
        The real slices.
    generated
        Label and slices of each generator, consumed one at a time; `CONTROLS` must be among them.
    config
        Architecture and budget.
    interval
        Bootstrap over groups.
    device
        "cpu" or "cuda".
    progress
        Called after each of `num_trainings` trainings.

    Returns
    -------
    separations
        Of all families, and of each if there are several. A group of slices is used either for training or for testing.
    """
    families = list(dict.fromkeys(item.family for item in real))
    names = tuple(dict.fromkeys(item.group for item in real))
    first, second = divide_groups((item.group for item in real), 2, (item.family for item in real))
    if not second:
        reason = "fewer than two sessions or volumes; expected two or more"
        return (FamilySeparation(ALL, len(real), len(names), False, reason, math.nan),)

    def both(one: Sequence[Item], other: Sequence[Item], seed: int) -> dict[str, Ranking]:
        found = []
        for train in (first, second):
            parts = [[item for item in items if item.group in train] for items in (one, other)]
            tests = [[item for item in items if item.group not in train] for items in (one, other)]
            scores = [np.empty(0), np.empty(0)]
            if all((*parts, *tests)):
                network = train_network(parts[0], parts[1], config, seed, device)
                scores = [score_items(network, part, config, seed, device) for part in tests]
            else:  # halves of so few slices that a class is missing: no pairs, and so no AUROC
                tests = [[], []]
            found.append({family: rank(tests, scores, names, family) for family in (ALL, *families)})
            progress()
        return {family: found[0][family] + found[1][family] for family in found[0]}

    draws = [both(*halve(real, draw), draw) for draw in range(config.null_draws)]
    rankings = {label: both(real, items, 0) for label, items in generated}
    nulls = {family: float(np.mean([draw[family].auroc for draw in draws])) for family in (ALL, *families)}
    leak = _null_reason(nulls[ALL], config)
    return tuple(
        _judge(
            family,
            [item for item in real if family in (ALL, item.family)],
            nulls[family],
            leak,
            {label: ranking[family] for label, ranking in rankings.items()},
            config,
            interval,
        )
        for family in ((ALL, *families) if len(families) > 1 else (ALL,))
    )


def num_trainings(num_generators: int, config: ClassifierConfig) -> int:
    """Return the number of networks that `classify` trains."""
    return 2 * (num_generators + config.null_draws)


def rank(
    items: Sequence[Sequence[Item]], scores: Sequence[NDArray[np.float64]], groups: tuple[str, ...], family: str = ALL
) -> Ranking:
    """Count the pairs of real (first) and generated slices in order, by group; of one family, or of all."""

    def of_group(part: Sequence[Item], score: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return score[[item.group == name and family in (ALL, item.family) for item in part]]

    members = [[of_group(part, score, name) for name in groups] for part, score in zip(items, scores, strict=True)]
    wins, pairs = np.zeros((len(groups), len(groups))), np.zeros((len(groups), len(groups)))
    for g, real in enumerate(members[0]):
        for h, generated in enumerate(members[1]):
            difference = generated[None, :] - real[:, None]
            wins[g, h] = ((difference > 0) + 0.5 * (difference == 0)).sum()
            pairs[g, h] = difference.size
    return Ranking(groups, wins, pairs)


def separation(generator: str, ranking: Ranking, limit: float, interval: IntervalConfig) -> Separation:
    """Return the AUROC of a generator, its distance from 0.5, and whether that is within the limit."""
    value, (low, high) = ranking.auroc, ranking.interval(interval)
    if low is None or high is None:
        return Separation(generator, value, None, None, abs(value - 0.5), None, None, "undecided")
    farthest = max(abs(low - 0.5), abs(high - 0.5))
    nearest = 0.0 if low <= 0.5 <= high else min(abs(low - 0.5), abs(high - 0.5))
    verdict = "met" if farthest <= limit else "missed" if nearest > limit else "undecided"
    return Separation(generator, value, low, high, abs(value - 0.5), nearest, farthest, verdict)


def halve(items: Sequence[Item], seed: int) -> tuple[list[Item], list[Item]]:
    """Split the slices of each group into two random classes of equal size, which do not differ."""
    random = np.random.Generator(np.random.Philox(key=[seed, 1]))
    halves: tuple[list[Item], list[Item]] = [], []
    place = 0  # runs on over the groups, so that groups of odd numbers do not fill up one class
    for key in dict.fromkeys((item.group, item.family) for item in items):
        members = [item for item in items if (item.group, item.family) == key]
        for index in random.permutation(len(members)):
            halves[place % 2].append(members[index])
            place += 1
    return halves


def _null_reason(null: float, config: ClassifierConfig) -> list[str]:
    """Return why the figures are invalid if real phase is told from real phase.

    All families together: what would leak is the procedure, and a family of a few slices is off 0.5 by chance.
    """
    width = config.limits.null
    known = abs(null - 0.5) <= width
    return [] if known else [f"AUROC of real against real phase {null:.3f}; expected 0.5 within {width}"]


def _judge(
    family: str,
    items: Sequence[Item],
    null: float,
    leak: Sequence[str],
    rankings: Mapping[str, Ranking],
    config: ClassifierConfig,
    interval: IntervalConfig,
) -> FamilySeparation:
    groups, least = len({item.group for item in items}), config.limits.separable
    reasons = [] if groups > 1 else ["one session or volume; expected two or more"]
    reasons += [
        f"AUROC of {name} against real phase {rankings[name].auroc:.3f}; expected {least} or more"
        for name in CONTROLS
        if not rankings[name].auroc >= least
    ]
    reasons += leak
    found = tuple(separation(label, ranking, config.limits.met, interval) for label, ranking in rankings.items())
    return FamilySeparation(family, len(items), groups, not reasons, "; ".join(reasons), null, found)
