"""Commit volumes to a corpus, a Zarr v3 hierarchy: a volume exists once its receipt exists.

`rephase.corpus.encoding` encodes arrays in memory, shard by shard, and a `Storage` writes them. So one protocol serves
disks and object stores, and `zarr` itself never writes to the corpus (unflushed files, `.partial` leftovers, implicit
groups).
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
from rephase.corpus.encoding import StoredFacts, array_document, check_encoded, encode_array, stored_facts
from rephase.corpus.invariants import check_shapes, check_values
from rephase.corpus.layout import (
    CONVENTIONS,
    DTYPES,
    FORMAT,
    ArrayLayout,
    committed_names,
    group_attributes,
    group_document,
    has_axis_names,
    open_attributes,
    plain_json,
    receipt_key,
    unfinished_names,
    volume_prefix,
)
from rephase.corpus.lease import check_holder
from rephase.corpus.receipt import STORE_KEYS, check_receipt, is_volume_name
from rephase.corpus.storage.base import Storage
from rephase.corpus.storage.open import open_storage
from rephase.errors import LeaseLostError, RequestError, VolumeError
from rephase.files import sha256

__all__ = ["CorpusStore", "encode_array"]


class CorpusStore:
    """A corpus that is built, checked or repaired. Cheap to open and to pickle: every worker has its own.

    Parameters
    ----------
    storage
        Storage of the corpus, opened with the same token.
    attributes
        Attributes of its root.
    token
        Token of the lease under which it is written: nothing is committed once that is lost. Empty to write without.
    """

    def __init__(self, storage: Storage, attributes: dict[str, Any], token: str = "") -> None:
        self.storage = storage
        self.attributes = attributes
        self._token = token

    @property
    def root(self) -> str:
        """Path or URL of the corpus."""
        return self.storage.root

    @classmethod
    def create(cls, root: str | os.PathLike[str], attributes: Mapping[str, Any]) -> CorpusStore:
        """Create a corpus.

        Parameters
        ----------
        root
            Path or URL; empty, or left by a creation that was interrupted.
        attributes
            Attributes of the corpus: the recipe, its hash, checkpoint hash, seed. `format` and `conventions` are added.

        Raises
        ------
        RequestError
            If the path is not empty.
        """
        storage = open_storage(root)
        if storage.exists("zarr.json"):
            raise RequestError(f"{storage.root}: a corpus or another Zarr store exists; open it or choose another path")
        foreign = [name for name in storage.children("") if name not in ("index", "volumes")]
        if foreign:
            raise RequestError(
                f"{storage.root}: not empty ({foreign[0]}); expected an empty or new path; choose another"
            )
        return cls.begin(storage, attributes)

    @classmethod
    def begin(cls, storage: Storage, attributes: Mapping[str, Any], token: str = "") -> CorpusStore:
        """Write the documents of a new corpus; the caller has checked that none exists."""
        store = cls(storage, {}, token)
        storage.put("index/zarr.json", group_document({}))
        storage.put("volumes/zarr.json", group_document({}))
        store.write_attributes(attributes)
        return store

    @classmethod
    def open(cls, root: str | os.PathLike[str], token: str = "") -> CorpusStore:
        """Open a corpus, to write it under the lease of this token.

        Raises
        ------
        RequestError
            If there is no corpus, or one of another format.
        """
        storage = open_storage(root, token)
        return cls(storage, open_attributes(storage), token)

    def write_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Replace the attributes of the corpus; `format` and `conventions` are added."""
        self.attributes = plain_json({**attributes, "format": FORMAT, "conventions": CONVENTIONS})
        self.storage.put("zarr.json", group_document(self.attributes))

    def receipt(self, name: str) -> dict[str, Any] | None:
        """Read a volume's receipt; None if the volume is not committed.

        Raises
        ------
        VolumeError
            If it cannot be read.
        """
        document = self.storage.get(receipt_key(name))
        if document is None:
            return None
        try:
            return group_attributes(document, f"{self.root}/{receipt_key(name)}")
        except ValueError as error:
            raise VolumeError("unreadable", f"{error}; {self.how_to_fix(name)}") from None

    def how_to_fix(self, name: str) -> str:
        """Return how to fix a damaged volume, for messages."""
        return f"rebuild {name} with 'rephase repair {self.root}'"

    def names(self) -> list[str]:
        """List the committed volumes, sorted."""
        return committed_names(self.storage)

    def unfinished(self) -> list[str]:
        """List the volumes that were started and not committed, sorted."""
        return unfinished_names(self.storage)

    def discard(self, name: str) -> None:
        """Remove a volume, its receipt first; do nothing if it does not exist."""
        self.storage.delete(receipt_key(name))
        for key in self.storage.keys(volume_prefix(name)):
            self.storage.delete(key)

    def commit_volume(
        self, name: str, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write a volume, read it back, and write its receipt last.

        An existing volume of this name is replaced unless its bytes are identical. On a disk, the new one is written
        beside it and switched with it; in an object store, the receipt is removed first. Two processes that commit the
        same volume at once write the same bytes, so they do not conflict.

        Parameters
        ----------
        name
            `<volume_id>` or `<volume_id>@k`.
        arrays
            Named as in `rephase.corpus.layout.DTYPES`, in those dtypes, finite, without negative zeros.
        attributes
            Attributes of the receipt: all of `rephase.corpus.receipt.REQUIRED_KEYS`.

        Returns
        -------
        receipt
            The attributes as written, with shapes and checksums.

        Raises
        ------
        VolumeError
            If arrays or attributes violate format 1; the store is unchanged.
        LeaseLostError
            If the lease under which this store was opened is no longer held.
        OSError
            If the disk is full, or does not return the bytes that were written; the volume is not committed.
        """
        plain = self._check(name, arrays, attributes)
        layouts = {key: ArrayLayout.of(key, arrays[key].shape, name) for key in sorted(arrays)}
        there = self.storage.get(receipt_key(name))
        if there is not None and self._is_committed(there, name, plain, arrays):
            return self.receipt(name) or {}
        if there is not None and (replaced := self._write_beside(name, arrays, plain)) is not None:
            return replaced
        self._clear(name, layouts, there is not None)
        return self._write_volume(name, arrays, plain)

    def _write_beside(
        self, name: str, arrays: Mapping[str, NDArray[Any]], plain: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Write a volume beside the present one and switch the two; None if this storage cannot."""
        staged = self.storage.staging()
        if staged is None:
            return None
        try:
            receipt = CorpusStore(staged, self.attributes)._write_volume(name, arrays, plain)
            self._check_lease()
            self.storage.switch(staged, volume_prefix(name))
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return None  # the corpus is a separate mount
        finally:
            staged.delete_tree("")
        return receipt

    def _write_volume(self, name: str, arrays: Mapping[str, NDArray[Any]], plain: Mapping[str, Any]) -> dict[str, Any]:
        facts = StoredFacts()
        for key in sorted(arrays):
            self._write_array(ArrayLayout.of(key, arrays[key].shape, name), arrays[key], key, facts, plain)
        receipt = {**plain, **facts.of_receipt(plain)}
        self._write_receipt(name, group_document(receipt))
        return receipt

    def _check_lease(self) -> None:
        if self._token:
            check_holder(self.root, self._token)

    def _check(self, name: str, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> dict[str, Any]:
        where = f"{self.root}: volume {name}"
        if not is_volume_name(name):
            raise VolumeError("failed", f"{self.root}: {name!r} cannot name a volume; expected A-Z a-z 0-9 . _ -")
        try:
            plain = plain_json({key: value for key, value in attributes.items() if key not in STORE_KEYS})
        except (TypeError, ValueError) as error:
            raise VolumeError("failed", f"{where}: an attribute is not JSON: {error}") from None
        problems = check_receipt(plain)
        if plain.get("name", name) != name:
            problems.append(f"attribute name is {plain['name']!r}; expected {name!r}")
        if not problems:
            problems = check_shapes({key: values.shape for key, values in arrays.items()}, plain)
        for key, values in arrays.items():
            if key in DTYPES and values.dtype != np.dtype(DTYPES[key]):
                problems.append(f"{key} is {values.dtype}; expected {DTYPES[key]}")
        if problems:
            raise VolumeError("failed", f"{where}: {'; '.join(problems)}")
        for key, values in arrays.items():
            for problem in (found for part in values for found in check_values(key, part)):
                raise VolumeError("not_finite" if "finite" in problem else "failed", f"{where}: {problem}")
        return plain

    def _is_committed(
        self, there: bytes, name: str, plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> bool:
        try:
            present = group_attributes(there, receipt_key(name))
        except ValueError:
            return False
        if {key: value for key, value in present.items() if key not in STORE_KEYS} != plain:
            return False
        expected = stored_facts(arrays, plain)
        if there != group_document({**plain, **expected}):
            return False
        stored = (
            (digest, self.storage.get(f"{volume_prefix(name)}/{key}")) for key, digest in expected["checksums"].items()
        )
        return all(data is not None and sha256(data) == digest for digest, data in stored)

    def _clear(self, name: str, layouts: Mapping[str, ArrayLayout], has_receipt: bool) -> None:
        """Remove the receipt, then all objects that will not be overwritten.

        The others remain: another process may be committing them, with the same bytes. So does a receipt that did not
        exist a moment ago: it is the valid one of that process.
        """
        self._check_lease()
        if has_receipt:
            self.storage.delete(receipt_key(name))
        keep = {f"{layout.prefix}/zarr.json" for layout in layouts.values()}
        keep |= {key for layout in layouts.values() for key, _ in layout.shards()}
        for key in self.storage.keys(volume_prefix(name)):
            if key not in keep and key != receipt_key(name):
                self.storage.delete(key)

    def _write_array(
        self,
        layout: ArrayLayout,
        values: NDArray[Any],
        array: str,
        facts: StoredFacts,
        attributes: Mapping[str, Any],
    ) -> None:
        document = array_document(layout, has_axis_names(attributes))
        self._write(f"{layout.prefix}/zarr.json", document)
        facts.add_document(array, layout, document)
        for key, chunks, data in encode_array(layout, values):
            part = values[chunks.start : chunks.stop] if len(layout.shape) > 1 else values[np.newaxis]
            self._write(key, data, layout, part)
            facts.add_shard(array, key, layout, len(chunks), data)

    def _write(
        self, key: str, data: bytes, layout: ArrayLayout | None = None, values: NDArray[Any] | None = None
    ) -> None:
        """Write an object, decode it to the values and read it back.

        It is read back last, after the disk has had time to read ahead.
        """
        self._check_lease()
        self.storage.put(key, data)
        if layout is not None and values is not None:
            try:
                check_encoded(data, layout, values)
            except ShardError as error:
                raise OSError(errno.EIO, str(error), f"{self.root}/{key}") from error
        if not self.storage.holds(key, data):
            raise OSError(errno.EIO, "the bytes read back are not those written", f"{self.root}/{key}")

    def _write_receipt(self, name: str, document: bytes) -> None:
        try:
            self._write(receipt_key(name), document)
        except OSError:
            with contextlib.suppress(OSError):  # a receipt makes a volume exist, so no damaged receipt may remain
                self._check_lease()
                self.storage.delete(receipt_key(name))
            raise
        try:
            self._check_lease()
        except LeaseLostError:
            # A disk shuts out a writer that was stopped before its put; an object store cannot.
            found = self.storage.get_tagged(receipt_key(name))
            if found is not None and found[0] == document and not self.storage.is_local:
                self.storage.delete_if(receipt_key(name), found[1])
            raise
