"""The index of a corpus: one document with a column for every fact that a loader needs, in manifest order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from augment.errors import RequestError, VolumeError
from augment.index_document import IndexDocument, row_cells
from augment.layout import group_attributes, group_document, sha256
from augment.receipts import is_volume_name
from augment.seal import check_seal
from augment.spool import RowSpool
from augment.storage import Storage, open_storage
from augment.store import CorpusStore, open_attributes

INDEX_KEY = "index/zarr.json"

_NAMES = b'"name": ['
"""What stands before the names in an index: FORMAT.md fixes the spelling, and quotes inside of texts are escaped."""

_PIECE_BYTES = 1 << 22

_COPIED = (
    "acquisition", "max", "norm", "patient_id", "split", "contrast", "anatomy", "field_t", "te_ms", "orientation",
    "scale", "phase_generator", "nfe", "noise_sigma", "oversampling", "padding_left", "padding_right", "storage",
    "num_slices", "seed", "replica",
)  # fmt: skip

_DERIVED = (
    "name", "num_coils", "height", "width", "target", "target_height", "target_width", "kspace_chunks_per_shard",
    "target_chunks_per_shard", "spacing_slice_mm", "spacing_height_mm", "spacing_width_mm", "has_mask",
    "has_segmentation", "has_sens_maps", "audit", "receipt_sha256",
)  # fmt: skip

COLUMNS = _DERIVED + _COPIED
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


def index_row(name: str, receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Derive a volume's row from its receipt alone."""
    arrays = receipt["arrays"]
    kspace = arrays["kspace"]["shape"]
    target = "reconstruction_esc" if len(kspace) == 3 else "reconstruction_rss"
    spacing = receipt["spacing_mm"]
    row = {key: receipt[key] for key in _COPIED}
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
    mend = f"write it anew with 'phasegen repair {storage.root}'"
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
    if not isinstance(columns, dict):
        raise RequestError(f"{where}: no columns; {mend}")
    for column in COLUMNS:
        if not isinstance(columns.get(column), list) or len(columns[column]) != count:
            raise RequestError(f"{where}: column {column} is missing or has not {count} rows; {mend}")
    try:
        check_seal(document) if sealed else None
    except ValueError as error:
        raise RequestError(f"{where}: {error}; {mend}") from None
    return CorpusIndex(storage.root, attributes, columns)
