"""The index of a corpus: one document with a column for every fact that a loader needs, in manifest order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from augment.errors import RequestError
from augment.layout import group_attributes, group_document, sha256
from augment.seal import check_seal, sealed_document
from augment.storage import Storage, open_storage
from augment.store import CorpusStore, open_attributes

INDEX_KEY = "index/zarr.json"

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
    """Collects rows while a build runs, so that the index costs no second reading of the receipts."""

    def __init__(self, store: CorpusStore) -> None:
        self._store = store
        self._rows: dict[str, dict[str, Any]] = {}

    def add(self, name: str, receipt: Mapping[str, Any]) -> None:
        """Take in a committed volume, or take it in anew, from what `commit_volume` or `receipt` gave."""
        self._rows[name] = index_row(name, receipt)

    def write(self, order: Sequence[str]) -> int:
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
        committed = set(self._store.names())
        earlier = read_names(self._store.storage)
        wanted = dict.fromkeys([*order, *earlier, *sorted(committed)])
        rows = [row for name in wanted if name in committed and (row := self._row(name)) is not None]
        columns = {column: [row[column] for row in rows] for column in COLUMNS}
        document = sealed_document({"num_volumes": len(rows), "columns": columns})
        self._store.storage.put(INDEX_KEY, document)
        return len(rows)

    def _row(self, name: str) -> dict[str, Any] | None:
        if name not in self._rows:
            receipt = self._store.receipt(name)
            if receipt is None:  # discarded since the listing
                return None
            self.add(name, receipt)
        return self._rows[name]


def write_index(store: CorpusStore, order: Sequence[str]) -> int:
    """Rebuild the index from the receipts; returns the number of volumes. See `IndexBuilder.write` for the order."""
    return IndexBuilder(store).write(order)


def read_names(storage: Storage) -> list[str]:
    """Read the names in the present index; empty where there is none or it is damaged: it is only made anew."""
    try:
        names = group_attributes(storage.get(INDEX_KEY), INDEX_KEY).get("columns", {}).get("name", [])
    except (ValueError, AttributeError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


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
