"""Volumes stored as image and coil coefficients: expand their slices to the k-space of all coils, and to coil maps.

Imports torch only when a slice is expanded, so that commands that only read stored k-space start quickly.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.decoding import ShardError, decode_shard
from rephase.corpus.layout import ArrayLayout
from rephase.corpus.storage.base import Storage
from rephase.files import sha256

if TYPE_CHECKING:
    from rephase.scanner.expand import CoilMaps

LAZY = "image+maps"
"""Value of `storage` of volumes whose k-space is computed when it is read."""

COILS_SHARD = "coil_coefficients/c.0.0.0.0"
"""Key of the coil coefficients inside a volume."""

_KEPT_VOLUMES = 64


@dataclass(frozen=True)
class Scan:
    """What determines the k-space of a volume besides its image.

    Attributes
    ----------
    name
        The volume.
    num_coils, num_slices
        Coils, and slices.
    height, width
        Size of the image.
    coils_sha256
        SHA-256 of the shard of the coil coefficients by the receipt; None if unknown.
    """

    name: str
    num_coils: int
    num_slices: int
    height: int
    width: int
    coils_sha256: str | None = None

    @classmethod
    def of(cls, name: str, receipt: Mapping[str, Any]) -> Scan:
        """Return the scan of a receipt whose arrays have `coil_coefficients`."""
        num_coils = int(receipt["arrays"]["coil_coefficients"]["shape"][0])
        height, width, _ = receipt["recon_size"]
        digest = receipt["checksums"].get(COILS_SHARD)
        return cls(name, num_coils, int(receipt["num_slices"]), int(height), int(width), digest)


class Expander:
    """Expands slices of a corpus. Keeps the maps of a few volumes; may be pickled and forked.

    Parameters
    ----------
    storage
        Storage of the corpus.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._kept: dict[Scan, CoilMaps] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"storage": self._storage}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def kspace(self, scan: Scan, image: NDArray[np.complex64], slice_index: int) -> NDArray[np.complex64]:
        """Return the k-space of one slice, complex64 `(coil height width)`, from its image `(height width)`.

        Raises
        ------
        ShardError
            If the coefficients are missing or damaged.
        """
        return self._coils(scan).kspace(image, slice_index)

    def maps(self, scan: Scan, slice_index: int) -> NDArray[np.complex64]:
        """Return the coil maps of one slice, complex64 `(coil height width)`; errors as in `kspace`."""
        return self._coils(scan).sensitivities(slice_index)

    def _coils(self, scan: Scan) -> CoilMaps:
        from rephase.scanner.expand import CoilMaps

        found = self._kept.get(scan)
        if found is None:
            coefficients = read_coefficients(self._storage, scan)
            found = CoilMaps(coefficients, scan.num_slices, scan.height, scan.width)
            with self._lock:
                self._kept[scan] = found
                while len(self._kept) > _KEPT_VOLUMES:
                    self._kept.pop(next(iter(self._kept)))
        return found


def read_coefficients(storage: Storage, scan: Scan) -> NDArray[np.complex64]:
    """Read the coil coefficients of a volume, complex64 `(coil 5 5 5)`.

    Raises
    ------
    ShardError
        If they are missing, damaged, or not those that the receipt names.
    """
    layout = ArrayLayout.of("coil_coefficients", (scan.num_coils, 5, 5, 5), scan.name)
    ((key, chunks),) = layout.shards()
    data = storage.get(key)
    if data is None:
        raise ShardError(f"{key}: the shard is missing")
    if scan.coils_sha256 is not None and sha256(data) != scan.coils_sha256:
        raise ShardError(f"{key}: is not the shard that the receipt names")
    try:
        return np.stack(list(decode_shard(data, layout, len(chunks))))
    except ShardError as error:
        raise ShardError(f"{key}: {error}") from None


def kspace_shape(receipt: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of a volume's k-space, stored or expanded: `(slice [coil] height width)`."""
    arrays = receipt["arrays"]
    if "kspace" in arrays:
        return tuple(int(size) for size in arrays["kspace"]["shape"])
    height, width, _ = receipt["encoding_size"]
    return int(receipt["num_slices"]), int(arrays["coil_coefficients"]["shape"][0]), int(height), int(width)
