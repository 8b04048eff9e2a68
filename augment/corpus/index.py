"""The index of a corpus: one document with a column for every fact that a loader needs, in manifest order."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rephase.corpus.layout import group_attributes, group_document, open_attributes
from rephase.corpus.storage.open import open_storage
from rephase.errors import RequestError
from rephase.facts import facts_where
from rephase.files import sha256

SEAL_KEY = "crc32"


_SEAL = re.compile(rb'"crc32": "([0-9a-f]{8})"')


_TAIL_BYTES = 4096


SEAL_BLANK = "0" * 8


def sealed_document(attributes: Mapping[str, Any]) -> bytes:
    """Give the document of a group with `crc32` among its attributes: of its bytes, with eight zeros in its place."""
    document = group_document({**attributes, SEAL_KEY: SEAL_BLANK}, indent=None)
    place = _place(document)
    return document[: place.start] + _checksum(document, place) + document[place.stop :]


def check_seal(document: bytes) -> None:
    """Compare a document with the checksum in it.

    Raises
    ------
    ValueError
        If it has none, or another one.
    """
    place = _place(document)
    if document[place.start : place.stop] != _checksum(document, place):
        raise ValueError("its bytes are not what its crc32 says")


def _place(document: bytes) -> slice:
    """Where the checksum stands: behind the columns, which are all but the whole document."""
    start = max(len(document) - _TAIL_BYTES, 0)
    found = list(_SEAL.finditer(document, start))
    if not found:
        raise ValueError("it has no crc32")
    return slice(found[-1].start(1), found[-1].end(1))


def _checksum(document: bytes, place: slice) -> bytes:
    view = memoryview(document)  # a slice of bytes would be a second copy of them
    checksum = zlib.crc32(view[: place.start])
    checksum = zlib.crc32(SEAL_BLANK.encode(), checksum)
    return f"{zlib.crc32(view[place.stop :], checksum):08x}".encode()


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
"""An index has these only where a volume has the fact, so that an index without it keeps its bytes."""

COLUMNS = REQUIRED_COLUMNS + OPTIONAL_COLUMNS
"""Every column; augment/FORMAT.md says what each holds."""


@dataclass(frozen=True)
class CorpusIndex:
    """The committed volumes, a list per column, all of one length.

    Attributes
    ----------
    root
        Path or URL of the corpus.
    attributes
        Of the corpus's root group.
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
        """The volumes in order."""
        return self.columns["name"]

    def row(self, position: int) -> dict[str, Any]:
        """Give every column's value for one volume."""
        return {column: values[position] for column, values in self.columns.items()}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give every volume's row in order."""
        return (self.row(position) for position in range(len(self)))


def written_columns(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the columns that an index document has: optional ones only where a volume has the fact."""
    return {
        name: values
        for name, values in columns.items()
        if name not in OPTIONAL_COLUMNS or any(value is not None for value in values)
    }


def index_row(name: str, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Derive a volume's row from its receipt alone."""
    arrays = receipt["arrays"]
    kspace = arrays["kspace"]["shape"]
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
        "kspace_chunks_per_shard": arrays["kspace"]["chunks_per_shard"],
        "target_chunks_per_shard": arrays[target]["chunks_per_shard"],
        "spacing_slice_mm": spacing[0],
        "spacing_height_mm": spacing[1],
        "spacing_width_mm": spacing[2],
        "has_mask": "mask" in arrays,
        "has_segmentation": "segmentation" in arrays,
        "has_sens_maps": "sens_maps" in arrays,
        "audit": sorted(receipt["audit"]),
        "receipt_sha256": sha256(group_document(receipt)),
    }


def read_index(root: str | os.PathLike[str], sealed: bool = True) -> CorpusIndex:
    """Open a corpus through its index: two objects are read, whatever its size.

    Parameters
    ----------
    root
        Path or URL of the corpus.
    sealed
        Whether the index must be what its checksum says; False for those who compare it with the receipts.

    Raises
    ------
    RequestError
        If there is no corpus, or its index is missing, damaged or of another format.
    """
    storage = open_storage(root)
    attributes = open_attributes(storage)
    where = f"{storage.root}/{INDEX_KEY}"
    mend = f"write it anew with 'rephase repair {storage.root}'"
    document = storage.get(INDEX_KEY)
    if document is None:
        raise RequestError(f"{where}: the corpus has no index; {mend}")
    try:
        index = group_attributes(document, where)
    except ValueError as error:
        raise RequestError(f"{error}; {mend}") from None
    if not index:
        return CorpusIndex(storage.root, attributes, {column: [] for column in COLUMNS})
    columns, count = index.get("columns"), index.get("num_volumes")
    if not isinstance(columns, dict) or not isinstance(count, int):
        raise RequestError(f"{where}: no columns; {mend}")
    columns = {**{column: [None] * count for column in OPTIONAL_COLUMNS}, **columns}
    for column in COLUMNS:
        if not isinstance(columns.get(column), list) or len(columns[column]) != count:
            raise RequestError(f"{where}: column {column} is missing or has not {count} rows; {mend}")
    try:
        check_seal(document) if sealed else None
    except ValueError as error:
        raise RequestError(f"{where}: {error}; {mend}") from None
    return CorpusIndex(storage.root, attributes, columns)
