"""Manifest columns, checked while reading and stored compactly, without a Python object per row."""

from __future__ import annotations

import math
import re
import unicodedata
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol

CellProblem = tuple[int, str]
"""Index of a cell among those passed to `extend`, and its problem."""

Value = str | int | float | bool | tuple[float, float, float] | None

_VOLUME_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}").fullmatch
_INTEGER = re.compile(r"[0-9]{1,9}").fullmatch
_RESERVED = "zarr.json"


class Column(Protocol):
    """One column of a manifest."""

    def extend(self, cells: Sequence[str]) -> list[CellProblem]:
        """Check and append cells; return their problems. Invalid cells are stored as empty, to keep rows aligned."""
        ...

    def __getitem__(self, row: int) -> Value: ...


class TextColumn:
    """Text in one UTF-8 buffer: 8 bytes per row and the characters.

    Parameters
    ----------
    problem_of
        Returns the problem of a cell, None for a valid one.
    """

    def __init__(self, problem_of: Callable[[str], str | None]) -> None:
        self._problem_of = problem_of
        self._buffer = bytearray()
        self._ends = array("Q", [0])

    def extend(self, cells: Sequence[str]) -> list[CellProblem]:
        """Check and append cells; return their problems."""
        problem_of = self._problem_of
        problems = [(i, problem) for i, cell in enumerate(cells) if (problem := problem_of(cell)) is not None]
        if problems:
            bad = {i for i, _ in problems}
            cells = ["" if i in bad else cell for i, cell in enumerate(cells)]
        encoded = [cell.encode() for cell in cells]
        lengths = accumulate(map(len, encoded), initial=self._ends.pop())
        self._ends.extend(lengths)
        self._buffer += b"".join(encoded)
        return problems

    def __getitem__(self, row: int) -> str | None:
        return self._buffer[self._ends[row] : self._ends[row + 1]].decode() or None


class WordColumn:
    """Words of a closed vocabulary: one byte per row."""

    def __init__(self, name: str, words: Sequence[str]) -> None:
        self._name = name
        self._words = tuple(words)
        self._codes = {word: code for code, word in enumerate(words)}
        self._codes[""] = -1
        self._rows = array("b")

    def extend(self, cells: Sequence[str]) -> list[CellProblem]:
        """Check and append cells; return their problems."""
        get = self._codes.get
        self._rows.extend(get(cell, -1) for cell in cells)
        if not set(cells).difference(self._codes):
            return []
        return [(i, self._problem(cell)) for i, cell in enumerate(cells) if cell not in self._codes]

    def _problem(self, cell: str) -> str:
        near = next((word for word in self._words if word.casefold() == cell.strip().casefold()), None)
        fix = f"write {near!r}" if near else "use one of these or leave the cell empty"
        return f"unknown {self._name} {shown(cell)}; expected {', '.join(self._words)}; {fix}"

    def __getitem__(self, row: int) -> str | None:
        code = self._rows[row]
        return None if code < 0 else self._words[code]


class IntegerColumn:
    """Integers of a closed range: four bytes per row."""

    def __init__(self, name: str, least: int, most: int | None = None) -> None:
        self._name = name
        self._least = least
        self._most = most
        self._rows = array("i")

    def extend(self, cells: Sequence[str]) -> list[CellProblem]:
        """Check and append cells; return their problems."""
        distinct = {cell: self._number(cell) for cell in set(cells)}
        self._rows.extend(-1 if (number := distinct[cell]) is None else number for cell in cells)
        if all(number is not None or not cell for cell, number in distinct.items()):
            return []
        return [(i, self._problem(cell)) for i, cell in enumerate(cells) if cell and distinct[cell] is None]

    def _number(self, cell: str) -> int | None:
        cell = cell.strip()
        if _INTEGER(cell) is None:
            return None
        number = int(cell)
        return number if self._least <= number and (self._most is None or number <= self._most) else None

    def _problem(self, cell: str) -> str:
        span = f"of at least {self._least}" if self._most is None else f"from {self._least} to {self._most}"
        return f"{self._name} is {shown(cell)}; expected a whole number {span}; write digits only or leave it empty"

    def __getitem__(self, row: int) -> int | None:
        number = self._rows[row]
        return None if number < 0 else number


class NumberColumn:
    """Finite numbers above zero: eight bytes per row, NaN if the cell is empty."""

    def __init__(self, name: str, unit: str) -> None:
        self._name = name
        self._unit = unit
        self._rows = array("d")

    def extend(self, cells: Sequence[str]) -> list[CellProblem]:
        """Check and append cells; return their problems."""
        distinct = {cell: positive_number(cell) for cell in set(cells)}
        self._rows.extend(distinct[cell] for cell in cells)
        if not any(cell and math.isnan(number) for cell, number in distinct.items()):
            return []
        return [(i, self._problem(cell)) for i, cell in enumerate(cells) if cell and math.isnan(distinct[cell])]

    def _problem(self, cell: str) -> str:
        fix = "write a decimal point" if "," in cell else "write digits only or leave it empty"
        return f"{self._name} is {shown(cell)}; expected a number of {self._unit}, above 0; {fix}"

    def __getitem__(self, row: int) -> float | None:
        number = self._rows[row]
        return None if math.isnan(number) else number


def positive_number(cell: str) -> float:
    """Return a finite number above zero; NaN for other text."""
    try:
        number = float(cell)
    except ValueError:
        return math.nan
    # Python reads "1_5" as 15, spreadsheets do not
    return number if "_" not in cell and 0 < number < math.inf else math.nan


class FlagColumn:
    """True or false: one byte per row."""

    def __init__(self, name: str) -> None:
        self._words = WordColumn(name, ("false", "true"))

    def extend(self, cells: Sequence[str]) -> list[CellProblem]:
        """Check and append cells; return their problems."""
        return self._words.extend(cells)

    def __getitem__(self, row: int) -> bool | None:
        word = self._words[row]
        return None if word is None else word == "true"


class TripleColumn:
    """Three finite numbers above zero, separated by spaces: 24 bytes per row, NaN if the cell is empty."""

    def __init__(self, name: str, unit: str) -> None:
        self._name = name
        self._unit = unit
        self._rows = array("d")

    def extend(self, cells: Sequence[str]) -> list[CellProblem]:
        """Check and append cells; return their problems."""
        distinct = {cell: self._numbers(cell) for cell in set(cells)}
        for cell in cells:
            self._rows.extend(distinct[cell] or [math.nan] * 3)
        return [(i, self._problem(cell)) for i, cell in enumerate(cells) if cell and distinct[cell] is None]

    def _numbers(self, cell: str) -> list[float] | None:
        numbers = [positive_number(part) for part in cell.split()]
        return None if len(numbers) != 3 or any(map(math.isnan, numbers)) else numbers

    def _problem(self, cell: str) -> str:
        expected = f"expected three numbers of {self._unit} (slice, height, width), above 0, separated by spaces"
        return f"{self._name} is {shown(cell)}; {expected}; correct it or leave it empty"

    def __getitem__(self, row: int) -> tuple[float, float, float] | None:
        first, second, third = self._rows[3 * row : 3 * row + 3]
        return None if math.isnan(first) else (first, second, third)


def volume_id_problem(cell: str) -> str | None:
    """Return why a text is not a valid volume_id; None if it is valid."""
    if _VOLUME_ID(cell) is not None and not cell.startswith("__") and cell.lower() != _RESERVED:
        return None
    if not cell:
        return "volume_id is empty; expected a unique name; fill it in"
    if "@" in cell:
        return f"volume_id {shown(cell)} has an @, reserved for replicas; expected none; use - or _ instead"
    return (
        f"volume_id {shown(cell)} is not allowed; expected 1 to 128 characters of A-Z a-z 0-9 . _ -, "
        f"no leading dot or __, not {_RESERVED}; rename it"
    )


def writable(path: str) -> bool:
    """Check whether a path can be written in a manifest: Unicode, one line, no control characters."""
    return path.isprintable() or not any(unicodedata.category(mark) in ("Cc", "Cs", "Zl", "Zp") for mark in path)


def path_problem(name: str, required: bool) -> Callable[[str], str | None]:
    """Return the check of a column of paths or URLs."""

    def problem_of(cell: str) -> str | None:
        if writable(cell) and (cell or not required):
            return None
        if not cell:
            return f"{name} is empty; expected a file, a folder or a URL; name the source of this volume"
        return f"{name} {shown(cell)} has control characters; expected a path or URL; look for a stray quote"

    return problem_of


AXES = ("slice", "partition", "coil", "height", "width", "pair")
"""Names of the axes of an array; `pair` has real and imaginary part, `partition` is an encoded slice axis."""


def axes_problem(cell: str) -> str | None:
    """Return why a text does not name the axes of an array; None if it does, or is empty."""
    words = cell.split()
    if not cell or (set(words) <= set(AXES) and len(set(words)) == len(words) and {"height", "width"} <= set(words)):
        return None
    return (
        f"axes is {shown(cell)}; expected height, width and some of {', '.join(AXES)}, once each, separated by blanks; "
        "correct it or leave it empty"
    )


def text_problem(name: str) -> Callable[[str], str | None]:
    """Return the check of a column of free text."""

    def problem_of(cell: str) -> str | None:
        if cell.isprintable() and len(cell) <= 1024:
            return None
        if not cell.isprintable():
            return f"{name} {shown(cell)} has control characters; expected one line of text; look for a stray quote"
        return f"{name} {shown(cell)} has {len(cell)} characters; expected at most 1024; shorten it"

    return problem_of


def shown(cell: str) -> str:
    """Format a cell for a message: quoted and shortened to one line."""
    return ascii(cell) if len(cell) <= 60 else f"{cell[:57]!a}..."
