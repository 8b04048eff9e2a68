"""New."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Storage(Protocol):
    """What the store needs of a place. Keys are relative to the root and use `/`."""

    root: str

    def get(self, key: str) -> bytes | None:
        """Read an object, None where there is none."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start` (from the end where negative); FileNotFoundError where there is none."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole or not at all, and make it last."""
        ...

    def put_blocks(self, key: str, blocks: Iterable[bytes]) -> None:
        """Write an object out of blocks that are made one after another, as `put`."""
        ...

    def holds(self, key: str, data: bytes) -> bool:
        """Read an object back, from where it lasts, and tell whether it is these very bytes."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Tell whether there is an object of this key."""
        ...

    def children(self, prefix: str) -> list[str]:
        """Name what lies directly under a prefix, sorted; empty where there is nothing."""
        ...

    def children_with(self, prefix: str, name: str) -> list[str]:
        """Name the children of a prefix that have an object of this name directly under them, sorted."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """List every object under a prefix, as keys from the root, sorted."""
        ...

    def num_bytes(self) -> int:
        """Add up the sizes of all objects."""
        ...

    def clear_partials(self) -> None:
        """Remove what killed writers left; only while nobody writes."""
        ...


def run_folder(root: str) -> str:
    """Name the folder beside a corpus that holds its lease, its logs and unfinished files."""
    return root.rstrip("/") + ".run"
