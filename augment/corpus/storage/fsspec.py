"""Objects behind any URL that fsspec opens, apart from `s3://`: for a look at a corpus, and for tests in memory.

Such a place is asked for no conditional writes, so a builder's lease is kept on this machine
(`rephase.corpus.storage.conditional`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

import fsspec

from rephase.errors import RequestError
from rephase.text import one_line


class FsspecStorage:
    """Objects behind an fsspec URL. The file system is opened anew in a forked or unpickled process."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._opened: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_opened": None}

    def _open(self) -> tuple[Any, str]:
        if self._opened is None or self._opened[0] != os.getpid():
            # A cached file system keeps the event loop of the process that it was forked from: it would hang.
            fresh = self._opened is not None
            try:
                filesystem, base = fsspec.core.url_to_fs(self.root, **({"skip_instance_cache": True} if fresh else {}))
            except (ImportError, ValueError) as error:  # a protocol that is not known, or whose package is absent
                raise RequestError(
                    f"{self.root}: cannot be opened ({one_line(error)}); expected a path, "
                    "s3://BUCKET/NAME or a URL that fsspec opens; correct it, or install what it needs"
                ) from None
            self._opened = (os.getpid(), filesystem, str(base).rstrip("/"))
        return self._opened[1], self._opened[2]

    def get(self, key: str) -> bytes | None:
        """Read an object, None where there is none."""
        filesystem, base = self._open()
        try:
            return bytes(filesystem.cat_file(f"{base}/{key}"))
        except (FileNotFoundError, IsADirectoryError):
            return None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start` (from the end where negative)."""
        filesystem, base = self._open()
        if start < 0:
            start = max(int(filesystem.size(f"{base}/{key}")) + start, 0)
        return bytes(filesystem.cat_file(f"{base}/{key}", start=start, end=start + length))

    def put(self, key: str, data: bytes) -> None:
        """Write an object in one request: an object store shows it whole or not at all."""
        filesystem, base = self._open()
        filesystem.pipe_file(f"{base}/{key}", data)

    def put_blocks(self, key: str, blocks: Iterable[bytes]) -> None:
        """Write an object as `put`, whole."""
        self.put(key, b"".join(blocks))

    def holds(self, key: str, data: bytes) -> bool:
        """Read an object back and tell whether it is these very bytes."""
        return self.get(key) == data

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        filesystem, base = self._open()
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm_file(f"{base}/{key}")

    def exists(self, key: str) -> bool:
        """Tell whether there is an object of this key."""
        filesystem, base = self._open()
        return bool(filesystem.isfile(f"{base}/{key}"))

    def children(self, prefix: str) -> list[str]:
        """Name what lies directly under a prefix, sorted."""
        filesystem, base = self._open()
        filesystem.invalidate_cache()
        try:
            found = filesystem.ls(f"{base}/{prefix}".rstrip("/"), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in found})

    def children_with(self, prefix: str, name: str) -> list[str]:
        """Name the children of a prefix that have an object of this name directly under them, sorted."""
        return [child for child in self.children(prefix) if self.exists(f"{prefix}/{child}/{name}")]

    def keys(self, prefix: str) -> list[str]:
        """List every object under a prefix, as keys from the root, sorted."""
        filesystem, base = self._open()
        filesystem.invalidate_cache()
        found = filesystem.find(f"{base}/{prefix}".rstrip("/"))
        return sorted(str(path).removeprefix(base).lstrip("/") for path in found)

    def num_bytes(self) -> int:
        """Add up the sizes of all objects."""
        filesystem, base = self._open()
        filesystem.invalidate_cache()
        return int(filesystem.du(base))

    def clear_partials(self) -> None:
        """Do nothing: an object store drops what was not sent whole."""
