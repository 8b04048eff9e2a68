"""The index of a corpus as arrays, small enough to be copied into every worker.

Lists of Python objects would grow in forked workers: every access changes a reference count and so copies its page.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.index import INDEX_KEY, OPTIONAL_COLUMNS, index_facts, read_index, verify_checksum
from rephase.corpus.layout import DTYPES, open_attributes
from rephase.corpus.receipt import is_volume_name
from rephase.corpus.storage.open import open_storage
from rephase.errors import RequestError
from rephase.facts import FACTS, facts_where

_SEPARATOR = "\n"
_NUMBERS = (
    "num_slices", "num_coils", "height", "width", "target_height", "target_width", "kspace_chunks_per_shard",
    "target_chunks_per_shard", "has_mask", "has_segmentation", "has_sens_maps", "max", "norm",
    "padding_left", "padding_right",
    "spacing_slice_mm", "spacing_height_mm", "spacing_width_mm", "nfe", "noise_sigma", "oversampling", "replica",
    "seed",
    *facts_where(in_index=True, kind="number"), *facts_where(in_index=True, kind="flag"),
)  # fmt: skip
_DIGESTS = ("receipt_sha256",)
_SIZES = _NUMBERS[:8]
_MOST = 2**31 - 1
_WORDS = (
    "name", "target", "patient_id", "acquisition", "orientation", "phase_generator", "storage", "audit",
    *facts_where(in_index=True, kind="text"),
)  # fmt: skip

_KEPT = (*_NUMBERS, *_WORDS, *_DIGESTS)

_CHECKED: tuple[tuple[str, Callable[[str], object], str], ...] = (
    ("name", is_volume_name, "the name of a volume"),  # it leads to files
    ("target", DTYPES.__contains__, "the name of a target"),
)

Value = str | int | float | bool | tuple[str, ...]


@dataclass(frozen=True)
class _Words:
    """A column of texts: the distinct texts, and the index of each row's text."""

    texts: NDArray[np.bytes_]
    codes: NDArray[np.int32]


class Columns:
    """Facts of volumes, one column each.

    Unknown numbers are NaN, unknown texts empty, unknown flags False; `audit` is a tuple of audit flags.
    """

    def __init__(self, columns: Mapping[str, _Words | NDArray[Any]]) -> None:
        self._columns = dict(columns)

    def __len__(self) -> int:
        first = self._columns["name"]
        return len(first.codes if isinstance(first, _Words) else first)

    def number(self, column: str) -> NDArray[Any]:
        """Return a column of numbers."""
        values = self._columns[column]
        if isinstance(values, _Words):
            raise KeyError(column)
        return values

    def texts(self, column: str) -> list[str]:
        """Return a column of texts, row by row."""
        words = self._words(column)
        decoded = [text.decode() for text in words.texts.tolist()]
        return [decoded[code] for code in words.codes.tolist()]

    def different(self, column: str) -> list[str]:
        """Return the distinct texts of a column, sorted; for `audit`, the distinct flags."""
        words = self._words(column)
        found = {words.texts[code].decode() for code in np.unique(words.codes)}
        return sorted({flag for text in found for flag in text.split(_SEPARATOR)} if column == "audit" else found)

    def having(self, column: str, requested: Collection[str]) -> NDArray[np.bool_]:
        """Return, for every row, whether its text or one of its audit flags is requested, bool `(row)`."""
        words = self._words(column)
        allowed = {text.encode() for text in requested}
        separator = _SEPARATOR.encode()
        if column == "audit":
            known = [bool(allowed & set(text.split(separator))) for text in words.texts.tolist()]
        else:
            known = [text in allowed for text in words.texts.tolist()]
        return np.array(known, np.bool_)[words.codes]

    def digests(self) -> NDArray[np.bytes_]:
        """Return the SHA-256 of every volume's receipt, as 64 digits."""
        values = self._columns[_DIGESTS[0]]
        return values if isinstance(values, np.ndarray) else np.zeros(len(self), "S64")

    def row(self, position: int) -> dict[str, Value]:
        """Return the value of every column for one volume."""
        return {column: self.value(column, position) for column in self._columns}

    def value(self, column: str, position: int) -> Any:  # noqa: ANN401 - the column's own type
        """Return one value."""
        values = self._columns[column]
        if not isinstance(values, _Words):
            return values[position].decode() if column in _DIGESTS else values[position].item()
        text = values.texts[values.codes[position]].decode()
        return tuple(filter(None, text.split(_SEPARATOR))) if column == "audit" else text

    def contradicted(self, position: int, receipt: Mapping[str, Any]) -> str | None:
        """Return the first column whose value is not what follows from the receipt of its volume; None without one."""
        expected = index_facts(self.value("name", position), receipt)
        for column, values in self._columns.items():
            if column in _DIGESTS:  # the caller has compared it
                continue
            right = expected[column]
            if isinstance(values, _Words):
                text = _SEPARATOR.join(right) if column == "audit" else right or ""
                is_same = values.texts[values.codes[position]] == text.encode()
            elif values.dtype.kind == "b":
                is_same = values[position] == bool(right)
            else:
                is_same = np.isnan(values[position]) if right is None else values[position] == right
            if not is_same:
                return column
        return None

    def take(self, rows: NDArray[np.intp]) -> Columns:
        """Return some rows, in this order."""
        return Columns(
            {
                column: _Words(values.texts, values.codes[rows]) if isinstance(values, _Words) else values[rows]
                for column, values in self._columns.items()
            }
        )

    def _words(self, column: str) -> _Words:
        words = self._columns[column]
        if not isinstance(words, _Words):
            raise KeyError(column)
        return words


def open_columns(root: str | os.PathLike[str]) -> tuple[str, Columns]:
    """Open a corpus through its index.

    Returns
    -------
    root
        Absolute path or URL.
    columns
        Columns of the committed volumes.

    Raises
    ------
    RequestError
        If there is no corpus, or its index is missing, damaged or of another format.
    """
    storage = open_storage(root)
    open_attributes(storage)
    try:
        document = storage.get(INDEX_KEY)
    except OSError:
        document = None  # `read_index` reports it
    columns = _scan(document) if document and _has_checksum(document) else None
    where, fix = f"{storage.root}/{INDEX_KEY}", f"rebuild the index with 'rephase repair {storage.root}'"
    if columns is None:
        index = read_index(root)  # slower, but reports the error
        try:
            columns = {column: _pack(column, index.columns[column]) for column in _KEPT}
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise RequestError(f"{where}: a column has values of another type ({error}); {fix}") from None
    for column, is_right, what in _CHECKED:
        words = columns[column]
        for text in words.texts[np.unique(words.codes)].tolist() if isinstance(words, _Words) else []:
            if not is_right(text.decode()):
                raise RequestError(f"{where}: {text.decode()[:80]!r} cannot be {what}; {fix}")
    for column in _NUMBERS:
        values = columns[column]
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
            raise RequestError(f"{where}: column {column} has values of another type; expected numbers; {fix}")
    for column in _SIZES:
        sizes = columns[column]
        if (
            not isinstance(sizes, np.ndarray)
            or sizes.dtype.kind not in "iu"
            or (sizes < 0).any()
            or (sizes > _MOST).any()
        ):
            raise RequestError(f"{where}: {column} of some volume is no size; expected a number of 0 to {_MOST}; {fix}")
    return storage.root, Columns(columns)


def _has_checksum(document: bytes) -> bool:
    try:
        verify_checksum(document)
    except ValueError:
        return False
    return True


def _scan(document: bytes) -> dict[str, _Words | NDArray[Any]] | None:
    """Decode column by column, so that one at a time exists as Python objects; None for any other spelling."""
    try:
        text = document.decode()
        packed = {column: _pack(column, values) for column, values in _columns_of(text) if column in _KEPT}
        count = int(text[text.rindex('"num_volumes": ') + len('"num_volumes": ') :].split("}")[0])
    except (ValueError, TypeError, AttributeError, IndexError, KeyError):
        return None
    lengths = {len(column.codes if isinstance(column, _Words) else column) for column in packed.values()}
    if lengths != {count}:
        return None
    packed = {column: _pack(column, [None] * count) for column in OPTIONAL_COLUMNS} | packed
    return packed if len(packed) == len(_KEPT) else None


def _columns_of(text: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield the columns of an index document in the canonical spelling of the format."""
    start = '{"attributes": {"columns": '
    if not text.startswith(start + "{"):
        raise ValueError("not an index in the canonical spelling of the format")
    decoder = json.JSONDecoder()
    at = len(start)
    while text[at] in "{,":
        at += 1 if text[at] == "{" else 2
        column, at = decoder.raw_decode(text, at)
        values, at = decoder.raw_decode(text, at + 2)
        if not isinstance(values, list):
            raise ValueError(f"column {column} is not a list")
        yield column, values


def _pack(column: str, values: list[Any]) -> _Words | NDArray[Any]:
    if column in _NUMBERS:
        if column in FACTS and FACTS[column].kind == "flag":
            return np.array(values, np.bool_)  # unknown: False
        if None in values:
            return np.array([np.nan if value is None else value for value in values], np.float64)
        # an empty column would be of float type, which cannot count
        return np.array(values) if values else np.zeros(0, np.int64)
    if column in _DIGESTS:
        return np.array([value.encode() for value in values], "S64")
    if column == "audit":
        values = [_SEPARATOR.join(flags) for flags in values]
    codes: dict[str | None, int] = {}
    numbers = np.fromiter((codes.setdefault(value, len(codes)) for value in values), np.int32, len(values))
    return _Words(np.array([(text or "").encode() for text in codes] or [b""]), numbers)
