"""The directory of an export: each volume is written next to it, flushed, and renamed into it when complete."""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rephase.corpus.storage.local import sync_folder
from rephase.errors import RequestError, unwritable

_LOCK = "lock"


class ExportFolder:
    """An export's directory, locked by one process.

    Partial files are in `<folder>.partial` next to it, since training code opens every file in the directory itself;
    only if that is another file system, they are inside, in `.partial`. Either is removed at the end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        beside = folder.with_name(folder.name + ".partial")
        same = folder.stat().st_dev == folder.parent.stat().st_dev and os.access(folder.parent, os.W_OK)
        self._partial = beside if same else folder / ".partial"

    @classmethod
    @contextmanager
    def locked(cls, folder: Path) -> Iterator[ExportFolder]:
        """Create and lock the directory; remove partial files of a killed run first, and all partial files at the end.

        Raises
        ------
        RequestError
            If it cannot be written, or another export has locked it.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            place = cls(folder.absolute())
            place._partial.mkdir(exist_ok=True)
            descriptor = os.open(place._partial / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise unwritable(str(folder), error) from None
        try:
            place._lock(descriptor)
            try:
                for entry in place._partial.iterdir():
                    if entry.name != _LOCK:
                        _remove(entry)
                yield place
            finally:  # before the lock is released, since another export may then use the directory
                shutil.rmtree(place._partial, ignore_errors=True)
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                f"{self.folder}: locked by another export; expected one at a time; wait for it or stop it"
            ) from None
        except OSError:  # a file system without locks: two simultaneous exports would only duplicate work
            return

    @contextmanager
    def writing(self, target: Path) -> Iterator[Path]:
        """Yield a path for a file or directory, which is renamed to `target` unless the block raises."""
        partial = self._partial / uuid.uuid4().hex
        try:
            yield partial
            _flush(partial)
            target.parent.mkdir(exist_ok=True)
            if target.is_dir():  # a rename does not replace a directory; the older export is stale
                _remove(target)
            partial.replace(target)
            sync_folder(target.parent)
        finally:
            _remove(partial)


def _flush(path: Path) -> None:
    """Flush a file, or a directory with its files, to the disk."""
    for file in path.iterdir() if path.is_dir() else (path,):
        descriptor = os.open(file, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if path.is_dir():
        sync_folder(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
