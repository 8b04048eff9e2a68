"""The document of an index, written column by column out of rows that come one by one, in bounded memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from tempfile import SpooledTemporaryFile
from typing import Any, Self

from augment.layout import group_document
from augment.seal import SEAL_BLANK, SEAL_KEY

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
    """The sealed document of an index, byte for byte that of `augment.seal.sealed_document`.

    Every column grows in a temporary file, since the document holds one after the other.

    Parameters
    ----------
    columns
        Their names, in any order.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.num_rows = 0
        self._names = sorted(columns)
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
        for head, file in zip(heads, self._files, strict=True):
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
            for file, cells in zip(self._files, zip(*self._rows, strict=True), strict=True):
                file.write((comma + ", ".join(cells)).encode())
        except OSError as error:
            raise OSError(error.errno, f"the temporary folder (TMPDIR): {error.strerror}") from error
        self._rows.clear()

    def _frame(self) -> list[bytes]:
        """Give the document without its columns, cut where they belong."""
        attributes = {"num_volumes": self.num_rows, "columns": {name: [_MARK] for name in self._names}}
        document = group_document({**attributes, SEAL_KEY: SEAL_BLANK}, indent=None)
        return document.split(f'"{_MARK}"'.encode())
