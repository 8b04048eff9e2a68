"""Objects under a corpus's root, on a local disk or behind any fsspec URL: whole objects in, whole objects out.

`put` is atomic in both worlds: on a disk by a temporary file, `fsync` and a rename, on an object store by nature. A
temporary file stands in `<corpus>.run/partial` beside the corpus, so that a killed process never leaves a file inside
the hierarchy that another Zarr reader would stumble over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import fsspec


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

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        ...

    def exists(self, key: str) -> bool:
        """Tell whether there is an object of this key."""
        ...

    def children(self, prefix: str) -> list[str]:
        """Name what lies directly under a prefix, sorted; empty where there is nothing."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """List every object under a prefix, as keys from the root, sorted."""
        ...

    def clear_partials(self) -> None:
        """Remove what killed writers left; only while nobody writes."""
        ...


def run_folder(root: str) -> str:
    """Name the folder beside a corpus that holds its lease, its logs and unfinished files."""
    return root.rstrip("/") + ".run"


def open_storage(root: str | os.PathLike[str]) -> Storage:
    """Open a local path or a URL (`s3://...`); nothing is created."""
    text = os.fspath(root)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    return FsspecStorage(text) if "://" in text else LocalStorage(text)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the path into errors of the file system that lack it, as a full disk's do."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LocalStorage:
    """Objects as files under a folder; every `put` is on the disk when it returns."""

    def __init__(self, root: str) -> None:
        self.root = str(Path(root).absolute())
        self._base = Path(self.root)

    def get(self, key: str) -> bytes | None:
        """Read an object, None where there is none."""
        try:
            return (self._base / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start` (from the end where negative); fewer where the object ends before."""
        descriptor = os.open(self._base / key, os.O_RDONLY)
        try:
            if start < 0:
                start = max(os.fstat(descriptor).st_size + start, 0)
            return os.pread(descriptor, length, start)
        finally:
            os.close(descriptor)

    def put(self, key: str, data: bytes) -> None:
        """Write a temporary file, flush it, rename it into place and flush the folder."""
        path = self._base / key
        with _naming(path):
            self._make_folder(path.parent)
            partial = self._partial(path)
            try:
                with partial.open("wb", buffering=0) as file:
                    view = memoryview(data)
                    while view:  # a raw write may stop early, at 2 GiB or on a nearly full disk
                        view = view[file.write(view) :]
                    os.fsync(file.fileno())
                self._move(partial, path, data)
            finally:
                partial.unlink(missing_ok=True)
            _sync_folder(path.parent)

    def delete(self, key: str) -> None:
        """Remove a file and the folders that it leaves empty."""
        path = self._base / key
        if not path.exists():
            return
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process may be removing the folder
            _sync_folder(path.parent)  # a receipt must be gone for good before its shards change
        for folder in path.parents:
            if folder == self._base or not _remove_empty(folder):
                break

    def exists(self, key: str) -> bool:
        """Tell whether there is an object of this key."""
        return (self._base / key).is_file()

    def children(self, prefix: str) -> list[str]:
        """Name what lies directly under a prefix, sorted."""
        try:
            with os.scandir(self._base / prefix) as entries:
                return sorted(entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def keys(self, prefix: str) -> list[str]:
        """List every file under a prefix, as keys from the root, sorted."""
        found = []
        for folder, _, names in os.walk(self._base / prefix):
            base = Path(folder).relative_to(self._base)
            found += [(base / name).as_posix() for name in names]
        return sorted(found)

    def clear_partials(self) -> None:
        """Remove temporary files that killed writers left."""
        for partial in (Path(run_folder(self.root)) / "partial").glob("*"):
            partial.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        missing = [folder, *folder.parents]
        missing = missing[: next(i for i, parent in enumerate(missing) if parent.is_dir())]
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            _sync_folder(new.parent)

    def _partial(self, path: Path) -> Path:
        folder = Path(run_folder(self.root)) / "partial"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{path.name}.{uuid.uuid4().hex}"

    def _move(self, partial: Path, path: Path, data: bytes) -> None:
        try:
            partial.replace(path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # The corpus is a mount point of its own, so the temporary file must lie inside it.
            inside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
            try:
                with inside.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                inside.replace(path)
            finally:
                inside.unlink(missing_ok=True)


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # not empty, or another process was faster
        return False
    return True


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
            filesystem, base = fsspec.core.url_to_fs(self.root, **({"skip_instance_cache": True} if fresh else {}))
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

    def keys(self, prefix: str) -> list[str]:
        """List every object under a prefix, as keys from the root, sorted."""
        filesystem, base = self._open()
        filesystem.invalidate_cache()
        found = filesystem.find(f"{base}/{prefix}".rstrip("/"))
        return sorted(str(path).removeprefix(base).lstrip("/") for path in found)

    def clear_partials(self) -> None:
        """Do nothing: an object store drops what was not sent whole."""
