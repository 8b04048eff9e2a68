"""Objects under a corpus's root, on a local disk, in S3 or behind an fsspec URL: whole objects in, whole objects out.

`put` is atomic in both worlds: on a disk by a temporary file, `fsync` and a rename, on an object store by nature. A
temporary file stands in `<corpus>.run/partial` beside the corpus, so that a killed process never leaves a file inside
the hierarchy that another Zarr reader would stumble over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from rephase.corpus.storage.base import run_folder
from rephase.files import replacing

_BLOCK = 1 << 20
"""Bytes that are read back at once."""


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the path into errors of the file system that lack it, as a full disk's do."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: a file that was flushed may else be there without one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fetch_from_disk(descriptor: int) -> None:
    """Let the next reading of a flushed file come from the disk: memory would only be compared with itself.

    The disk begins to deliver at once, while the caller still works on something else.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # only advice: some file systems take none
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)


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
        self.put_blocks(key, (data,))

    def put_blocks(self, key: str, blocks: Iterable[bytes]) -> None:
        """Write blocks as they are made, as `put`; no more than one of them is in memory."""
        path = self._base / key
        with _naming(path):
            partial = self._partial(path)
            try:
                _write_flushed(partial, blocks)
                self._move(partial, path)
            finally:
                partial.unlink(missing_ok=True)
            sync_folder(path.parent)

    def holds(self, key: str, data: bytes) -> bool:
        """Read a file back and tell whether it is these very bytes; it is never in memory as a whole."""
        position = 0
        try:
            with (self._base / key).open("rb", buffering=0) as file:
                while block := file.read(_BLOCK):
                    if data[position : position + len(block)] != block:
                        return False
                    position += len(block)
        except FileNotFoundError:
            return False
        return position == len(data)

    def delete(self, key: str) -> None:
        """Remove a file and the folders that it leaves empty."""
        path = self._base / key
        if not path.exists():
            return
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process may be removing the folder
            sync_folder(path.parent)  # a receipt must be gone for good before its shards change
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

    def children_with(self, prefix: str, name: str) -> list[str]:
        """Name the folders under a prefix that hold a file of this name, sorted."""
        return [child for child in self.children(prefix) if self.exists(f"{prefix}/{child}/{name}")]

    def keys(self, prefix: str) -> list[str]:
        """List every file under a prefix, as keys from the root, sorted."""
        found = []
        for folder, _, names in os.walk(self._base / prefix):
            base = Path(folder).relative_to(self._base)
            found += [(base / name).as_posix() for name in names]
        return sorted(found)

    def num_bytes(self) -> int:
        """Add up the sizes of all files."""
        total = 0
        for key in self.keys(""):
            with contextlib.suppress(FileNotFoundError):  # replaced since the listing
                total += (self._base / key).stat().st_size
        return total

    def clear_partials(self) -> None:
        """Remove temporary files that killed writers left."""
        for partial in (Path(run_folder(self.root)) / "partial").glob("*"):
            partial.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        missing = [folder, *folder.parents]
        missing = missing[: next(i for i, parent in enumerate(missing) if parent.is_dir())]
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            sync_folder(new.parent)

    def _partial(self, path: Path) -> Path:
        folder = Path(run_folder(self.root)) / "partial"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{path.name}.{uuid.uuid4().hex}"

    def _move(self, partial: Path, path: Path) -> None:
        for last in (False, False, True):
            try:
                self._make_folder(path.parent)
                partial.replace(path)
                return
            except FileNotFoundError:  # another process that makes the same volume removed the empty folder
                if last:
                    raise
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # The corpus is a mount point of its own, so the temporary file must lie inside it.
                with (
                    replacing(path, path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")) as inside,
                    partial.open("rb", buffering=0) as written,
                ):
                    _write_flushed(inside, iter(lambda: written.read(_BLOCK), b""))
                return


def _write_flushed(path: Path, blocks: Iterable[bytes]) -> None:
    with path.open("wb", buffering=0) as file:
        for block in blocks:
            view = memoryview(block)
            while view:  # a raw write may stop early, at 2 GiB or on a nearly full disk
                view = view[file.write(view) :]
        os.fsync(file.fileno())
        _fetch_from_disk(file.fileno())


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # not empty, or another process was faster
        return False
    return True
