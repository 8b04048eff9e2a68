"""Finding names that stand twice among a million, with eight bytes a name."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np


class Names(Protocol):
    """The names by row; anything but text is no name."""

    def __getitem__(self, row: int) -> object: ...


class DuplicateSearch:
    """Compares hashes of the lower-case names, and the names themselves only where hashes are equal."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def extend(self, names: Sequence[str]) -> None:
        """Take the names of the next rows."""
        self._hashes.extend(hash(name.lower()) for name in names)

    def duplicates(self, names: Names) -> Iterator[tuple[int, int, str]]:
        """Yield (row, first row of that name, name) for every row whose name came before."""
        hashes = np.frombuffer(self._hashes, dtype=np.int64) if self._hashes else np.empty(0, np.int64)
        ordered = np.sort(hashes)
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        if repeated.size == 0:
            return
        first: dict[str, int] = {}
        for row in np.flatnonzero(np.isin(hashes, repeated)).tolist():
            name = names[row]
            if isinstance(name, str) and first.setdefault(name.lower(), row) != row:
                yield row, first[name.lower()], name
