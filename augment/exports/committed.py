"""A committed volume for an export: its receipt, and its arrays slice by slice with their checksums checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.decoding import ShardError, SliceReader
from rephase.corpus.expansion import Expander, Scan, kspace_shape
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
    store, reader, expander
        Read the arrays, and expand those of volumes with coil coefficients.
    """

    name: str
    receipt: Mapping[str, Any]
    receipt_sha256: str
    store: CorpusStore
    reader: SliceReader
    expander: Expander

    @classmethod
    def open(cls, store: CorpusStore, name: str, receipt_sha256: str) -> CommittedVolume:
        """Read a volume's receipt.

        Raises
        ------
        VolumeError
            If it is not committed, or its receipt does not have this SHA-256, which the index names, or is not one of
            format 1.
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
        return cls(name, receipt, receipt_sha256, store, SliceReader(store.storage, keep=16), Expander(store.storage))

    @property
    def arrays(self) -> list[str]:
        """Names of the volume's arrays, `kspace` first: coil coefficients are expanded to `sens_maps`."""
        names = set(self.receipt["arrays"])
        if "coil_coefficients" in names:
            names = (names - {"coil_coefficients", "image"}) | {"kspace", "sens_maps"}
        return sorted(names, key=lambda name: (name != "kspace", name))

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
        if array == "kspace":
            return kspace_shape(self.receipt)
        if array == "sens_maps" and array not in self.receipt["arrays"]:
            return (*kspace_shape(self.receipt)[:2], *self.receipt["recon_size"][:2])
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
        for number in range(self._layout(array).num_chunks):
            try:
                yield self._slice(array, number)
            except (ShardError, OSError) as error:
                where = f"{self.store.root}: volume {self.name}, slice {number}, {array}"
                raise VolumeError("unreadable", f"{where}: {error}; {self.store.how_to_fix(self.name)}") from error

    def _slice(self, array: str, number: int) -> NDArray[Any]:
        if array in self.receipt["arrays"]:
            return self._stored(array, number)
        scan = Scan.of(self.name, self.receipt)
        if array == "sens_maps":
            return self.expander.maps(scan, number)
        mask = self._stored("mask", 0) if "mask" in self.receipt["arrays"] else None
        return self.expander.kspace(scan, self._stored("image", number), number, mask)

    def _stored(self, array: str, number: int) -> NDArray[Any]:
        return self.reader.read_slice(self._layout(array), number, chunk_crc(self.receipt, array, number))

    def _layout(self, array: str) -> ArrayLayout:
        return ArrayLayout.of(array, self.shape(array), self.name)
