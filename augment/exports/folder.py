"""Where exported volumes go: written beside the folder, flushed, renamed into it, so that it never holds a half one."""

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


class Place:
    """An export's folder, held by one process.

    Unfinished files stand in `<folder>.partial` beside it, for training code opens whatever lies in the folder itself;
    only where that is another file system they stand inside, in `.partial`. Either is removed in the end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        beside = folder.with_name(folder.name + ".partial")
        same = folder.stat().st_dev == folder.parent.stat().st_dev and os.access(folder.parent, os.W_OK)
        self._unfinished = beside if same else folder / ".partial"

    @property
    def unfinished(self) -> Path:
        """The folder of unfinished files."""
        return self._unfinished

    @classmethod
    @contextmanager
    def held(cls, folder: Path) -> Iterator[Place]:
        """Make the folder, hold it, remove what a killed run left; in the end remove all that is unfinished.

        Raises
        ------
        RequestError
            If it cannot be written, or another export is writing it.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            place = cls(folder.absolute())
            place._unfinished.mkdir(exist_ok=True)
            descriptor = os.open(place._unfinished / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise unwritable(str(folder), error) from None
        try:
            place._lock(descriptor)
            try:
                place._clear()
                yield place
            finally:  # while the lock is held: the folder may be another's a moment later
                shutil.rmtree(place._unfinished, ignore_errors=True)
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(
                f"{self.folder}: another export is writing here; expected one at a time; wait for it or stop it"
            ) from None
        except OSError:  # a file system without locks: two exports would only do the work twice
            return

    def _clear(self) -> None:
        for entry in self._unfinished.iterdir():
            if entry.name != _LOCK:
                _remove(entry)

    @contextmanager
    def writing(self, target: Path) -> Iterator[Path]:
        """Give a path to write to, a file or a folder; it becomes `target` unless an error leaves the block."""
        partial = self._unfinished / uuid.uuid4().hex
        try:
            yield partial
            _flush(partial)
            target.parent.mkdir(exist_ok=True)
            if target.is_dir():  # a folder does not replace another; the older export is stale
                _remove(target)
            partial.replace(target)
            sync_folder(target.parent)
        finally:
            _remove(partial)


def _flush(path: Path) -> None:
    """Bring a file, or a folder with its files, to the disk."""
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
