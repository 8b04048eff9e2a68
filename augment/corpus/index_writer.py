"""The document of an index, written column by column out of rows that come one by one, in bounded memory."""

from __future__ import annotations

import errno
import json
import sqlite3
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from tempfile import SpooledTemporaryFile
from typing import Any, Self

from rephase.corpus.index import COLUMNS, INDEX_KEY, OPTIONAL_COLUMNS, SEAL_BLANK, SEAL_KEY, index_row, read_index
from rephase.corpus.layout import group_document
from rephase.corpus.receipt import is_volume_name
from rephase.corpus.storage.base import Storage
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError, VolumeError

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


_IN_MEMORY = 1 << 18
"""Bytes of a column that need no file."""

_BLOCK_BYTES = 1 << 20
_BLOCK_ROWS = 512
_MARK = "@"
_encode = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False).encode


def row_cells(row: Mapping[str, Any]) -> str:
    """Give a row as text: the JSON of its values, a line each, in the order of the sorted columns."""
    return "\n".join(_encode(row[column]) for column in sorted(row))


class IndexDocument:
    """The sealed document of an index, byte for byte that of `rephase.corpus.index.sealed_document`.

    Every column grows in a temporary file, since the document holds one after the other.

    Parameters
    ----------
    columns
        Their names, in any order.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.num_rows = 0
        self._names = sorted(columns)
        self._known = {name for name in columns if name not in OPTIONAL_COLUMNS}
        self._rows: list[list[str]] = []
        self._stack = ExitStack()
        self._files = [SpooledTemporaryFile(_IN_MEMORY) for _ in self._names]  # noqa: SIM115
        for file in self._files:
            self._stack.callback(file.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, cells: str) -> None:
        """Take the next row, as `row_cells` gives it."""
        self._rows.append(cells.split("\n"))
        self.num_rows += 1
        if len(self._rows) == _BLOCK_ROWS:
            self._flush()

    def blocks(self) -> Iterator[bytes]:
        """Give the document in pieces, after the last row."""
        self._flush()
        *heads, end = self._frame()
        checksum = 0
        files = [file for name, file in zip(self._names, self._files, strict=True) if name in self._known]
        for head, file in zip(heads, files, strict=True):
            yield head
            checksum = zlib.crc32(head, checksum)
            file.seek(0)
            while block := file.read(_BLOCK_BYTES):
                yield block
                checksum = zlib.crc32(block, checksum)
        blank = f'"{SEAL_BLANK}"'.encode()
        yield end.replace(blank, f'"{zlib.crc32(end, checksum):08x}"'.encode(), 1)

    def _flush(self) -> None:
        if not self._rows:
            return
        comma = "" if self.num_rows == len(self._rows) else ", "
        try:
            for name, file, cells in zip(self._names, self._files, zip(*self._rows, strict=True), strict=True):
                file.write((comma + ", ".join(cells)).encode())
                if name not in self._known and set(cells) != {"null"}:
                    self._known.add(name)
        except OSError as error:
            raise OSError(error.errno, f"the temporary folder (TMPDIR): {error.strerror}") from error
        self._rows.clear()

    def _frame(self) -> list[bytes]:
        """Give the document without its columns, cut where they belong."""
        attributes = {
            "num_volumes": self.num_rows,
            "columns": {name: [_MARK] for name in self._names if name in self._known},
        }
        document = group_document({**attributes, SEAL_KEY: SEAL_BLANK}, indent=None)
        return document.split(f'"{_MARK}"'.encode())


_NAMES = b'"name": ['
"""What stands before the names in an index: FORMAT.md fixes the spelling, and quotes inside of texts are escaped."""


_PIECE_BYTES = 1 << 22


class IndexBuilder:
    """Collects rows while a build runs, so that the index costs no second reading of the receipts.

    The rows are kept on the disk, and the index is written in pieces, so that memory does not grow with the corpus.

    Attributes
    ----------
    damaged
        Volumes whose receipts were found to be unreadable: they keep the rows that they had, if they had some.
    """

    def __init__(self, store: CorpusStore) -> None:
        self.damaged: set[str] = set()
        self._store = store
        self._spool = RowSpool(read_names(store.storage))

    def add(self, name: str, receipt: Mapping[str, Any]) -> None:
        """Take in a committed volume, or take it in anew, from what `commit_volume` or `receipt` gave."""
        self.damaged.discard(name)
        self._spool.add(name, row_cells(index_row(name, receipt)))

    def write(self, order: Iterable[str]) -> int:
        """Write the index of every committed volume, replacing the last one in one step.

        Parameters
        ----------
        order
            Names in manifest order; those that are not committed are left out. Committed volumes of an earlier
            manifest follow, in the order that they had in the index, then by name.

        Returns
        -------
        num_volumes
            Rows written. Receipts of volumes that were not added before are read.
        """
        self._spool.arrange(order, read_names(self._store.storage), self._store.names())
        for name in self._spool.names_without_row():
            cells = self._found_cells(name)
            if cells is not None:
                self._spool.add(name, cells, added=False)
        with IndexDocument(COLUMNS) as document:
            for cells in self._spool.cells():
                document.add(cells)
            self._store.storage.put_blocks(INDEX_KEY, document.blocks())
        return document.num_rows

    def _found_cells(self, name: str) -> str | None:
        """Give the row of a volume that nobody added; None where there is none."""
        try:
            receipt = self._store.receipt(name)
            return None if receipt is None else row_cells(index_row(name, receipt))  # None: discarded since the listing
        except (VolumeError, LookupError, TypeError, ValueError):
            self.damaged.add(name)
            row = self._earlier_rows.get(name)
            return None if row is None else row_cells(row)

    @cached_property
    def _earlier_rows(self) -> dict[str, dict[str, Any]]:
        """The present index by name, for receipts that are damaged: their rows tell a repair what they were."""
        try:
            return {row["name"]: row for row in read_index(self._store.root, sealed=False).rows()}
        except (RequestError, TypeError):
            return {}

    def unseen(self, names: Iterable[str]) -> Iterator[tuple[str, bool]]:
        """Give those of these names that the last index holds although nobody added them.

        Yields
        ------
        name, before
            The volume, and whether the index held it before the first of this builder.
        """
        return self._spool.unseen(names)

    def vanished(self) -> list[str]:
        """Name the volumes that were added and had no receipt any more when the last index was written."""
        return self._spool.vanished()

    def close(self) -> None:
        """Remove the rows from the disk."""
        self._spool.close()


def write_index(store: CorpusStore, order: Iterable[str]) -> int:
    """Rebuild the index from the receipts; returns the number of volumes. See `IndexBuilder.write` for the order."""
    with closing(IndexBuilder(store)) as builder:
        return builder.write(order)


def read_names(storage: Storage) -> Iterator[str]:
    """Read the names in the present index, piece by piece; none where it is not there or damaged: it is made anew."""
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
