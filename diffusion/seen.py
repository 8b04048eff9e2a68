"""What weights have seen in training, and how far a volume is from it. Does not import torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

Range = tuple[float, float]
"""Least and largest value."""

SAME_FIELD_OCTAVES = 0.25
"""Field strengths within this distance are the same, such as 2.89 T and 3 T."""
_REGIONS = {"head": "brain", "skull": "brain"}


@dataclass(frozen=True)
class Facts:
    """The acquisition of a volume as a model is conditioned on it; None if unknown.

    `spacing_mm` is the geometric mean in the plane, `slice_mm` the distance of slices, `dephasing_ms` that of
    `rephase.sequences.dephasing_time_ms`.
    """

    sequence: str | None = None
    anatomy: str | None = None
    field_t: float | None = None
    dephasing_ms: float | None = None
    spacing_mm: float | None = None
    slice_mm: float | None = None


@dataclass(frozen=True)
class Seen:
    """The section `seen` of a model card: what the weights were trained on. Empty or None: not stated."""

    sequences: tuple[str, ...] = ()
    """Families of pulse sequences."""
    anatomies: tuple[str, ...] = ()
    """Parts of the body, as `region_of` names them."""
    fields_t: tuple[float, ...] = ()
    """Field strengths in tesla."""
    dephasing_ms: Range | None = None
    """Dephasing times above 0, in ms."""
    spacing_mm: Range | None = None
    """Spacing in the plane, in mm."""
    slice_mm: Range | None = None
    """Distance of slices, in mm."""

    def to_json(self) -> dict[str, Any]:
        """Return the section of a model card."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document

    def outside(self, facts: Facts) -> dict[str, float]:
        """Return by how much each fact of a volume is outside: 1 for a word, octaves for a number; none if inside.

        An unknown fact is inside: weights are trained with dropped conditions.
        """
        found: dict[str, float] = {}
        if self.sequences and facts.sequence is not None and facts.sequence not in self.sequences:
            found["sequence"] = 1.0
        if self.anatomies and facts.anatomy and region_of(facts.anatomy) not in self.anatomies:
            found["anatomy"] = 1.0
        if self.fields_t and facts.field_t:
            nearest = min(abs(math.log2(facts.field_t / one)) for one in self.fields_t)
            if nearest > SAME_FIELD_OCTAVES:
                found["field_t"] = nearest
        for name in ("dephasing_ms", "spacing_mm", "slice_mm"):
            limits, value = getattr(self, name), getattr(facts, name)
            if limits is not None and value:
                beyond = max(math.log2(limits[0] / value), math.log2(value / limits[1]))
                if beyond > 0.0:
                    found[name] = beyond
        return found

    def score(self, facts: Facts) -> float:
        """Return the out-of-distribution score: the sum of `outside`, 0 for a volume like those seen."""
        return round(sum(self.outside(facts).values()), 3)


def region_of(anatomy: str) -> str:
    """Return the first word of an anatomy in lower case; a head is a brain."""
    word = re.split(r"[^a-z0-9]+", anatomy.strip().lower())[0]
    return _REGIONS.get(word, word)


def seen_in(volumes: Iterable[Facts]) -> Seen:
    """Summarise the volumes of a training."""
    every = list(volumes)

    def words(values: Iterable[str | None]) -> tuple[str, ...]:
        return tuple(sorted({value for value in values if value}))

    def limits(values: Iterable[float | None]) -> Range | None:
        known = [round(value, 3) for value in values if value]
        return (min(known), max(known)) if known else None

    return Seen(
        words(one.sequence for one in every),
        words(region_of(one.anatomy) for one in every if one.anatomy),
        tuple(sorted({round(one.field_t, 3) for one in every if one.field_t})),
        limits(one.dephasing_ms for one in every),
        limits(one.spacing_mm for one in every),
        limits(one.slice_mm for one in every),
    )
