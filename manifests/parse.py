"""Read a manifest CSV and report all its problems at once; with little memory even for a million rows."""

from __future__ import annotations

import csv
import errno
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, cast

import numpy as np

from rephase.facts import FACTS, Fact
from rephase.formats import READERS
from rephase.manifests.columns import (
    Column,
    FlagColumn,
    IntegerColumn,
    NumberColumn,
    TextColumn,
    TripleColumn,
    WordColumn,
    axes_problem,
    path_problem,
    shown,
    text_problem,
    volume_id_problem,
)
from rephase.manifests.errors import ManifestError, Problems
from rephase.manifests.manifest import UNDERSTOOD, Manifest, check_files
from rephase.manifests.record import REQUIRED_COLUMNS
from rephase.text import is_url


class Names(Protocol):
    """Names by row; only texts are names."""

    def __getitem__(self, row: int) -> object: ...


class DuplicateSearch:
    """Finds names that occur twice, ignoring case: by their hashes, then by the names of equal hashes."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def extend(self, names: Sequence[str]) -> None:
        """Add the names of the next rows."""
        self._hashes.extend(hash(name.lower()) for name in names)

    def duplicates(self, names: Names) -> Iterator[tuple[int, int, str]]:
        """Yield (row, first row of that name, name) for every row whose name occurs before it."""
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


__all__ = ["Manifest", "ManifestError", "check_files", "read_manifest"]

if TYPE_CHECKING:
    from _csv import Reader

_BLOCK_ROWS = 8192
_LONGEST_LINE = 1 << 20
_MOST_COLUMNS = 1000
_BYTE_ORDER_MARKS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


def read_manifest(path: str | os.PathLike[str], keep_columns: Sequence[str] = ()) -> Manifest:
    """Read and check a manifest.

    Parameters
    ----------
    path
        A CSV file, or a URL that fsspec opens.
    keep_columns
        Further columns to keep in `ManifestRow.extra`.

    Returns
    -------
    manifest
        The rows in the order of the file. Relative paths are resolved against the manifest's folder.

    Raises
    ------
    ManifestError
        If the file is invalid; it has all problems of the file.
    """
    location = os.fspath(path)
    problems = Problems(location)
    try:
        with closing(_open(location)) as file:
            manifest = _read(location, file, tuple(keep_columns), problems)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        error = error if isinstance(error, OSError) else OSError(errno.EINVAL, str(error))
        problems.add(1, f"cannot be read ({error.strerror or error}); expected a CSV file; check the path")
        manifest = None
    problems.raise_if_any()
    return cast("Manifest", manifest)


def _open(location: str) -> IO[bytes]:
    if not is_url(location):
        if Path(location).exists() and not Path(location).is_file():
            raise OSError(errno.EINVAL, "is a folder, a pipe or a device")  # opening a pipe would block
        return Path(location).open("rb")
    import fsspec

    return cast("IO[bytes]", fsspec.open(location, "rb").open())


def _read(location: str, file: IO[bytes], keep_columns: Sequence[str], problems: Problems) -> Manifest | None:
    reader = csv.reader(_decoded(file, problems), strict=True, skipinitialspace=True)
    records = _records(reader, problems)
    header_line, header = next(records, (1, []))
    if not header:
        problems.add(1, "is empty; expected a header and rows; write at least the columns volume_id,path")
        return None
    _check_header(header_line, header, keep_columns, problems)
    if len(header) > _MOST_COLUMNS:
        return None
    columns = {name: _column(name) for name in header if name in UNDERSTOOD or name in keep_columns}
    lines = array("I")
    ids = DuplicateSearch()
    for block_lines, cells in _blocks(records, len(header), problems):
        for name, column in columns.items():
            for i, problem in column.extend(cells[header.index(name)]):
                problems.add(block_lines[i], problem)
        _check_pairs(header, block_lines, cells, problems)
        if "volume_id" in columns:
            ids.extend(cells[header.index("volume_id")])
        lines.extend(block_lines)
    if not lines and not problems.total:
        problems.add(header_line, "has a header but no rows; expected at least one volume; add a row")
    for second, first, name in ids.duplicates(columns["volume_id"]) if "volume_id" in columns else ():
        problems.add(
            lines[second],
            f"volume_id {shown(name)} is already in line {lines[first]}; expected unique names without regard to case; "
            "rename one of them",
        )
    return Manifest(location, lines, columns, sorted(set(keep_columns)))  # sorted: their order must not change rows


def _decoded(file: IO[bytes], problems: Problems) -> Iterator[str]:
    """Yield decoded lines; an undecodable line is reported with its number and becomes an empty one."""
    for line, raw in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
        if len(raw) == _LONGEST_LINE:  # a file without line breaks must not be read as one line
            problems.add(line, f"is longer than {_LONGEST_LINE} bytes; expected text; check that it is a CSV file")
            return
        if line == 1:
            encoding = next((name for mark, name in _BYTE_ORDER_MARKS if raw.startswith(mark)), None)
            if encoding:
                problems.add(1, f"is {encoding}; expected UTF-8; save the file as UTF-8")
                return
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if b"\0" in raw:
            problems.add(line, "has a NUL byte; expected UTF-8 text; check that it is a CSV file")
            yield "\n"
            continue
        try:
            yield raw.decode()
        except UnicodeDecodeError as error:
            found = f"byte 0x{raw[error.start]:02x} at position {error.start}"
            problems.add(line, f"{found} is not UTF-8; expected UTF-8; save the file as UTF-8")
            yield "\n"


def _records(reader: Reader, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the fields of each record, without blank lines."""
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(line, f"is not CSV ({error}); expected comma-separated, quoted fields; look for a stray quote")
            continue
        if record:
            yield line, record


def _blocks(
    records: Iterator[tuple[int, list[str]]], num_fields: int, problems: Problems
) -> Iterator[tuple[list[int], list[tuple[str, ...]]]]:
    """Yield the lines and columns of blocks of records: checking columns takes a tenth of the time of cells."""
    lines: list[int] = []
    rows: list[list[str]] = []
    for line, record in records:
        if len(record) != num_fields:
            problems.add(
                line, f"has {len(record)} fields; expected {num_fields} like the header; quote fields with commas"
            )
            continue
        lines.append(line)
        rows.append(record)
        if len(rows) == _BLOCK_ROWS:
            yield lines, list(zip(*rows, strict=True))
            lines, rows = [], []
    if rows:
        yield lines, list(zip(*rows, strict=True))


def _check_header(line: int, header: list[str], keep_columns: Sequence[str], problems: Problems) -> None:
    header[:] = [name.strip() for name in header]
    if len(header) > _MOST_COLUMNS:
        problems.add(line, f"has {len(header)} columns; expected at most {_MOST_COLUMNS}; check that it is a manifest")
        return
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        problems.add(line, f"has one column {shown(header[0])}; expected commas between columns; save with commas")
        return
    for name in (*REQUIRED_COLUMNS, *keep_columns):
        if name in header:
            continue
        near = next((other for other in header if other.casefold() == name.casefold()), None)
        fix = (
            f"rename {shown(near)}"
            if near
            else "add it"
            if name in REQUIRED_COLUMNS
            else "add it or drop it from --keep-columns"
        )
        problems.add(line, f"column {name!r} is missing; expected it in the header; {fix}")
    for name, count in sorted(Counter(header).items()):
        if name and count > 1:
            problems.add(line, f"column {shown(name)} occurs {count} times; expected once; remove or rename one")


def _column(name: str) -> Column:
    match name:
        case "volume_id":
            return TextColumn(volume_id_problem)
        case "path" | "phase" | "kspace" | "segmentation":
            return TextColumn(path_problem(name, required=name == "path"))
        case "format":
            return WordColumn(name, ("auto", *READERS))
        case _ if name in FACTS:
            return _fact_column(name, FACTS[name])
        case "spacing_mm":
            return TripleColumn(name, "mm")
        case "axes":
            return TextColumn(axes_problem)
        case "slice_axis":
            return IntegerColumn(name, 0, 2)
        case "echo" | "frame":
            return IntegerColumn(name, 0)
        case "replicas" | "num_slices" | "height" | "width":
            return IntegerColumn(name, 1)
        case _:
            return TextColumn(text_problem(name))


def _fact_column(name: str, fact: Fact) -> Column:
    match fact.kind:
        case "number":
            return NumberColumn(name, fact.unit)
        case "triple":
            return TripleColumn(name, fact.unit)
        case "flag":
            return FlagColumn(name)
        case "text":
            return WordColumn(name, fact.words) if fact.words else TextColumn(text_problem(name))


def _check_pairs(header: list[str], lines: list[int], cells: list[tuple[str, ...]], problems: Problems) -> None:
    """Check that a row takes its measured phase from one column."""
    if "phase" not in header or "kspace" not in header:
        return
    for line, phase, kspace in zip(lines, cells[header.index("phase")], cells[header.index("kspace")], strict=True):
        if phase and kspace:
            problems.add(line, "names phase and kspace; expected one of them; clear the other cell")
