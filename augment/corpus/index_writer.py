"""Write the index of a corpus from rows that are collected during a build."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from typing import Any

from rephase.corpus.index import COLUMNS, INDEX_KEY, index_document, index_row, read_index
from rephase.corpus.receipt import is_volume_name
from rephase.corpus.storage.base import Storage
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError, VolumeError

_NAMES = b'"name": ['
"""The bytes before the names in an index. FORMAT.md fixes the spelling, and quotes inside texts are escaped."""

_PIECE_BYTES = 1 << 22
_UNIQUE = ("name", "patient_id", "receipt_sha256")


class IndexRows:
    """Rows of volumes by name, in memory: about 1 kB each, since equal texts are stored once."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[Any, ...]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Add or replace the row of a volume."""
        self._rows[name] = tuple(
            sys.intern(value) if isinstance(value := row[column], str) and column not in _UNIQUE else value
            for column in COLUMNS
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def row(self, name: str) -> dict[str, Any]:
        """Return the row of a volume."""
        return dict(zip(COLUMNS, self._rows[name], strict=True))

    def columns(self, names: Iterable[str]) -> dict[str, list[Any]]:
        """Return the columns of these volumes, in this order."""
        rows = [self._rows[name] for name in names]
        return {column: [row[place] for row in rows] for place, column in enumerate(COLUMNS)}


class IndexBuilder:
    """Collects rows during a build, so that writing the index need not read the receipts again.

    Attributes
    ----------
    damaged
        Volumes whose receipts could not be read. They keep the rows of the previous index, if they had any.
    foreign
        Volumes that came in by other ways than a build, see `is_own`. They keep such rows, too, so that loaders refuse
        them.

    Parameters
    ----------
    store
        The corpus.
    recipes
        Hashes of further recipes by which volumes of this corpus may have been built, for an index that is lost.
    """

    def __init__(self, store: CorpusStore, recipes: Collection[str] = ()) -> None:
        self.damaged: set[str] = set()
        self.foreign: set[str] = set()
        self._recipes = {store.attributes.get("recipe_hash"), *recipes}
        self._store = store
        self._before = set(read_names(store.storage))
        self._rows = IndexRows()
        self._added: dict[str, None] = {}
        self._committed: set[str] = set()
        self._order: list[str] = []

    def add(self, name: str, receipt: Mapping[str, Any]) -> None:
        """Add or replace the row of a committed volume, from the receipt that `commit_volume` or `receipt` returned."""
        self.damaged.discard(name)
        self._rows.add(name, index_row(name, receipt))
        self._added[name] = None

    def write(self, order: Iterable[str]) -> int:
        """Write the index of every committed volume, replacing the last one atomically.

        Parameters
        ----------
        order
            Names in manifest order; those that are not committed are skipped. Committed volumes of an earlier manifest
            follow, in the order that they had in the index, then by name.

        Returns
        -------
        num_volumes
            Rows written. Receipts of volumes that were not added before are read.
        """
        present = self._store.names()
        self._committed = set(present)
        self._order = list(dict.fromkeys(chain(order, read_names(self._store.storage), present)))
        for name in self._order:
            if name in self._committed and name not in self._rows:
                self._add_found(name)
        names = [name for name in self._order if name in self._committed and name in self._rows]
        self._store.storage.put_blocks(INDEX_KEY, index_document(self._rows.columns(names)))
        return len(names)

    def _add_found(self, name: str) -> None:
        """Read the row of a committed volume that was not added."""
        try:
            receipt = self._store.receipt(name)
            if receipt is None:  # discarded since the listing
                return
            row = index_row(name, receipt)
            if self._is_own(name, row, receipt):
                self._rows.add(name, row)
                return
            self.foreign.add(name)
            if name in self._previous:
                self._rows.add(name, self._previous[name])
        except (VolumeError, LookupError, TypeError, ValueError):
            self.damaged.add(name)
            if name in self._previous:
                self._rows.add(name, self._previous[name])

    def _is_own(self, name: str, row: Mapping[str, Any], receipt: Mapping[str, Any]) -> bool:
        if name in self._previous and self._previous[name]["receipt_sha256"] == row["receipt_sha256"]:
            return True
        return is_own(name, receipt, self._recipes) and ("name" in receipt or not self._is_copy(name, row))

    def _is_copy(self, name: str, row: Mapping[str, Any]) -> bool:
        """Check whether another volume has the same receipt, which only a copy can have without a name in it."""
        rows = {**self._previous, **{other: self._rows.row(other) for other in self._rows}}
        digest = row["receipt_sha256"]
        return any(other != name and found["receipt_sha256"] == digest for other, found in rows.items())

    @cached_property
    def _previous(self) -> dict[str, dict[str, Any]]:
        """Return the rows of the present index by name; a repair needs them for damaged receipts."""
        try:
            index = read_index(self._store.root, check=False, attributes=self._store.attributes)
            return {row["name"]: row for row in index.rows()}
        except (RequestError, TypeError):
            return {}

    def unseen(self, names: Iterable[str]) -> Iterator[tuple[str, bool]]:
        """Yield the names that are in the last index but were not added.

        Yields
        ------
        name, before
            The volume, and whether it was in the index when this builder was created.
        """
        for name in names:
            if name in self._committed and name in self._rows and name not in self._added:
                yield name, name in self._before

    def vanished(self) -> list[str]:
        """List the added volumes whose receipts were missing when the last index was written."""
        gone = self._added.keys() - self._committed
        place = {name: number for number, name in enumerate(self._order) if name in gone}
        return sorted(gone, key=lambda name: (place.get(name, -1), name))


def write_index(store: CorpusStore, order: Iterable[str], recipes: Collection[str] = ()) -> int:
    """Rebuild the index from the receipts and return the number of volumes. See `IndexBuilder` and its `write`."""
    return IndexBuilder(store, recipes).write(order)


def is_own(name: str, receipt: Mapping[str, Any], recipes: Collection[str | None]) -> bool:
    """Check whether a volume that is not in the index was built into this corpus, not copied into it.

    A build that was killed leaves such volumes. A copy has the name of another volume in its receipt, or another
    recipe than those of this corpus.
    """
    return receipt.get("name", name) == name and receipt.get("recipe_hash") in recipes


def read_names(storage: Storage) -> Iterator[str]:
    """Yield the names in the present index incrementally; none if it is missing or damaged."""
    start, tail, inside = 0, b"", False
    while block := _piece(storage, start):
        start, tail = start + len(block), tail + block
        if not inside:
            inside = _NAMES in tail
            tail = tail.partition(_NAMES)[2] if inside else tail[-len(_NAMES) :]
        if inside:
            names, end, _ = tail.partition(b"]")
            *whole, tail = names.split(b",")
            yield from _valid_names([*whole, tail] if end else whole)
            if end:
                return


def _piece(storage: Storage, start: int) -> bytes:
    try:
        return storage.get_range(INDEX_KEY, start, _PIECE_BYTES)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return b""


def _valid_names(cells: list[bytes]) -> list[str]:
    names = [cell.strip().strip(b'"').decode("ascii", "replace") for cell in cells]
    return [name for name in names if is_volume_name(name)]
