"""The index of a corpus: one document with a column for every fact that a loader needs, in manifest order."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rephase.corpus.expansion import kspace_shape
from rephase.corpus.layout import group_attributes, group_document, open_attributes
from rephase.corpus.receipt import is_volume_name
from rephase.corpus.storage.open import open_storage
from rephase.errors import RequestError
from rephase.facts import facts_where
from rephase.files import sha256
from rephase.text import one_line

INDEX_KEY = "index/zarr.json"

_COPIED = (
    "acquisition", "max", "norm", "patient_id", "orientation", "scale", "phase_generator", "nfe", "noise_sigma",
    "oversampling", "padding_left", "padding_right", "storage", "num_slices", "seed", "replica",
)  # fmt: skip
_DERIVED = (
    "name", "num_coils", "height", "width", "target", "target_height", "target_width", "kspace_chunks_per_shard",
    "target_chunks_per_shard", "spacing_slice_mm", "spacing_height_mm", "spacing_width_mm", "has_mask",
    "has_segmentation", "has_sens_maps", "audit", "receipt_sha256",
)  # fmt: skip

REQUIRED_COLUMNS = _DERIVED + _COPIED + facts_where(in_index=True, always=True)
OPTIONAL_COLUMNS = facts_where(in_index=True, always=False)
"""Columns that an index has only if a volume has the fact, so that the bytes of an index without it do not change."""

COLUMNS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS
"""Every column; augment/FORMAT.md defines them."""

_CHECKSUM_KEY = "crc32"
_CHECKSUM = re.compile(rb'"crc32": "([0-9a-f]{8})"')
_BLANK = "0" * 8
"""Placeholder of the checksum while it is computed."""

_TAIL_BYTES = 4096
_MARK = "@"
_encode = json.JSONEncoder(sort_keys=True, allow_nan=False, ensure_ascii=False).encode


def index_document(columns: Mapping[str, Sequence[Any]]) -> Iterator[bytes]:
    """Yield the document of an index column by column, with the CRC-32 of its bytes at the end.

    Parameters
    ----------
    columns
        A list of JSON values for each of `COLUMNS`, all of one length. Optional columns without any value are omitted.
    """
    names = sorted(
        name
        for name, values in columns.items()
        if name not in OPTIONAL_COLUMNS or any(value is not None for value in values)
    )
    attributes = {
        "num_volumes": len(columns["name"]), "columns": dict.fromkeys(names, _MARK), _CHECKSUM_KEY: _BLANK
    }  # fmt: skip
    *heads, end = group_document(attributes, indent=None).split(f'"{_MARK}"'.encode())
    checksum = 0
    for name, head in zip(names, heads, strict=True):
        piece = head + _encode(columns[name]).encode()
        checksum = zlib.crc32(piece, checksum)
        yield piece
    yield end.replace(f'"{_BLANK}"'.encode(), f'"{zlib.crc32(end, checksum):08x}"'.encode(), 1)


def verify_checksum(document: bytes) -> None:
    """Check a document against its own CRC-32, which is computed with eight zeros in its place.

    Raises
    ------
    ValueError
        If it is missing or different.
    """
    # after the columns, which are nearly the entire document
    found = list(_CHECKSUM.finditer(document, max(len(document) - _TAIL_BYTES, 0)))
    if not found:
        raise ValueError("it has no crc32")
    start, stop = found[-1].span(1)
    view = memoryview(document)  # slices of bytes would be copies
    checksum = zlib.crc32(view[stop:], zlib.crc32(_BLANK.encode(), zlib.crc32(view[:start])))
    if document[start:stop] != f"{checksum:08x}".encode():
        raise ValueError("its bytes do not match its crc32")


@dataclass(frozen=True)
class CorpusIndex:
    """The committed volumes, a list per column, all of one length.

    Attributes
    ----------
    root
        Path or URL of the corpus.
    attributes
        Attributes of the corpus's root group.
    columns
        One list for each of `COLUMNS`.
    """

    root: str
    attributes: dict[str, Any]
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.columns["name"])

    @property
    def names(self) -> list[str]:
        """Names of the volumes, in order."""
        return self.columns["name"]

    def row(self, position: int) -> dict[str, Any]:
        """Return every column's value for one volume."""
        return {column: values[position] for column, values in self.columns.items()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the row of every volume in order."""
        return (self.row(position) for position in range(len(self)))


def index_row(name: str, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Return a volume's row, which is determined by its receipt alone."""
    return index_facts(name, receipt) | {"receipt_sha256": sha256(group_document(receipt))}


def index_facts(name: str, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Return a volume's row without the SHA-256 of its receipt, which takes longest."""
    arrays = receipt["arrays"]
    kspace = kspace_shape(receipt)
    target = "reconstruction_esc" if len(kspace) == 3 else "reconstruction_rss"
    spacing = receipt["spacing_mm"]
    row = {key: receipt[key] for key in _COPIED} | {key: receipt.get(key) for key in facts_where(in_index=True)}
    return row | {
        "name": name,
        "num_coils": kspace[1] if len(kspace) == 4 else 0,
        "height": kspace[-2],
        "width": kspace[-1],
        "target": target,
        "target_height": arrays[target]["shape"][-2],
        "target_width": arrays[target]["shape"][-1],
        "kspace_chunks_per_shard": arrays["kspace" if "kspace" in arrays else "image"]["chunks_per_shard"],
        "target_chunks_per_shard": arrays[target]["chunks_per_shard"],
        "spacing_slice_mm": spacing[0],
        "spacing_height_mm": spacing[1],
        "spacing_width_mm": spacing[2],
        "has_mask": "mask" in arrays,
        "has_segmentation": "segmentation" in arrays,
        "has_sens_maps": "sens_maps" in arrays,
        "audit": sorted(receipt["audit"]),
    }


def read_index(
    root: str | os.PathLike[str], check: bool = True, attributes: dict[str, Any] | None = None
) -> CorpusIndex:
    """Open a corpus through its index: two objects are read, whatever its size.

    Parameters
    ----------
    root
        Path or URL of the corpus.
    check
        Whether the index must match its checksum; False for callers that compare it with the receipts.
    attributes
        Attributes of the corpus; None reads them. A sound index is of use although the root document is damaged.

    Raises
    ------
    RequestError
        If there is no corpus, or its index is missing, damaged or of another format.
    """
    storage = open_storage(root)
    attributes = open_attributes(storage) if attributes is None else attributes
    where = f"{storage.root}/{INDEX_KEY}"
    fix = f"rebuild it with 'rephase repair {storage.root}'"
    try:
        document = storage.get(INDEX_KEY)
    except OSError as error:
        raise RequestError(f"{where}: cannot be read ({one_line(error.strerror or error)}); {fix}") from None
    if document is None:
        raise RequestError(f"{where}: the corpus has no index; {fix}")
    try:
        index = group_attributes(document, where)
    except ValueError as error:
        raise RequestError(f"{error}; {fix}") from None
    if not index:  # a new corpus
        return CorpusIndex(storage.root, attributes, {column: [] for column in COLUMNS})
    columns, count = index.get("columns"), index.get("num_volumes")
    if not isinstance(columns, dict) or not isinstance(count, int):
        raise RequestError(f"{where}: no columns; {fix}")
    columns = {**{column: [None] * count for column in OPTIONAL_COLUMNS}, **columns}
    for column in COLUMNS:
        if not isinstance(columns.get(column), list) or len(columns[column]) != count:
            raise RequestError(f"{where}: column {column} is missing or does not have {count} rows; {fix}")
    if check:
        try:
            verify_checksum(document)
        except ValueError as error:
            raise RequestError(f"{where}: {error}; {fix}") from None
        # a checksum is no signature: a corpus may come from somebody else, and a name leads to files
        for name in columns["name"]:
            if not isinstance(name, str) or not is_volume_name(name):
                raise RequestError(f"{where}: {str(name)[:80]!r} cannot be the name of a volume; {fix}")
    return CorpusIndex(storage.root, attributes, columns)
