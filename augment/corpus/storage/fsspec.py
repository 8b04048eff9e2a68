"""Read objects behind any URL that fsspec opens, apart from `s3://`.

Such storage has no conditional writes to exclude a second builder, so it is read-only.
"""

from __future__ import annotations

import errno
import os
from typing import Any, NoReturn

import fsspec

from rephase.errors import RequestError
from rephase.text import one_line


class FsspecStorage:
    """Objects behind an fsspec URL, to be read. The file system is reopened in a forked or unpickled process."""

    is_local = False

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._opened: tuple[int, Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_opened": None}

    def _open(self) -> tuple[Any, str]:
        if self._opened is None or self._opened[0] != os.getpid():
            # A cached file system would use the event loop of the process that it was forked from, and hang.
            fresh = self._opened is not None
            try:
                filesystem, base = fsspec.core.url_to_fs(self.root, **({"skip_instance_cache": True} if fresh else {}))
            except (ImportError, ValueError) as error:  # an unknown protocol, or one whose package is not installed
                raise RequestError(
                    f"{self.root}: cannot be opened ({one_line(error)}); expected a path, s3://BUCKET/NAME or a URL "
                    "that fsspec opens; correct it, or install what it needs"
                ) from None
            self._opened = (os.getpid(), filesystem, str(base).rstrip("/"))
        return self._opened[1], self._opened[2]

    def get(self, key: str) -> bytes | None:
        """Read an object; None if it does not exist."""
        filesystem, base = self._open()
        try:
            return bytes(filesystem.cat_file(f"{base}/{key}"))
        except (FileNotFoundError, IsADirectoryError):
            return None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start` (from the end if negative)."""
        filesystem, base = self._open()
        if start < 0:
            start = max(int(filesystem.size(f"{base}/{key}")) + start, 0)
        return bytes(filesystem.cat_file(f"{base}/{key}", start=start, end=start + length))

    def get_tagged(self, key: str) -> tuple[bytes, str] | None:
        """Read an object; its version has no tag."""
        data = self.get(key)
        return None if data is None else (data, "")

    def _refuse(self, *arguments: Any, **named: Any) -> NoReturn:  # noqa: ANN401 - any write
        raise OSError(errno.EROFS, "only a local disk and s3:// can be written", self.root)

    put = put_blocks = put_if = append = delete = delete_if = delete_tree = switch = admit = dismiss = _refuse

    def holds(self, key: str, data: bytes) -> bool:
        """Read an object and check that it is `data`."""
        return self.get(key) == data

    def exists(self, key: str) -> bool:
        """Check whether an object exists."""
        filesystem, base = self._open()
        return bool(filesystem.isfile(f"{base}/{key}"))

    def children(self, prefix: str) -> list[str]:
        """List the names directly under a prefix, sorted."""
        filesystem, base = self._open()
        filesystem.invalidate_cache()
        try:
            found = filesystem.ls(f"{base}/{prefix}".rstrip("/"), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in found})

    def children_with(self, prefix: str, name: str) -> list[str]:
        """List the children of a prefix that have an object of this name directly under them, sorted."""
        return [child for child in self.children(prefix) if self.exists(f"{prefix}/{child}/{name}")]

    def keys(self, prefix: str) -> list[str]:
        """List all objects under a prefix, as keys from the root, sorted."""
        filesystem, base = self._open()
        filesystem.invalidate_cache()
        found = filesystem.find(f"{base}/{prefix}".rstrip("/"))
        return sorted(str(path).removeprefix(base).lstrip("/") for path in found)

    def num_bytes(self) -> int:
        """Return the total size of all objects."""
        filesystem, base = self._open()
        filesystem.invalidate_cache()
        return int(filesystem.du(base))

    def free_bytes(self) -> int | None:
        """Return None: the space is unknown."""
        return None

    def staging(self) -> None:
        """Return None: this storage is read-only."""
        return
