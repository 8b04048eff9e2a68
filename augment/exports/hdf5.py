"""HDF5 files of exports: written so that a full disk is an error and no crash, and marked with a stamp."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from augment.exports.stamp import STAMP_KEY, Stamp

if TYPE_CHECKING:
    from typing_extensions import Buffer


class _PatientFile(FileIO):
    """A file whose writes never fail: after one that does HDF5 cannot close its file, and crashes at the end.

    The first error is kept, and what comes after it is dropped.
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
        If the disk is full or fails; the file is then of no use.
    """
    with _PatientFile(path, "w+") as raw:
        try:
            with h5py.File(raw, "w") as file:
                yield file
        finally:
            if raw.failure is not None:
                raise OSError(raw.failure.errno, raw.failure.strerror, str(path)) from raw.failure


def read_stamp(path: Path) -> Stamp | None:
    """Read the stamp of a file; None where it has none or is no whole HDF5 file."""
    try:
        with h5py.File(path, "r") as file:
            return Stamp.from_json(file.attrs.get(STAMP_KEY))
    except OSError:
        return None


def is_foreign(path: Path) -> bool:
    """Tell whether this is a whole HDF5 file that no export wrote; a torn one is taken for ours, to be made again."""
    try:
        with h5py.File(path, "r") as file:
            return STAMP_KEY not in file.attrs
    except OSError:
        return False
