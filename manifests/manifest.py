"""The validated rows of a manifest, stored as compact columns."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, overload

from rephase.manifests.columns import Column, Value
from rephase.manifests.record import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, ManifestRow
from rephase.text import is_url

PATH_COLUMNS = ("path", "phase", "kspace", "segmentation")
UNDERSTOOD = REQUIRED_COLUMNS + OPTIONAL_COLUMNS


class Manifest(Sequence[ManifestRow]):
    """The validated rows of one manifest, in its order. A row becomes an object when it is accessed."""

    def __init__(self, path: str, lines: array[int], columns: dict[str, Column], kept: Sequence[str]) -> None:
        self.path = path
        self._lines = lines
        self._columns = columns
        self._kept = tuple(kept)
        self._rows: array[int] | None = None
        self._folder = os.path.dirname(path) if is_url(path) else os.path.dirname(os.path.abspath(path))  # noqa: PTH100,PTH120

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the recognised columns of the file, in no particular order."""
        return tuple(name for name in self._columns if name in UNDERSTOOD)

    def take(self, rows: Sequence[int]) -> Manifest:
        """Return some rows, by their numbers, as a manifest."""
        taken = Manifest(self.path, self._lines, self._columns, self._kept)
        taken._rows = array("I", rows if self._rows is None else [self._rows[row] for row in rows])
        return taken

    def __len__(self) -> int:
        return len(self._lines if self._rows is None else self._rows)

    @overload
    def __getitem__(self, row: int) -> ManifestRow: ...

    @overload
    def __getitem__(self, row: slice) -> list[ManifestRow]: ...

    def __getitem__(self, row: int | slice) -> ManifestRow | list[ManifestRow]:
        if isinstance(row, slice):
            return [self._row(i) for i in range(*row.indices(len(self)))]
        index = row + len(self) if row < 0 else row
        if not 0 <= index < len(self):
            raise IndexError(f"row {row} of a manifest of {len(self)} rows")
        return self._row(index)

    def __iter__(self) -> Iterator[ManifestRow]:
        return map(self._row, range(len(self)))

    def _row(self, number: int) -> ManifestRow:
        index = number if self._rows is None else self._rows[number]
        values: dict[str, Any] = {name: self._value(name, index) for name in self._columns if name in UNDERSTOOD}
        values["format"] = values.get("format") or "auto"
        values["extra"] = tuple((name, str(self._columns[name][index] or "")) for name in self._kept)
        return ManifestRow(line=self._lines[index], **values)

    def _value(self, name: str, index: int) -> Value:
        value = self._columns[name][index]
        if name not in PATH_COLUMNS or not isinstance(value, str) or is_url(value):
            return value
        if is_url(self._folder):
            return value if value.startswith("/") else f"{self._folder}/{value}"
        return os.path.normpath(os.path.join(self._folder, value))  # noqa: PTH118


def check_files(manifest: Manifest) -> list[str]:
    """List the missing files of a manifest, as `file:line: what; expected ...; fix`.

    Every local path requires one file system access, every URL one request.
    """
    problems = []
    for row in manifest:
        for name in PATH_COLUMNS:
            path = getattr(row, name)
            if path is not None and not _exists(path):
                problems.append(
                    f"{manifest.path}:{row.line}: {name} {path} does not exist; expected a file or folder; "
                    "correct the path or remove the row"
                )
    return problems


def _exists(path: str) -> bool:
    if not is_url(path):
        return os.path.exists(path)  # noqa: PTH110
    import fsspec

    filesystem, inside = fsspec.core.url_to_fs(path)
    return bool(filesystem.exists(inside))
