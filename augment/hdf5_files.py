"""Open HDF5 files with a guard against damaged string heaps, and create them so that a full disk raises an error."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import h5py
from typing_extensions import Buffer

_SIGNATURE = b"GCOL"
_START = _SIGNATURE + b"\x01\0\0\0"
_HEADER_BYTES = 16
_MOST_OBJECTS = 1 << 16  # object numbers have two bytes
_LARGEST_SHARED_READ = 1 << 20  # larger metadata is read by a separate call, from its first byte


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a local file for reading.

    Raises
    ------
    OSError
        If it is not an HDF5 file.
    """
    with _Guarded(path) as guarded, h5py.File(guarded, "r") as file:
        yield file


class _Guarded(io.FileIO):
    """A file that removes the signature of damaged heaps as they are read, so that the library refuses them.

    Variable-length text of datasets and attributes is stored in global heaps (HDF5 file format specification, III.E).
    The library steps from object to object by their sizes. At an object of size zero, as zeroed bytes have it, it loops
    forever within C, where no exception and no signal reaches it; scans and loaders have no process to kill.
    """

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer from the current position, with zeros after the end of the file."""
        view = memoryview(buffer).cast("B")
        at, done = self.tell(), 0
        while done < len(view) and (num := super().readinto(view[done:])):
            done += num
        view[done:] = bytes(len(view) - done)
        self._check(view, at)
        return len(view)

    def _check(self, view: memoryview, at: int) -> None:
        # a read may start within a signature if the library has the bytes before it
        before = os.pread(self.fileno(), min(3, at), max(0, at - 3))
        part = before + bytes(view if len(view) <= _LARGEST_SHARED_READ else view[: len(_START)])
        place = part.find(_SIGNATURE)
        while place >= 0:
            if self._is_endless(at - len(before) + place):
                for i in range(max(0, place - len(before)), place - len(before) + len(_SIGNATURE)):
                    view[i] = 0
            place = part.find(_SIGNATURE, place + 1)

    def _is_endless(self, place: int) -> bool:
        """Check whether a heap has an object of size zero, or one that exceeds the heap."""
        start = os.pread(self.fileno(), _HEADER_BYTES, place)
        if not start.startswith(_START) or len(start) < _HEADER_BYTES:
            return False  # coincidence in other data; or truncated, which the library detects
        at, end = place + _HEADER_BYTES, place + int.from_bytes(start[8:], "little")
        for _ in range(_MOST_OBJECTS):
            if end - at < _HEADER_BYTES:
                return False
            header = os.pread(self.fileno(), _HEADER_BYTES, at)
            number, size = int.from_bytes(header[:2], "little"), int.from_bytes(header[8:], "little")
            step = _HEADER_BYTES + (size + 7) // 8 * 8 if number else size
            if not 0 < step <= end - at:
                return True
            at += step
        return True


class _PatientFile(FileIO):
    """A file whose writes never fail: after a failed one, HDF5 cannot close the file and crashes at exit.

    The first error is kept; later writes are dropped.
    """

    failure: OSError | None = None

    def write(self, data: Buffer) -> int:
        view = memoryview(data).cast("B")
        try:
            rest = view if self.failure is None else view[:0]
            while rest:  # a raw write may stop early on a nearly full disk
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failure = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


@contextmanager
def creating(path: Path) -> Iterator[h5py.File]:
    """Create an HDF5 file.

    Raises
    ------
    OSError
        If the disk is full or fails; the file is then invalid.
    """
    with _PatientFile(path, "w+") as raw:
        try:
            with h5py.File(raw, "w") as file:
                yield file
        finally:
            if raw.failure is not None:
                raise OSError(raw.failure.errno, raw.failure.strerror, str(path)) from raw.failure
