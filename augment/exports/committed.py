"""A committed volume for an export: its receipt, and its arrays slice by slice with their checksums checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.decoding import ShardError, SliceReader
from rephase.corpus.invariants import check_shapes
from rephase.corpus.layout import ArrayLayout, group_document
from rephase.corpus.receipt import check_receipt, chunk_crc
from rephase.corpus.store import CorpusStore
from rephase.errors import VolumeError
from rephase.files import sha256


@dataclass(frozen=True)
class CommittedVolume:
    """One volume of a corpus.

    Attributes
    ----------
    name
        Name in the corpus.
    receipt
        Attributes of the volume's group.
    receipt_sha256
        Identifies the volume's exact bytes, since the receipt contains the checksum of every object.
    store, reader
        Read the arrays.
    """

    name: str
    receipt: Mapping[str, Any]
    receipt_sha256: str
    store: CorpusStore
    reader: SliceReader

    @classmethod
    def open(cls, store: CorpusStore, name: str, receipt_sha256: str) -> CommittedVolume:
        """Read a volume's receipt.

        Raises
        ------
        VolumeError
            If it is not committed, its receipt does not have this SHA-256, which the index names, or is not one of
            format 1, or its coils are not expanded.
        """
        where = f"{store.root}: volume {name}"
        receipt = store.receipt(name)
        if receipt is None:
            raise VolumeError("missing", f"{where}: is not committed; expected a receipt; {store.how_to_fix(name)}")
        if sha256(group_document(receipt)) != receipt_sha256 or receipt.get("name", name) != name:
            raise VolumeError(
                "unreadable",
                f"{where}: its receipt is not the one that the index names; expected the volume of the index; "
                f"{store.how_to_fix(name)}",
            )
        problems = check_receipt(receipt)
        if not problems:
            shapes = {key: tuple(entry["shape"]) for key, entry in receipt.get("arrays", {}).items()}
            problems = check_shapes(shapes, receipt)
        if problems:
            raise VolumeError("unreadable", f"{where}: {problems[0]}; {store.how_to_fix(name)}")
        if receipt["storage"] != "kspace":
            raise VolumeError(
                "unsupported",
                f"{where}: is stored as {receipt['storage']}; expected kspace; build it with the k-space stored",
            )
        return cls(name, receipt, receipt_sha256, store, SliceReader(store.storage, keep=16))

    @property
    def arrays(self) -> list[str]:
        """Names of the volume's arrays, `kspace` first."""
        return sorted(self.receipt["arrays"], key=lambda name: (name != "kspace", name))

    @property
    def num_bytes(self) -> int:
        """Size of all arrays before compression, in bytes."""
        return sum(int(np.prod(self.shape(name))) * self.dtype(name).itemsize for name in self.arrays)

    @property
    def num_coils(self) -> int:
        """Number of coils of the k-space; 0 if it has no coil axis."""
        shape = self.shape("kspace")
        return shape[1] if len(shape) == 4 else 0

    def shape(self, array: str) -> tuple[int, ...]:
        """Return the shape of an array."""
        return tuple(int(size) for size in self.receipt["arrays"][array]["shape"])

    def dtype(self, array: str) -> np.dtype[Any]:
        """Return the dtype of an array."""
        return np.dtype(self._layout(array).dtype)

    def slices(self, array: str) -> Iterator[NDArray[Any]]:
        """Yield the slices of an array; an array of one axis is yielded as one piece.

        Raises
        ------
        VolumeError
            If a chunk is missing or damaged.
        """
        layout = self._layout(array)
        for number in range(layout.num_chunks):
            try:
                yield self.reader.read_slice(layout, number, chunk_crc(self.receipt, array, number))
            except (ShardError, OSError) as error:
                where = f"{self.store.root}: volume {self.name}, slice {number}, {array}"
                raise VolumeError("unreadable", f"{where}: {error}; {self.store.how_to_fix(self.name)}") from error

    def _layout(self, array: str) -> ArrayLayout:
        return ArrayLayout.of(array, self.shape(array), self.name)
