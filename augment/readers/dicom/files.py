"""DICOM files: list, open, hash and stage them, and turn errors in their headers into `VolumeError`."""

from __future__ import annotations

import functools
import io
import os
import re
import shutil
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pydicom

from rephase.errors import VolumeError
from rephase.formats import READERS
from rephase.readers.sources import check_local, hash_file, is_packed, join_digests, open_bounded
from rephase.text import one_line

HEADER_LIMIT = 256 << 20
"""Bytes of a header: those of ten thousand frames, and private blocks, stay far below."""
UNPACK_LIMIT = 4 << 30
"""Bytes of a file: the length of a DICOM element has 32 bits."""

_START_BYTES = 4096
_MOST_IN_MEMORY = 1 << 20
_DEFLATED = re.compile(rb"\x02\0\x10\0UI..1\.2\.840\.10008\.1\.2\.1\.99", re.DOTALL)
# raised by pydicom when it reads or converts damaged values
_ERRORS = (
    EOFError, OSError, zlib.error, struct.error, ValueError, TypeError, KeyError, IndexError, AttributeError,
    NotImplementedError, OverflowError, RecursionError, pydicom.errors.InvalidDicomError,
    pydicom.errors.BytesLengthException,
)  # fmt: skip
_quiet_lock = threading.RLock()


class DicomFile(NamedTuple):
    """A local path, and size, time and inode, which change when the file does."""

    path: str
    stamp: tuple[int, int, int] = (0, 0, 0)

    def __str__(self) -> str:
        return self.path

    @property
    def folder(self) -> str:
        """Path of its folder."""
        return self.path.rpartition("/")[0]

    @property
    def has_dicom_name(self) -> bool:
        """Whether the name has a suffix of DICOM, so that other content is an error."""
        return self.path.lower().endswith(READERS["dicom"].suffixes)


def dicom_file(path: str, status: os.stat_result | None = None) -> DicomFile:
    """Return a file as it is now."""
    found = status or os.stat(path)  # noqa: PTH116 - called for every file
    return DicomFile(path, (found.st_size, found.st_mtime_ns, found.st_ino))


def list_files(path: str, deep: bool = False) -> tuple[list[DicomFile], bool]:
    """List the file that `path` names, or the files of the folder (`deep`: and of those below), by name.

    Returns
    -------
    files, is_folder

    Raises
    ------
    VolumeError
        `missing` or `unreadable` for `path` itself; `incomplete` for a link to a missing file that may be a slice.
    """
    check_local(path)
    if not Path(path).is_dir():
        return [dicom_file(path)], False
    try:
        folders = [folder for folder, _, _ in os.walk(path)] if deep else [path]
        return sorted(file for folder in folders for file in _in_folder(folder)), True
    except OSError as error:
        raise VolumeError(
            "unreadable", f"{path}: cannot be listed ({error.strerror or error}); expected a readable folder; check it"
        ) from error


def _in_folder(folder: str) -> Iterator[DicomFile]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.upper() == "DICOMDIR":
                continue
            if entry.is_file():
                yield dicom_file(entry.path, entry.stat())
            elif not Path(entry.path).exists() and (DicomFile(entry.path).has_dicom_name or "." not in entry.name):
                raise VolumeError(
                    "incomplete", f"{entry.path}: is a link to a missing file; expected a slice; restore it"
                )


@functools.lru_cache(maxsize=1024)
def digest_files(files: tuple[DicomFile, ...]) -> str:
    """Return one SHA-256 for files as stored; see `join_digests`."""
    digest = join_digests([hash_file(Path(file.path)) for file in files])
    check_unchanged(files)
    return digest


def check_unchanged(files: Sequence[DicomFile]) -> None:
    """Check that files are those that were listed.

    Raises
    ------
    VolumeError
        `changed`.
    """
    for file in files:
        with reading(file):
            if dicom_file(file.path) != file:
                raise VolumeError(
                    "changed", f"{file}: changed while it was read; run again when no other program writes it"
                )


def stage(file: DicomFile, target: Path, limit_bytes: int | None) -> int:
    """Place the contents of a file at a local path, unpacked; return their size."""
    with reading(file), open_bounded(Path(file.path), limit_bytes or UNPACK_LIMIT) as stream:
        if is_packed(stream):
            with target.open("wb") as copy:
                shutil.copyfileobj(stream, copy, 1 << 20)
        else:
            target.symlink_to(Path(file.path).absolute())
        return target.stat().st_size


@contextmanager
def reading(file: DicomFile) -> Iterator[None]:
    """Access a file and the values of its header: pydicom's warnings are silenced, errors become a `VolumeError`.

    Values are converted on first access, so both reading and access belong inside. The lock is needed because warning
    filters are global: two threads that restore them in the wrong order would leave them off.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            yield
        except VolumeError:
            raise
        except FileNotFoundError:
            raise VolumeError("missing", f"{file}: no such file; expected DICOM; correct the path") from None
        except _ERRORS as error:
            raise VolumeError(
                "unreadable", f"{file}: cannot be read ({one_line(error)}); expected DICOM; copy it again"
            ) from error


@contextmanager
def open_dicom(
    file: DicomFile, tags: list[Any] | None = None
) -> Iterator[tuple[pydicom.Dataset, BinaryIO, int] | None]:
    """Read a header up to the pixels, `tags` alone if given; yield it, the stream, which stands there, and its size.

    The size is that of a file of gigabytes where it is not known. None is yielded for a file that is no DICOM and has
    no suffix of it.
    """
    with reading(file), open_bounded(Path(file.path), HEADER_LIMIT) as stream:
        start = _start(file, stream)
        # with a preamble or (older exports) without
        bare = start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00" and len(start) > 132
        if start[128:132] != b"DICM" and not bare:
            if file.has_dicom_name:
                raise _not_dicom(file, start)
            yield None
            return
        # pydicom asks for its position at every element, which memory answers ten times as fast
        start += stream.read(_MOST_IN_MEMORY - len(start))
        if _DEFLATED.search(start):  # pydicom would inflate all of it, whatever its size
            raise VolumeError(
                "unsupported", f"{file}: deflated transfer syntax; expected another one; convert it (dcmconv)"
            )
        whole: BinaryIO = io.BytesIO(start) if len(start) < _MOST_IN_MEMORY else stream
        size = len(start) if len(start) < _MOST_IN_MEMORY else UNPACK_LIMIT if is_packed(stream) else file.stamp[0]
        whole.seek(0)
        yield pydicom.dcmread(whole, stop_before_pixels=True, force=bare, specific_tags=tags), whole, size


def _start(file: DicomFile, stream: io.BufferedReader) -> bytes:
    try:
        return stream.read(_START_BYTES)
    except (EOFError, OSError, zlib.error):
        if file.has_dicom_name:
            raise
        return b""


def _not_dicom(file: DicomFile, start: bytes) -> VolumeError:
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
    found = "text" if printable > 0.9 * len(start) else "other data"
    return VolumeError(
        "unreadable", f"{file}: holds {found}, not DICOM; correct path or format, or copy the file again"
    )
