"""Objects as files on a local disk, written atomically: temporary file, `fsync`, rename, `fsync` of the directory.

Temporary files are in `<corpus>.run/partial` next to the corpus, so that a killed process never leaves a file inside
the hierarchy, where another Zarr reader would find it. Those of the builder that holds the lease are in a folder of
their own there, named by the lease's token. A builder that takes the lease over removes that folder: every change of
the corpus is a rename from or to it, so that the builder before, even if it was stopped in the middle of a write,
cannot change anything any more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path

from rephase.corpus.storage.base import Storage, run_folder
from rephase.errors import LeaseLostError
from rephase.files import open_file, private_folder, replacing, sha256

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
    token
        Token of the lease under which this storage is written; empty for a writer without one.
    """

    is_local = True

    def __init__(self, root: str, partials: Path | None = None, token: str = "", corpus: str = "") -> None:
        self.root = str(Path(root).absolute())
        self._base = Path(self.root)
        self._all_partials = partials or Path(run_folder(self.root)) / "partial"
        self._is_private = self._base == self._all_partials.parent  # the folder beside a corpus: logs and lease
        self._partials = self._all_partials / token
        self._token = token
        self._staged_for = corpus

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
        with self._fenced(), _naming(path):
            if (link := self._not_through_link(path)) != path:
                self._remove(link)
            partial = self._partial(path)
            try:
                _write_flushed(partial, blocks, self._opener)
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
        self._make_parent(path)
        with _locked(path):
            found = self.get_tagged(key)
            if (None if found is None else found[1]) != tag:
                return None
            with replacing(path, self._partial(path)) as fresh:
                fresh.touch(0o600 if self._is_private else 0o666)
                fresh.write_bytes(data)
        return sha256(data)

    def append(self, key: str, data: bytes) -> None:
        """Append to a file, and create it if needed. Not flushed to the disk."""
        path = self._base / key
        with _naming(path):
            self._make_parent(path)
            with open(path, "ab", buffering=0, opener=self._opener) as file:
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
            with self._fenced():
                self._check_admitted()
            return False
        return position == len(data)

    def delete(self, key: str) -> None:
        """Remove a file and the directories that it leaves empty."""
        path = self._not_through_link(self._base / key)
        if not os.path.lexists(path):
            return
        with self._fenced():
            self._remove(path)
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
        path = self._not_through_link(self._base / key)
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
        """List all files under a prefix, as keys from the root, sorted; links to folders count as files."""
        found = []
        for folder, folders, names in os.walk(self._base / prefix):
            base = Path(folder).relative_to(self._base)
            links = [name for name in folders if os.path.islink(f"{folder}/{name}")]  # noqa: PTH114 -- of many
            found += [(base / name).as_posix() for name in (*names, *links)]
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

    def staging(self) -> LocalStorage:
        """Return a storage in a new folder among the temporary files."""
        with self._fenced():
            folder = self._partial(self._base)
            folder.mkdir()
        return LocalStorage(str(folder), self._all_partials, self._token, corpus=self.root)

    def switch(self, staged: Storage, prefix: str) -> None:
        """Move the folder that is there among the temporary files, and the staged one to its place."""
        fresh, path, old = Path(staged.root) / prefix, self._base / prefix, self._partial(self._base)
        with self._fenced(), _naming(path):
            try:
                for last in (False, False, True):
                    with contextlib.suppress(FileNotFoundError):
                        path.rename(old)
                    try:
                        fresh.rename(path)
                        break
                    except OSError as error:  # another process, which builds the same volume, was faster
                        if last or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                            raise
                        old = self._partial(self._base)
                sync_folder(path.parent)
            finally:
                shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(staged.root, ignore_errors=True)

    def admit(self, token: str) -> None:
        """Remove all temporary files, each folder by one rename, and make the folder of this token."""
        private_folder(self._all_partials.parent)
        self._all_partials.mkdir(parents=True, exist_ok=True)
        for found in [path for path in self._all_partials.iterdir() if path.name != token]:
            gone = self._all_partials / f"gone-{uuid.uuid4().hex}"
            with contextlib.suppress(FileNotFoundError):
                found.rename(gone)
            if gone.is_dir() and not gone.is_symlink():
                shutil.rmtree(gone, ignore_errors=True)
            else:
                gone.unlink(missing_ok=True)
        (self._all_partials / token).mkdir(exist_ok=True)
        if self._base.is_mount():  # then unfinished files may be inside, see `_move`
            for found in self._base.rglob(".*.partial"):
                found.unlink(missing_ok=True)

    def dismiss(self, token: str) -> None:
        """Remove the folder of this token."""
        shutil.rmtree(self._all_partials / token, ignore_errors=True)

    @contextlib.contextmanager
    def _fenced(self) -> Iterator[None]:
        """Tell the error of a writer that was shut out from others."""
        try:
            yield
        except FileNotFoundError as error:
            if self._token and not self._partials.is_dir():
                raise LeaseLostError(self._staged_for or self.root) from error
            raise

    def _remove(self, path: Path) -> None:
        if not self._token:
            path.unlink(missing_ok=True)
            return
        gone = self._partial(path)
        try:
            path.rename(gone)
        except FileNotFoundError:
            if not self._partials.is_dir():
                raise
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._check_admitted()
            path.unlink(missing_ok=True)
        gone.unlink(missing_ok=True)

    def _check_admitted(self) -> None:
        if self._token:
            self._partials.stat()

    def _make_parent(self, path: Path) -> None:
        if self._is_private:
            private_folder(self._base)
        path.parent.mkdir(parents=True, exist_ok=True)

    def _opener(self, path: str, flags: int) -> int:
        return os.open(path, flags, 0o600 if self._is_private else 0o666)

    def _not_through_link(self, path: Path) -> Path:
        """Return a path, or the link on the way to it, by which its file would be changed outside of the corpus.

        The folders directly under the root, such as `volumes`, may be links, for instance to another disk.
        """
        steps = [step for step in reversed(path.parents) if step.is_relative_to(self._base)][2:]
        return next((step for step in steps if step.is_symlink()), path)

    def _make_folder(self, folder: Path) -> None:
        missing = [folder, *folder.parents]
        missing = missing[: next(i for i, parent in enumerate(missing) if parent.is_dir())]
        if self._base in missing and self._staged_for:  # else a writer that was shut out would let itself in again
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.root)
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            sync_folder(new.parent)

    def _partial(self, path: Path) -> Path:
        if not self._token:  # the folder of a token is the right to write, which only `admit` gives
            private_folder(self._all_partials.parent)
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
                self._check_admitted()
                with (
                    replacing(path, path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")) as inside,
                    partial.open("rb", buffering=0) as written,
                ):
                    _write_flushed(inside, iter(lambda: written.read(_BLOCK), b""))
                    self._check_admitted()
                return


def _read(path: Path) -> bytes:
    with FileIO(open_file(path)) as file:
        return file.readall()


def _write_flushed(path: Path, blocks: Iterable[bytes], opener: Callable[[str, int], int] | None = None) -> None:
    with open(path, "wb", buffering=0, opener=opener) as file:
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
