"""Groups of slices or rows, divided into folds: what must not be parted stays together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def divide_groups(groups: Iterable[str], num_folds: int) -> list[frozenset[str]]:
    """Divide groups into folds of about equal numbers of members; some are empty where there are fewer groups.

    Parameters
    ----------
    groups
        The group of every member.
    num_folds
        How many.
    """
    folds: list[set[str]] = [set() for _ in range(num_folds)]
    sizes = [0] * num_folds
    for group, count in sorted(Counter(groups).items(), key=lambda pair: (-pair[1], pair[0])):
        smallest = sizes.index(min(sizes))
        folds[smallest].add(group)
        sizes[smallest] += count
    return [frozenset(fold) for fold in folds]
