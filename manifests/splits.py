"""Rows of a split, with one split that is used only on request."""

from __future__ import annotations

from collections.abc import Iterable

from rephase.manifests.record import ManifestRow

HELD_BACK = "test"
"""The split that no choice of weights, ranges or settings may look at."""


def rows_of_split(rows: Iterable[ManifestRow], split: str | None) -> list[ManifestRow]:
    """Return the rows of a split; without one, all but those of `HELD_BACK`."""
    return [row for row in rows if (row.split == split if split else row.split != HELD_BACK)]
