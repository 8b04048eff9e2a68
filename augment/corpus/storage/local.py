"""Objects as files on a local disk, written atomically: temporary file, `fsync`, rename, `fsync` of the directory.

Temporary files are in `<corpus>.run/partial` next to the corpus, so that a killed process never leaves a file inside
the hierarchy, where another Zarr reader would find it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path

from rephase.corpus.storage.base import run_folder
from rephase.files import open_file, replacing, sha256

_BLOCK = 1 << 20
"""Bytes per read when an object is read back."""


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the path to errors of the file system that lack it, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def sync_folder(folder: Path) -> None:
    """Flush a directory: without this, a flushed file may lose its name in a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fetch_from_disk(descriptor: int) -> None:
    """Drop a flushed file from the page cache, so that reading it back verifies the disk and not memory.

    Reading ahead starts immediately, while the caller is still working.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # advice only; some file systems do not support it
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)


class LocalStorage:
    """Objects as files under a directory; every `put` is on the disk when it returns.

    Parameters
    ----------
    root
        The directory. It need not exist.
    partials
        Directory for temporary files. Default: in the folder next to the root, see `rephase.corpus.storage.base`.
    """

    is_local = True

    def __init__(self, root: str, partials: Path | None = None) -> None:
        self.root = str(Path(root).absolute())
        self._base = Path(self.root)
        self._partials = partials or Path(run_folder(self.root)) / "partial"

    def get(self, key: str) -> bytes | None:
        """Read an object; None if it does not exist."""
        try:
            return _read(self._base / key)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read `length` bytes from `start` (from the end if negative); fewer if the object ends earlier."""
        descriptor = open_file(self._base / key)
        try:
            size = os.fstat(descriptor).st_size
            if start < 0:
                start = max(size + start, 0)
            return os.pread(descriptor, min(length, max(size - start, 0)), start)  # allocates `length` bytes
        finally:
            os.close(descriptor)

    def get_tagged(self, key: str) -> tuple[bytes, str] | None:
        """Read an object and its SHA-256; None if it does not exist."""
        try:
            data = _read(self._base / key)
        except FileNotFoundError:
            return None
        return data, sha256(data)

    def put(self, key: str, data: bytes) -> None:
        """Write a temporary file, flush it, rename it into place and flush the folder."""
        self.put_blocks(key, (data,))

    def put_blocks(self, key: str, blocks: Iterable[bytes]) -> None:
        """Write an object block by block, as `put` does; only one block is in memory."""
        path = self._base / key
        with _naming(path):
            partial = self._partial(path)
            try:
                _write_flushed(partial, blocks)
                self._move(partial, path)
            finally:
                partial.unlink(missing_ok=True)
            sync_folder(path.parent)

    def put_if(self, key: str, data: bytes, tag: str | None) -> str | None:
        """Write an object if its version has this tag (None: if it does not exist), under a lock on a file next to it.

        Returns
        -------
        tag
            Tag of the new version; None, without writing, if another version was found.
        """
        path = self._base / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            found = self.get_tagged(key)
            if (None if found is None else found[1]) != tag:
                return None
            with replacing(path, path.with_suffix(f".{uuid.uuid4().hex}")) as fresh:
                fresh.write_bytes(data)
        return sha256(data)

    def append(self, key: str, data: bytes) -> None:
        """Append to a file, and create it if needed. Not flushed to the disk."""
        path = self._base / key
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as file:
                _write_all(file, data)

    def holds(self, key: str, data: bytes) -> bool:
        """Read a file back block by block and check that it is `data`."""
        position = 0
        try:
            with FileIO(open_file(self._base / key)) as file:
                while block := file.read(_BLOCK):
                    if data[position : position + len(block)] != block:
                        return False
                    position += len(block)
        except FileNotFoundError:
            return False
        return position == len(data)

    def delete(self, key: str) -> None:
        """Remove a file and the directories that it leaves empty."""
        path = self._base / key
        if not path.exists():
            return
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process may be removing the directory
            sync_folder(path.parent)  # the removal of a receipt must be durable before its shards change
        for folder in path.parents:
            if folder == self._base or not _remove_empty(folder):
                break

    def delete_if(self, key: str, tag: str) -> None:
        """Remove an object if its version has this tag."""
        path = self._base / key
        with _locked(path):
            found = self.get_tagged(key)
            if found is not None and found[1] == tag:
                path.unlink(missing_ok=True)

    def delete_tree(self, key: str) -> None:
        """Remove a file, a link, or a directory with its content."""
        path = self._base / key
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path)

    def exists(self, key: str) -> bool:
        """Check whether a file exists."""
        return (self._base / key).is_file()

    def children(self, prefix: str) -> list[str]:
        """List the names directly under a prefix, sorted."""
        try:
            with os.scandir(self._base / prefix) as entries:
                return sorted(entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def children_with(self, prefix: str, name: str) -> list[str]:
        """List the directories under a prefix that contain a file of this name, sorted."""
        return [child for child in self.children(prefix) if self.exists(f"{prefix}/{child}/{name}")]

    def keys(self, prefix: str) -> list[str]:
        """List all files under a prefix, as keys from the root, sorted."""
        found = []
        for folder, _, names in os.walk(self._base / prefix):
            base = Path(folder).relative_to(self._base)
            found += [(base / name).as_posix() for name in names]
        return sorted(found)

    def num_bytes(self) -> int:
        """Return the total size of all files."""
        total = 0
        for key in self.keys(""):
            with contextlib.suppress(FileNotFoundError):  # replaced since the listing
                total += (self._base / key).stat().st_size
        return total

    def free_bytes(self) -> int | None:
        """Return the free space, in bytes, of the file system of the root, which need not exist yet."""
        folder = self._base
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def clear_partials(self) -> None:
        """Remove the temporary files of killed writers."""
        for partial in self._partials.glob("*"):
            partial.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        missing = [folder, *folder.parents]
        missing = missing[: next(i for i, parent in enumerate(missing) if parent.is_dir())]
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            sync_folder(new.parent)

    def _partial(self, path: Path) -> Path:
        self._partials.mkdir(parents=True, exist_ok=True)
        return self._partials / f"{path.name}.{uuid.uuid4().hex}"

    def _move(self, partial: Path, path: Path) -> None:
        for last in (False, False, True):
            try:
                self._make_folder(path.parent)
                partial.replace(path)
                return
            except FileNotFoundError:  # another process that builds the same volume removed the empty directory
                if last:
                    raise
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # The corpus is a separate mount, so the temporary file must be inside it.
                with (
                    replacing(path, path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")) as inside,
                    partial.open("rb", buffering=0) as written,
                ):
                    _write_flushed(inside, iter(lambda: written.read(_BLOCK), b""))
                return


def _read(path: Path) -> bytes:
    with FileIO(open_file(path)) as file:
        return file.readall()


def _write_flushed(path: Path, blocks: Iterable[bytes]) -> None:
    with path.open("wb", buffering=0) as file:
        for block in blocks:
            _write_all(file, block)
        os.fsync(file.fileno())
        _fetch_from_disk(file.fileno())


def _write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:  # a raw write may stop early, at 2 GiB or on a nearly full disk
        view = view[file.write(view) :]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_suffix(".lock").open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks: the race is some milliseconds wide
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # not empty, or another process was faster
        return False
    return True
