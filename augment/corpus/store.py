"""The corpus as a Zarr v3 hierarchy: volumes are committed whole, and exist when their receipt exists.

`rephase.corpus.encoding` makes the bytes of arrays in memory, shard by shard; `rephase.corpus.storage.local` brings
them to their place. So one protocol serves a local disk and an object store, and nothing of `zarr`'s own writing
(unflushed files, `.partial` leftovers, implicit groups) touches the corpus.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.decoding import ShardError
from rephase.corpus.encoding import array_document, check_encoded, describe_arrays, encode_array, object_checksums
from rephase.corpus.invariants import array_faults, shape_faults
from rephase.corpus.layout import (
    CONVENTIONS,
    DTYPES,
    FORMAT,
    ArrayLayout,
    committed_names,
    group_attributes,
    group_document,
    open_attributes,
    plain_json,
    receipt_key,
    unfinished_names,
    volume_prefix,
)
from rephase.corpus.receipt import STORE_KEYS, is_volume_name, receipt_faults
from rephase.corpus.storage.base import Storage
from rephase.corpus.storage.open import open_storage
from rephase.errors import RequestError, VolumeError
from rephase.files import sha256

__all__ = ["CorpusStore", "encode_array"]


class CorpusStore:
    """A corpus that is being built or looked after. Cheap to open and to pickle: every worker has its own."""

    def __init__(self, storage: Storage, attributes: dict[str, Any]) -> None:
        self.storage = storage
        self.attributes = attributes

    @property
    def root(self) -> str:
        """The path or URL of the corpus."""
        return self.storage.root

    @classmethod
    def create(cls, root: str | os.PathLike[str], attributes: Mapping[str, Any]) -> CorpusStore:
        """Start a corpus.

        Parameters
        ----------
        root
            A path or URL where there is nothing yet, or a creation that was interrupted.
        attributes
            Of the whole corpus: the recipe, its hash, checkpoint hash, seed. `format` and `conventions` are added.

        Raises
        ------
        RequestError
            If there is a corpus or something else already.
        """
        storage = open_storage(root)
        if storage.exists("zarr.json"):
            raise RequestError(
                f"{storage.root}: there is a corpus or another Zarr store already; open it or choose another path"
            )
        foreign = [name for name in storage.children("") if name not in ("index", "volumes")]
        if foreign:
            raise RequestError(f"{storage.root}: not empty ({foreign[0]}); expected a path where there is nothing yet")
        return cls.begin(storage, attributes)

    @classmethod
    def begin(cls, storage: Storage, attributes: Mapping[str, Any]) -> CorpusStore:
        """Write the documents of a new corpus; the caller has checked that none exists."""
        store = cls(storage, {})
        storage.put("index/zarr.json", group_document({}))
        storage.put("volumes/zarr.json", group_document({}))
        store.write_attributes(attributes)
        return store

    @classmethod
    def open(cls, root: str | os.PathLike[str]) -> CorpusStore:
        """Open a corpus.

        Raises
        ------
        RequestError
            If there is none, or one of another format.
        """
        storage = open_storage(root)
        return cls(storage, open_attributes(storage))

    def write_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Replace the attributes of the corpus; `format` and `conventions` are added."""
        self.attributes = plain_json({**attributes, "format": FORMAT, "conventions": CONVENTIONS})
        self.storage.put("zarr.json", group_document(self.attributes))

    def receipt(self, name: str) -> dict[str, Any] | None:
        """Read a volume's receipt; None where the volume is not committed.

        Raises
        ------
        VolumeError
            If there is one that cannot be read.
        """
        document = self.storage.get(receipt_key(name))
        if document is None:
            return None
        try:
            return group_attributes(document, f"{self.root}/{receipt_key(name)}")
        except ValueError as error:
            raise VolumeError("unreadable", f"{error}; {self.mend(name)}") from None

    def mend(self, name: str) -> str:
        """Say how a damaged volume is made again."""
        return f"make {name} again with 'rephase repair {self.root}'"

    def names(self) -> list[str]:
        """Name the committed volumes, sorted."""
        return committed_names(self.storage)

    def unfinished(self) -> list[str]:
        """Name the volumes that were begun and not committed, sorted."""
        return unfinished_names(self.storage)

    def clear_partials(self) -> None:
        """Remove what killed writers left beside the corpus; for the one builder that holds the lease, at its start."""
        self.storage.clear_partials()

    def discard(self, name: str) -> None:
        """Remove a volume, its receipt first; nothing happens where there is none."""
        self.storage.delete(receipt_key(name))
        for key in self.storage.keys(volume_prefix(name)):
            self.storage.delete(key)

    def commit_volume(
        self, name: str, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write a volume, read it back, and write its receipt last.

        A volume of this name is replaced; where it holds these very bytes it is left as it is. Two processes that
        commit the same volume at once write the same bytes, so neither harms the other.

        Parameters
        ----------
        name
            `<volume_id>` or `<volume_id>@k`.
        arrays
            Named as in `rephase.corpus.layout.DTYPES`, in those dtypes, finite, without negative zeros.
        attributes
            All of `rephase.corpus.receipt.REQUIRED_KEYS`.

        Returns
        -------
        receipt
            The attributes as written, with shapes and checksums.

        Raises
        ------
        VolumeError
            If the arrays or attributes are not what format 1 allows; nothing was written.
        OSError
            If the disk is full or gives back other bytes than were written; the volume is not committed.
        """
        plain = self._check(name, arrays, attributes)
        layouts = {key: ArrayLayout.of(key, arrays[key].shape, name) for key in sorted(arrays)}
        plain["arrays"] = describe_arrays(arrays)
        there = self.storage.get(receipt_key(name))
        if there is not None and self._is_committed(there, name, plain, arrays):
            return self.receipt(name) or {}
        self._clear(name, layouts, there is not None)
        plain["checksums"] = {}
        for key, layout in layouts.items():
            plain["checksums"] |= self._write_array(name, layout, arrays[key])
        self._write_receipt(name, group_document(plain))
        return plain

    def _check(self, name: str, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> dict[str, Any]:
        where = f"{self.root}: volume {name}"
        if not is_volume_name(name):
            raise VolumeError("failed", f"{self.root}: {name!r} cannot name a volume; expected A-Z a-z 0-9 . _ -")
        try:
            plain = plain_json({key: value for key, value in attributes.items() if key not in STORE_KEYS})
        except (TypeError, ValueError) as error:
            raise VolumeError("failed", f"{where}: an attribute is not JSON: {error}") from None
        faults = receipt_faults(plain)
        if not faults:
            faults = shape_faults({key: values.shape for key, values in arrays.items()}, plain)
        for key, values in arrays.items():
            if key in DTYPES and values.dtype != np.dtype(DTYPES[key]):
                faults.append(f"{key} is {values.dtype}; expected {DTYPES[key]}")
        if faults:
            raise VolumeError("failed", f"{where}: {'; '.join(faults)}")
        for key, values in arrays.items():
            for fault in (found for part in values for found in array_faults(key, part)):
                raise VolumeError("not_finite" if "finite" in fault else "failed", f"{where}: {fault}")
        return plain

    def _is_committed(
        self, there: bytes, name: str, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> bool:
        try:
            present = group_attributes(there, receipt_key(name))
        except ValueError:
            return False
        if {**present, "checksums": None} != {**plain, "checksums": None}:
            return False
        expected = object_checksums(arrays)
        if present.get("checksums") != expected:
            return False
        if there != group_document(present):
            return False
        stored = ((key, self.storage.get(f"{volume_prefix(name)}/{key}")) for key in expected)
        return all(data is not None and sha256(data) == expected[key] for key, data in stored)

    def _clear(self, name: str, layouts: Mapping[str, ArrayLayout], has_receipt: bool) -> None:
        """Remove the receipt, then whatever will not be overwritten.

        What will be is left in place: another process may be committing it, with the same bytes. So is a receipt that
        was not there a moment ago: it is that process's, and it is right.
        """
        if has_receipt:
            self.storage.delete(receipt_key(name))
        keep = {f"{layout.prefix}/zarr.json" for layout in layouts.values()}
        keep |= {key for layout in layouts.values() for key, _ in layout.shards()}
        for key in self.storage.keys(volume_prefix(name)):
            if key not in keep and key != receipt_key(name):
                self.storage.delete(key)

    def _write_array(self, name: str, layout: ArrayLayout, values: NDArray[Any]) -> dict[str, str]:
        document = array_document(layout)
        checksums = {f"{layout.prefix}/zarr.json": self._write(f"{layout.prefix}/zarr.json", document)}
        for key, chunks, data in encode_array(layout, values):
            part = values[chunks.start : chunks.stop] if len(layout.shape) > 1 else values[np.newaxis]
            checksums[key] = self._write(key, data, layout, part)
        start = len(volume_prefix(name)) + 1
        return {key[start:]: digest for key, digest in checksums.items()}

    def _write(
        self, key: str, data: bytes, layout: ArrayLayout | None = None, values: NDArray[Any] | None = None
    ) -> str:
        """Write an object, and check it: decoded it is the values, read back it is the bytes. Gives its checksum.

        The object is read back last, when the disk has had time to deliver it.
        """
        self.storage.put(key, data)
        digest = sha256(data)
        if layout is not None and values is not None:
            try:
                check_encoded(data, layout, values)
            except ShardError as error:
                raise OSError(errno.EIO, str(error), f"{self.root}/{key}") from error
        if not self.storage.holds(key, data):
            raise OSError(errno.EIO, "what was read back is not what was written", f"{self.root}/{key}")
        return digest

    def _write_receipt(self, name: str, document: bytes) -> None:
        try:
            self._write(receipt_key(name), document)
        except OSError:
            with contextlib.suppress(OSError):  # a receipt that may be damaged must not say that the volume exists
                self.storage.delete(receipt_key(name))
            raise
