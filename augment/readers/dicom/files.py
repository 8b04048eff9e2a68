"""Read DICOM headers from files, and turn errors in their values into `VolumeError`."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import fsspec
import pydicom
from fsspec.implementations.local import LocalFileSystem
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag

from rephase.errors import VolumeError
from rephase.formats import READERS
from rephase.readers.sources import check_local
from rephase.text import one_line

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Stamp: TypeAlias = tuple[Any, ...]

HEADER_LIMIT = 256 << 20
"""Bytes of a header: those of ten thousand frames, and private blocks, stay far below."""
UNPACK_LIMIT = 4 << 30
"""Bytes of a file: the length of a DICOM element has 32 bits."""

_PIECE_BYTES = 1 << 20
_DEFLATED = "1.2.840.10008.1.2.1.99"
# raised by pydicom when it reads or converts damaged values
_HEADER_ERRORS = (
    EOFError, OSError, zlib.error, struct.error, ValueError, TypeError, KeyError, IndexError, AttributeError,
    NotImplementedError, OverflowError, RecursionError, pydicom.errors.InvalidDicomError,
    pydicom.errors.BytesLengthException,
)  # fmt: skip
_LOCAL = LocalFileSystem()
_quiet_lock = threading.RLock()


@dataclass(frozen=True)
class DicomFile:
    """One file on a file system of fsspec; messages show its `str()`. `stamp` changes when the file does."""

    filesystem: Any
    path: str
    stamp: Stamp = ()

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

    @property
    def is_local(self) -> bool:
        """Whether it is on a local disk."""
        protocol = self.filesystem.protocol
        return "file" in ([protocol] if isinstance(protocol, str) else protocol)


def list_files(path: str, deep: bool = False) -> tuple[Any, list[tuple[str, Stamp]], bool]:
    """List the file that `path` names, or the files of the folder that it names, by name.

    Parameters
    ----------
    path
        A file, a folder, or a URL of one.
    deep
        Also the files of the folders below.

    Returns
    -------
    filesystem
        Of fsspec.
    files
        Path and stamp of each file.
    is_folder
        Whether `path` names a folder.

    Raises
    ------
    VolumeError
        `missing` or `unreadable` for `path` itself; `incomplete` for a link to a missing file that may be a slice.
    """
    try:
        filesystem, inner = fsspec.core.url_to_fs(path)
        if not filesystem.exists(inner):
            raise VolumeError("missing", f"{path}: no such file or folder; expected DICOM; correct the column path")
        local = DicomFile(filesystem, inner).is_local
        if local:
            check_local(inner)
        if not filesystem.isdir(inner):
            return filesystem, [(inner, _stamp(filesystem, inner))], False
        if local:
            folders = [folder for folder, _, _ in os.walk(inner)] if deep else [inner]
            found = [file for folder in folders for file in _in_folder(folder)]
        else:
            names = filesystem.find(inner, maxdepth=None if deep else 1)
            names = [name for name in names if not _is_bookkeeping(name.rsplit("/", 1)[-1])]
            found = [(name, _stamp(filesystem, name)) for name in names]
    except OSError as error:
        raise VolumeError(
            "unreadable", f"{path}: cannot be listed ({error.strerror or error}); expected a readable folder; check it"
        ) from error
    return filesystem, sorted(found), True


def local_file(path: str) -> DicomFile:
    """Return a file of a local disk."""
    return DicomFile(_LOCAL, path, _stamp(_LOCAL, path))


def _stamp(filesystem: Any, name: str) -> Stamp:  # noqa: ANN401 - fsspec has no types
    if filesystem.protocol == _LOCAL.protocol:
        return _local_stamp(os.stat(name))  # noqa: PTH116 - called for every file
    known = filesystem.info(name)
    keys = ("size", "mtime", "ETag", "LastModified", "last_modified", "updated", "created")
    return tuple(str(known[key]) for key in keys if key in known)


def _local_stamp(status: os.stat_result) -> Stamp:
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def _in_folder(folder: str) -> Iterator[tuple[str, Stamp]]:
    """Yield the files of a folder; fast, as a worker lists the folder of a series again for each of its volumes."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_bookkeeping(entry.name):
                continue
            try:
                status = entry.stat()
            except OSError:
                if entry.name.lower().endswith(READERS["dicom"].suffixes) or "." not in entry.name:
                    raise VolumeError(
                        "incomplete", f"{entry.path}: is a link to a missing file; expected a slice; restore it"
                    ) from None
                continue
            if stat.S_ISREG(status.st_mode):
                yield entry.path, _local_stamp(status)


def _is_bookkeeping(name: str) -> bool:
    return name.startswith(".") or name.upper() == "DICOMDIR"


def hash_file(file: DicomFile) -> bytes:
    """Return the SHA-256 of a file's bytes as stored, without unpacking."""
    try:
        with file.filesystem.open(file.path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise broken(file, error) from error


def stage(file: DicomFile, target: Path, limit_bytes: int | None) -> int:
    """Place the contents of a file at a local path, unpacked; return their size.

    Raises
    ------
    VolumeError
        `too_large`, `missing`, `unreadable`.
    """
    limit = UNPACK_LIMIT if limit_bytes is None else limit_bytes
    try:
        with file.filesystem.open(file.path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if packed or not file.is_local:
                with unpacked(raw, file, limit) as stream, target.open("wb") as copy:
                    shutil.copyfileobj(stream, copy, _PIECE_BYTES)
            else:
                target.symlink_to(Path(file.path).absolute())
        size = target.stat().st_size
    except (OSError, EOFError, zlib.error) as error:
        raise broken(file, error) from error
    if size > limit:
        raise too_large(file, limit)
    return size


def check_unchanged(files: Iterable[DicomFile]) -> None:
    """Check that files are those that were listed.

    Raises
    ------
    VolumeError
        `changed`.
    """
    for file in files:
        try:
            now = _stamp(file.filesystem, file.path)
        except OSError as error:
            raise broken(file, error) from error
        if now != file.stamp:
            raise VolumeError(
                "changed", f"{file}: changed while it was read; run again when no other program writes it"
            )


class _Bounded(io.RawIOBase):
    """A stream of at most `limit` bytes: a few kilobytes of gzip may unpack to gigabytes."""

    def __init__(self, stream: BinaryIO, file: DicomFile, limit: int) -> None:
        self._stream, self._file, self._limit = stream, file, limit
        self.name = file.path  # read by pydicom

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        # in pieces, so that a header that states gigabytes does not allocate them at once
        view = memoryview(buffer).cast("B")[:_PIECE_BYTES]
        chunk = self._stream.read(len(view))
        if self._stream.tell() > self._limit:
            raise too_large(self._file, self._limit)
        view[: len(chunk)] = chunk
        return len(chunk)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def unpacked(raw: BinaryIO, file: DicomFile, limit: int) -> io.BufferedReader:
    """Return a stream of the contents, unpacked where they are gzip, that raises beyond `limit` bytes."""
    gzipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if gzipped else raw
    return io.BufferedReader(_Bounded(stream, file, limit), buffer_size=1 << 16)


def not_dicom(file: DicomFile, start: bytes) -> VolumeError:
    """Return the error of a file that is not DICOM."""
    if not start:
        return VolumeError("unreadable", f"{file}: is empty; expected DICOM; copy it again")
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
    found = "text" if printable > 0.9 * len(start) else "other data"
    return VolumeError(
        "unreadable", f"{file}: holds {found}, not DICOM; correct path or format, or copy the file again"
    )


def broken(file: DicomFile, error: Exception) -> VolumeError:
    """Return the error of a file that cannot be read, with the message of the library."""
    if isinstance(error, FileNotFoundError):
        return VolumeError("missing", f"{file}: no such file; expected DICOM; correct the path")
    return VolumeError("unreadable", f"{file}: cannot be read ({one_line(error)}); expected DICOM; copy it again")


def too_large(file: DicomFile, limit: int) -> VolumeError:
    """Return the error of a file that unpacks to more than the limit."""
    return VolumeError("too_large", f"{file}: unpacks to more than {limit} bytes, the limit; give workers more memory")


@contextmanager
def looking_into(file: DicomFile) -> Iterator[None]:
    """Access values of a file's header: warnings of pydicom are silenced, its errors become a `VolumeError`.

    Values are converted on first access, so both reading and access belong inside. The lock is needed because warning
    filters are global: two threads that restore them in the wrong order would leave them off.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            yield
        except VolumeError:
            raise
        except _HEADER_ERRORS as error:
            raise broken(file, error) from error


@contextmanager
def opened(file: DicomFile) -> Iterator[tuple[io.BufferedReader, bytes]]:
    """Open a file, unpacked; yield the stream at its start, and its first bytes, none where it cannot be unpacked."""
    start = b""
    try:
        with file.filesystem.open(file.path, "rb") as raw, unpacked(raw, file, HEADER_LIMIT) as stream:
            try:
                start = stream.read(1024)
            except (EOFError, OSError, zlib.error):
                if file.has_dicom_name:
                    raise
            else:
                stream.seek(0)
            yield stream, start
    except (OSError, EOFError, zlib.error) as error:
        raise broken(file, error) from error


def looks_like_dicom(start: bytes) -> bool:
    """Whether the first bytes of a file are DICOM's, with its preamble or (older exports) without."""
    bare = start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00" and len(start) > 132
    return start[128:132] == b"DICM" or bare


def parse_header(stream: io.BufferedReader, file: DicomFile, tags: Sequence[Any] | None = None) -> pydicom.Dataset:
    """Read a data set up to its pixels, where the stream then stands; `tags` alone if given."""
    with looking_into(file):
        has_preamble = read_preamble(stream, force=True) is not None
        meta = read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=_behind_meta)
        if meta.get("TransferSyntaxUID") == _DEFLATED:  # pydicom would inflate all of it, whatever its size
            raise VolumeError(
                "unsupported", f"{file}: deflated transfer syntax; expected another one; convert it (dcmconv)"
            )
        stream.seek(0)
        return pydicom.dcmread(
            stream, stop_before_pixels=True, force=not has_preamble, specific_tags=None if tags is None else list(tags)
        )


def read_dataset_of(file: DicomFile) -> pydicom.Dataset:
    """Read the whole header of a file that was found to be DICOM."""
    with opened(file) as (stream, _):
        return parse_header(stream, file)


def _behind_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return bool(tag.group != 2)
