"""Distributions of the numbers of a corpus, volumes far from the others, and the comparison of two corpora."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rephase.reports.facts import UNKNOWN, CorpusFacts

NUM_BINS = 24
WIDTH, HEIGHT, LEFT, BASE = 320, 150, 34, 122
"""Size of a histogram in its own units, its left edge and its base."""
FAR = 6.0
"""Distance from the median, in median absolute deviations (of a normal distribution: standard deviations)."""
MOST_OUTLIERS = 50
MOST_ROWS = 2000
_LEAST_VOLUMES = 8
_MOST_SHARES = 8


@dataclass(frozen=True)
class Histogram:
    """Bars as (x, y, width, height), ticks of the x axis as (x, text), and the largest share of a bar.

    `other` are the bars of a second corpus in the same bins.
    """

    title: str
    bars: tuple[tuple[float, float, float, float], ...]
    ticks: tuple[tuple[float, str], ...]
    top: str
    other: tuple[tuple[float, float, float, float], ...] = ()


def histograms(facts: CorpusFacts, other: CorpusFacts | None = None) -> list[Histogram]:
    """Return a histogram of each number that differs between volumes, as shares of the volumes that have it."""
    found = (
        _histogram(title, _known(values), _known(other.values.get(title, ())) if other else _known(()))
        for title, values in facts.values.items()
    )
    return [one for one in found if one is not None]


def _known(values: Sequence[float]) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    return numbers[np.isfinite(numbers)]


def _histogram(title: str, values: NDArray[np.float64], other: NDArray[np.float64]) -> Histogram | None:
    both = np.concatenate([values, other])
    if not len(values) or both.min() == both.max():
        return None
    edges = np.linspace(both.min(), both.max(), NUM_BINS + 1)
    shares = [np.histogram(one, edges)[0] / max(len(one), 1) for one in (values, other)]
    top = max(float(one.max()) for one in shares)
    step = (WIDTH - LEFT - 6) / NUM_BINS
    bars = [
        tuple(
            (LEFT + number * step, BASE - (BASE - 14) * share / top, step - 1, (BASE - 14) * share / top)
            for number, share in enumerate(one.tolist())
            if share
        )
        for one in shares
    ]
    ticks = tuple((LEFT + part * step * NUM_BINS, f"{edges[int(part * NUM_BINS)]:.4g}") for part in (0.0, 0.5, 1.0))
    return Histogram(title, bars[0], ticks, f"{top:.0%}", bars[1])


def outliers(facts: CorpusFacts) -> list[tuple[str, str, str, str, str]]:
    """Return volumes far from the others, the farthest first: name, what, its value, the median, the distance."""
    found: list[tuple[float, tuple[str, str, str, str, str]]] = []
    for title, numbers in facts.values.items():
        values = np.asarray(numbers, dtype=np.float64)
        known = np.flatnonzero(np.isfinite(values))
        if len(known) < _LEAST_VOLUMES:
            continue
        median = float(np.median(values[known]))
        deviation = 1.4826 * float(np.median(np.abs(values[known] - median)))
        # where most volumes are equal, a tenth of their value counts as the deviation
        deviation = max(deviation, 0.1 * abs(median) / FAR, 1e-9)
        distance = np.abs(values - median) / deviation
        for place in known[distance[known] > FAR].tolist():
            row = (
                facts.candidates[place].name,
                title,
                f"{values[place]:.4g}",
                f"{median:.4g}",
                f"{distance[place]:.0f}",
            )
            found.append((float(distance[place]), row))
    return [row for _, row in sorted(found, key=lambda one: (-one[0], one[1]))]


def volume_rows(facts: CorpusFacts) -> list[tuple[str, ...]]:
    """Return a row per volume: name, contrast, matrix, and its numbers in the order of `facts.values`."""
    columns = [np.asarray(values, dtype=np.float64) for values in facts.values.values()]
    return [
        (
            one.name,
            one.contrast,
            " × ".join(map(str, one.shape)),
            *("" if np.isnan(values[place]) else f"{values[place]:.4g}" for values in columns),
            " ".join(one.flags),
        )
        for place, one in enumerate(facts.candidates[:MOST_ROWS])
    ]


def compare(facts: CorpusFacts, other: CorpusFacts) -> Iterator[tuple[str, str, str]]:
    """Yield what two corpora have of each fact: heading, text of the first, text of the second."""
    yield "Volumes", f"{facts.num_volumes:,}", f"{other.num_volumes:,}"
    yield "Slices", f"{facts.num_slices:,}", f"{other.num_slices:,}"
    yield "Subjects", f"{facts.num_subjects:,}", f"{other.num_subjects:,}"
    keys = {"recipe_hash", "seed", "checkpoint_hash"}
    for key in sorted(keys & facts.attributes.keys()):
        yield key, str(facts.attributes.get(key)), str(other.attributes.get(key))
    for heading in dict.fromkeys([*facts.tallies, *other.tallies]):
        if heading != "Environment":
            first, second = (_shares(one.tallies.get(heading, {})) for one in (facts, other))
            yield heading, first, second
    for heading in dict.fromkeys([*facts.values, *other.values]):
        first, second = (_spread(_known(one.values.get(heading, ()))) for one in (facts, other))
        yield heading, first, second
    for word in sorted({*facts.flags, *other.flags}):
        first, second = (f"{one.flags[word].count if word in one.flags else 0:,}" for one in (facts, other))
        yield f"Flag {word}", first, second


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f", {len(shown) - _MOST_SHARES} others" if len(shown) > _MOST_SHARES else ""
    return ", ".join(f"{value} {count / total:.0%}" for value, count in shown[:_MOST_SHARES]) + more or UNKNOWN


def _spread(values: NDArray[np.float64]) -> str:
    if not len(values):
        return UNKNOWN
    low, middle, high = np.percentile(values, (5, 50, 95))
    return f"{middle:.4g} (5 to 95 %: {low:.4g} to {high:.4g})"
