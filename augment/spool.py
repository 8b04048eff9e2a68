"""Index rows on this machine's disk while a build runs: its memory must not grow with the volumes of the corpus."""

from __future__ import annotations

import errno
import sqlite3
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_TABLES = """
CREATE TABLE before (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE rows (name TEXT PRIMARY KEY, cells TEXT NOT NULL, added INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE committed (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE places (place INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL);
"""
_BATCH = 256


class RowSpool:
    """Rows of volumes by name, and the order in which an index holds them.

    They lie in a temporary file of SQLite, which has no name, is gone with the process, and is kept in memory only by a
    few megabytes; it is made in `TMPDIR`. Every method raises OSError where that disk is full or broken.

    Parameters
    ----------
    before
        Names in the index as it was when the run began.
    """

    def __init__(self, before: Iterable[str] = ()) -> None:
        self._tables = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self.close = weakref.finalize(self, self._tables.close)
        with _named_errors():
            self._tables.execute("PRAGMA journal_mode = OFF")
            self._tables.executescript(_TABLES)
            self._fill("INSERT OR IGNORE INTO before VALUES (?)", ((name,) for name in before))

    def add(self, name: str, cells: str, added: bool = True) -> None:
        """Keep the row of a volume, in place of an earlier one.

        Parameters
        ----------
        name
            Of the volume.
        cells
            Its row, as text.
        added
            Whether this run saw the volume come to its end; False where only its receipt was found.
        """
        with _named_errors():
            self._tables.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", (name, cells, added))

    def arrange(self, order: Iterable[str], earlier: Iterable[str], committed: Iterable[str]) -> None:
        """Set the order: the names in `order`, those in `earlier`, then the other committed ones by name.

        Of a name that comes twice, the first counts. Only those that are committed have a place in the index.
        """
        with _named_errors():
            self._tables.executescript("DELETE FROM committed; DELETE FROM places")
            self._fill("INSERT OR IGNORE INTO committed VALUES (?)", ((name,) for name in committed))
            for names in (order, earlier):
                self._fill("INSERT OR IGNORE INTO places (name) VALUES (?)", ((name,) for name in names))
            self._tables.execute("INSERT OR IGNORE INTO places (name) SELECT name FROM committed ORDER BY name")

    def names_without_row(self) -> Iterator[str]:
        """Give the committed names, in order, that have no row; rows may be added meanwhile."""
        place = 0
        select = (
            "SELECT place, name FROM places JOIN committed USING (name) WHERE place > ? AND NOT EXISTS "
            "(SELECT 1 FROM rows WHERE rows.name = places.name) ORDER BY place LIMIT ?"
        )
        while found := self._select(select, place, _BATCH):
            place = found[-1][0]
            yield from (name for _, name in found)

    def cells(self) -> Iterator[str]:
        """Give the rows of the committed names in order."""
        place = 0
        select = (
            "SELECT place, cells FROM places JOIN committed USING (name) JOIN rows USING (name) WHERE place > ? "
            "ORDER BY place LIMIT ?"
        )
        while found := self._select(select, place, _BATCH):
            place = found[-1][0]
            yield from (cells for _, cells in found)

    def unseen(self, names: Iterable[str]) -> Iterator[tuple[str, bool]]:
        """Give those of the names that are committed although none was added, and whether they were there before."""
        select = (
            "SELECT EXISTS (SELECT 1 FROM before WHERE before.name = rows.name) FROM rows JOIN committed USING (name) "
            "WHERE name = ? AND NOT added"
        )
        for name in names:
            for (before,) in self._select(select, name):
                yield name, bool(before)

    def vanished(self) -> list[str]:
        """Name the volumes that were added and are not committed, in order."""
        select = (
            "SELECT name FROM rows LEFT JOIN places USING (name) WHERE added AND NOT EXISTS "
            "(SELECT 1 FROM committed WHERE committed.name = rows.name) ORDER BY place, name"
        )
        return [name for (name,) in self._select(select)]

    def _fill(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        self._tables.execute("BEGIN")
        try:
            self._tables.executemany(statement, rows)
        finally:
            self._tables.execute("COMMIT")

    def _select(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with _named_errors():
            return self._tables.execute(statement, values).fetchall()


@contextmanager
def _named_errors() -> Iterator[None]:
    """Raise what SQLite finds wrong with its file as the errors of files that the callers know."""
    try:
        yield
    except sqlite3.Error as error:
        code = errno.ENOSPC if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL else errno.EIO
        raise OSError(code, f"the temporary folder (TMPDIR): {error}") from error
