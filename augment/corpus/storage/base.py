"""The storage interface of a corpus: a local disk, S3, or any other URL that fsspec opens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Storage(Protocol):
    """Objects under a root, read and written whole. Keys are relative to the root and use `/`.

    A storage keeps no file or connection open: it may be forked and pickled.
    """

    root: str

    @property
    def is_local(self) -> bool:
        """Whether the root is a local directory, and objects are files in it."""
        ...

    def get(self, key: str) -> bytes | None:
        """Read an object; None if it does not exist."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start` (from the end if negative), fewer if the object ends earlier.

        Raises
        ------
        FileNotFoundError
            If the object does not exist.
        """
        ...

    def get_tagged(self, key: str) -> tuple[bytes, str] | None:
        """Read an object and the tag of its version; None if it does not exist."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write an object atomically and durably."""
        ...

    def put_blocks(self, key: str, blocks: Iterable[bytes]) -> None:
        """Write an object from an iterable of blocks, as `put` does."""
        ...

    def put_if(self, key: str, data: bytes, tag: str | None) -> str | None:
        """Write an object if its version has this tag; with None, if it does not exist.

        Of several processes that replace one version, one succeeds.

        Returns
        -------
        tag
            Tag of the new version; None, without writing, if another version was found.
        """
        ...

    def append(self, key: str, data: bytes) -> None:
        """Append to an object that no other process writes, and create it if needed. Not atomic."""
        ...

    def holds(self, key: str, data: bytes) -> bool:
        """Read an object back from durable storage and check that it is `data`."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; do nothing if it does not exist."""
        ...

    def delete_if(self, key: str, tag: str) -> None:
        """Remove an object if its version has this tag."""
        ...

    def delete_tree(self, key: str) -> None:
        """Remove an object, or all objects under a prefix, including any that `put` could not have written."""
        ...

    def exists(self, key: str) -> bool:
        """Check whether an object exists."""
        ...

    def children(self, prefix: str) -> list[str]:
        """List the names directly under a prefix, sorted; empty if there are none."""
        ...

    def children_with(self, prefix: str, name: str) -> list[str]:
        """List the children of a prefix that have an object of this name directly under them, sorted."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """List all objects under a prefix, as keys from the root, sorted."""
        ...

    def num_bytes(self) -> int:
        """Return the total size of all objects."""
        ...

    def free_bytes(self) -> int | None:
        """Return the free space in bytes; None if it is unknown or unlimited."""
        ...

    def staging(self) -> Storage | None:
        """Return an empty storage in which a volume can be written that `switch` then puts in its place.

        None if this storage cannot switch; then a volume can only be replaced in place.
        """
        ...

    def switch(self, staged: Storage, prefix: str) -> None:
        """Replace all objects under a prefix by those of a storage of `staging`, so that there is never a half of both.

        Raises
        ------
        OSError
            `EXDEV`, without any change, if the two are on different file systems.
        """
        ...

    def admit(self, token: str) -> None:
        """Admit the writer of this token and shut all others out, whose unfinished files are removed.

        Called by the holder of the lease when it takes it. On a disk, others can no longer rename a file into the
        corpus, not even one that they wrote before; an object store offers nothing of the kind.
        """
        ...

    def dismiss(self, token: str) -> None:
        """Remove what `admit` made for this token."""
        ...


def run_folder(root: str) -> str:
    """Return the path or URL of the folder next to a corpus for its lease, logs and unfinished files."""
    return root.rstrip("/") + ".run"
