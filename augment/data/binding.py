"""Bind what a data set reads to the receipts that the index names: once per volume and process.

The index records the SHA-256 of every receipt, a receipt the crc32c of every chunk, and a chunk ends with its crc32c,
which is checked anyway. So a shard that is sound by itself, but of another volume or of another version of this one, is
refused for the price of one small read per volume.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.decoding import ShardError
from rephase.corpus.expansion import scanner_digest
from rephase.corpus.layout import ArrayLayout, group_attributes, group_document, receipt_key
from rephase.corpus.storage.base import Storage
from rephase.data.columns import Columns
from rephase.files import sha256

_UNREAD, _BOUND, _WITHOUT_CRCS = range(3)
_ROW = {
    "kspace": 0, "image": 0, "reconstruction_esc": 1, "reconstruction_rss": 1, "segmentation": 2, "sens_maps": 3,
}  # fmt: skip
"""The row of the checksums of each array that has a chunk per slice."""
_ROWS = 1 + max(_ROW.values())


class Binding:
    """The checksums of all chunks by the receipts, each receipt read when its volume is first used. Thread-safe.

    The arrays are as long as the data set has slices, but their pages exist only once they are written to. A copy in
    another process starts empty.

    Parameters
    ----------
    storage
        Storage of the corpus.
    columns
        The index: facts of every volume, and the SHA-256 of its receipt.
    num_slices
        Number of slices of every volume.
    """

    def __init__(self, storage: Storage, columns: Columns, num_slices: NDArray[np.int64]) -> None:
        self._storage, self._columns, self._num_slices = storage, columns, num_slices
        self._receipts = columns.digests()
        self._starts = np.cumsum(num_slices) - num_slices
        self._crcs = np.zeros((_ROWS, int(num_slices.sum())), np.uint32)
        self._masks = np.zeros(len(num_slices), np.uint32)
        self._coils = np.zeros((len(num_slices), 32), np.uint8)
        self._states = np.zeros(len(num_slices), np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        return {"storage": self._storage, "columns": self._columns, "num_slices": self._num_slices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def crc(self, volume: int, layouts: dict[str, ArrayLayout], array: str, index: int) -> int | None:
        """Return the crc32c of a chunk by the receipt of its volume.

        Parameters
        ----------
        volume
            Number of the volume.
        layouts
            Layouts of its arrays by the index; `kspace` or `image` first, then the target.
        array, index
            The array, and the number of its chunk.

        Returns
        -------
        crc
            None if the receipt is of a version that recorded none.

        Raises
        ------
        ShardError
            If the volume has no receipt, or not the one that the index names.
        """
        if self._states[volume] == _UNREAD:
            self._bind(volume, layouts)
        if self._states[volume] == _WITHOUT_CRCS:
            return None
        if array == "mask":
            return int(self._masks[volume])
        return int(self._crcs[_ROW[array], self._starts[volume] + index])

    def receipt(self, volume: int, name: str) -> dict[str, Any]:
        """Read the receipt of a volume, by its number and name; errors as in `crc`."""
        return self._receipt(name, self._receipts[volume].decode())

    def scanner(self, volume: int, layouts: dict[str, ArrayLayout]) -> str:
        """Return `scanner_digest` of the receipt of a volume; errors as in `crc`."""
        if self._states[volume] == _UNREAD:
            self._bind(volume, layouts)
        digest: bytes = self._coils[volume].tobytes()
        return digest.hex()

    def _bind(self, volume: int, layouts: dict[str, ArrayLayout]) -> None:
        name = next(iter(layouts.values())).prefix.split("/")[1]
        receipt = self._receipt(name, self._receipts[volume].decode())
        entries, recorded = receipt.get("arrays"), receipt.get("chunk_crc32c")
        for array, layout in layouts.items():
            if not isinstance(entries, dict) or entries.get(array) != layout.entry:
                raise ShardError(f"its receipt describes another {array} than the index")
        if (column := self._contradicted(volume, receipt)) is not None:
            raise ShardError(f"its receipt has another {column} than the index")
        digest = scanner_digest(receipt)
        if digest is not None:
            self._coils[volume] = np.frombuffer(bytes.fromhex(digest), np.uint8)
        if recorded is None:
            self._states[volume] = _WITHOUT_CRCS
            return
        start = int(self._starts[volume])
        for array, layout in layouts.items():
            crcs = _numbers(recorded, array, layout.num_chunks)
            if array == "mask":
                self._masks[volume] = crcs[0]
            else:
                self._crcs[_ROW[array], start : start + len(crcs)] = crcs
        self._states[volume] = _BOUND

    def _contradicted(self, volume: int, receipt: dict[str, Any]) -> str | None:
        try:
            return self._columns.contradicted(volume, receipt)
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise ShardError(f"its receipt is not one of format 1 ({type(error).__name__}: {error})") from None

    def _receipt(self, name: str, digest: str) -> dict[str, Any]:
        document = self._storage.get(receipt_key(name))
        if document is None:
            raise ShardError("it has no receipt: it was removed, or its replacement was interrupted")
        try:
            receipt = group_attributes(document, "its receipt")
        except ValueError as error:
            raise ShardError(str(error)) from None
        # the second spelling only where the first differs: it takes longer than everything else here
        is_named = sha256(document) == digest or sha256(group_document(receipt)) == digest
        if not is_named or receipt.get("name", name) != name:
            raise ShardError("its receipt is not the one that the index names: it was replaced since, or damaged")
        return receipt


def _numbers(recorded: Any, array: str, count: int) -> NDArray[np.uint32]:  # noqa: ANN401 - from a document
    try:
        crcs = np.frombuffer(bytes.fromhex(recorded[array]), "<u4")
    except (KeyError, TypeError, ValueError):
        crcs = np.zeros(0, np.uint32)
    if len(crcs) != count:
        raise ShardError(f"its receipt does not record the chunks of {array}")
    return crcs
