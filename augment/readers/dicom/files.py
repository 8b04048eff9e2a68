"""Read DICOM data sets from files, with or without pixels, and turn errors in their values into `VolumeError`."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import fsspec
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import UID

from rephase.errors import VolumeError
from rephase.formats import READERS
from rephase.readers.sources import check_local
from rephase.text import one_line

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# The length of a DICOM element has 32 bits, so no sound file unpacks to more than this and some header.
UNPACK_LIMIT = 4 << 30


# The functional groups of some ten thousand frames, and private blocks, stay far below.
HEADER_LIMIT = 256 << 20


_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class DicomFile:
    """One file on a file system of fsspec; messages show its `str()`."""

    filesystem: Any
    path: str

    def __str__(self) -> str:
        return self.path

    @property
    def has_dicom_name(self) -> bool:
        """Whether the name has a suffix of DICOM, so that other content is an error."""
        return self.path.lower().endswith(READERS["dicom"].suffixes)


def list_files(path: str) -> tuple[list[DicomFile], bool]:
    """List the file that `path` names, or the files directly in the folder that it names, by name.

    Returns
    -------
    files
        The files, sorted by name.
    is_folder
        Whether `path` names a folder.

    Raises
    ------
    VolumeError
        `missing` where the path does not exist, `unreadable` where it cannot be listed.
    """
    try:
        filesystem, inner = fsspec.core.url_to_fs(path)
        if not filesystem.exists(inner):
            raise VolumeError("missing", f"{path}: no such file or folder; expected DICOM; correct the column path")
        if not filesystem.isdir(inner):
            if _is_local(filesystem):
                check_local(inner)
            return [DicomFile(filesystem, inner)], False
        entries = [entry for entry in filesystem.ls(inner, detail=True) if not _is_bookkeeping(entry["name"])]
        found = [entry["name"] for entry in entries if _is_file(filesystem, entry)]
    except OSError as error:
        raise VolumeError(
            "unreadable", f"{path}: cannot be listed ({error.strerror or error}); expected a readable folder; check it"
        ) from error
    return [DicomFile(filesystem, name) for name in sorted(found)], True


def _is_local(filesystem: Any) -> bool:  # noqa: ANN401 - fsspec has no types
    return "file" in ([filesystem.protocol] if isinstance(filesystem.protocol, str) else filesystem.protocol)


def _is_file(filesystem: Any, entry: Mapping[str, Any]) -> bool:  # noqa: ANN401
    """Whether an entry of a folder is a file, or a link to one, which fsspec's listing does not call a file.

    Raises
    ------
    VolumeError
        `incomplete` for a link whose target is gone and that may have been a slice.
    """
    if not entry.get("islink"):
        return bool(entry["type"] == "file")
    name = str(entry["name"])
    if filesystem.exists(name):
        return bool(filesystem.info(name)["type"] == "file")
    if DicomFile(filesystem, name).has_dicom_name or "." not in name.rsplit("/", 1)[-1]:
        raise VolumeError("incomplete", f"{name}: is a link to a missing file; expected a slice; restore it")
    return False


def hash_file(file: DicomFile) -> bytes:
    """Return the SHA-256 of a file's bytes as stored, without unpacking."""
    try:
        with file.filesystem.open(file.path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise broken(file, error) from error


def combine_digests(digests: Sequence[bytes]) -> str:
    """Return one SHA-256 for the files of a volume: that of a single file, else the one over all digests in order."""
    return digests[0].hex() if len(digests) == 1 else hashlib.sha256(b"".join(digests)).hexdigest()


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
        return VolumeError("unreadable", f"{file}: the file is empty; expected DICOM; copy it again")
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


def _is_bookkeeping(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last.startswith(".") or last.upper() == "DICOMDIR"


_DEFLATED = "1.2.840.10008.1.2.1.99"
_PIXEL_TAGS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_MR_IMAGES = {f"1.2.840.10008.5.1.4.1.1.4{suffix}" for suffix in ("", ".1", ".3", ".4")}
# raised by pydicom when it reads or converts damaged values
_HEADER_ERRORS = (
    InvalidDicomError, BytesLengthException, EOFError, OSError, zlib.error, struct.error, ValueError, TypeError,
    KeyError, IndexError, AttributeError, NotImplementedError, OverflowError, RecursionError,
)  # fmt: skip
_quiet_lock = threading.RLock()


@contextmanager
def tolerant_headers() -> Iterator[None]:
    """Silence pydicom's warnings on odd header values; errors pass.

    Values are converted on first access, so both reading and access belong inside. The lock is needed because warning
    filters are global: two threads that restore them in the wrong order would leave them off.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@contextmanager
def looking_into(file: DicomFile) -> Iterator[None]:
    """Access values of a file's header: warnings of pydicom are silenced, its errors become a `VolumeError`."""
    with tolerant_headers():
        try:
            yield
        except VolumeError:
            raise
        except _HEADER_ERRORS as error:
            raise broken(file, error) from error


def read_header(file: DicomFile) -> pydicom.Dataset | None:
    """Read a file up to its pixels; None where it is no DICOM image and has no suffix of one.

    Raises
    ------
    VolumeError
        The file has a suffix or the first bytes of DICOM, but cannot be read or has no pixels.
    """
    start = b""
    try:
        with file.filesystem.open(file.path, "rb") as raw, unpacked(raw, file, HEADER_LIMIT) as stream:
            start = stream.read(1024)
            if not looks_like_dicom(start):
                if file.has_dicom_name:
                    raise not_dicom(file, start)
                return None
            stream.seek(0)
            dataset = _parse(stream, file, header_only=True)
            if "Rows" in dataset and stream.read(4) not in _PIXEL_TAGS:
                raise VolumeError(
                    "unreadable", f"{file}: no pixel data after the header; it is truncated; copy it again"
                )
    except (OSError, EOFError, zlib.error) as error:
        if start or file.has_dicom_name:
            raise broken(file, error) from error
        return None  # a damaged file of some other kind
    if "Rows" in dataset:
        return dataset
    with looking_into(file):
        may_be_slice = _may_be_slice(dataset)
    if may_be_slice:
        raise VolumeError(
            "unreadable",
            f"{file}: its header describes neither an image nor another object; it is truncated or damaged; "
            "copy it again",
        )
    return None  # DICOMDIR, report, presentation state, spectrum: nothing that could be a slice


def read_series_uid(file: DicomFile) -> str | None:
    """Read only the SeriesInstanceUID; None where the file is not readable as DICOM up to it."""
    try:
        with file.filesystem.open(file.path, "rb") as raw, unpacked(raw, file, HEADER_LIMIT) as stream:
            start = stream.read(1024)
            if not looks_like_dicom(start):
                return None
            stream.seek(0)
            dataset = _parse(stream, file, header_only=True, tags=("SeriesInstanceUID",))
        with looking_into(file):
            return str(dataset.get("SeriesInstanceUID") or "")
    except (OSError, EOFError, zlib.error, VolumeError):
        return None


def read_whole(file: DicomFile, limit_bytes: int | None) -> tuple[pydicom.Dataset, bytes]:
    """Read a file with its pixels, still encoded.

    Parameters
    ----------
    file
        The file.
    limit_bytes
        Of the unpacked file; None for the largest size of DICOM.

    Returns
    -------
    dataset
        With its pixel data.
    digest
        SHA-256 of the bytes on disk.

    Raises
    ------
    VolumeError
        `unreadable`, or `too_large`.
    """
    limit = UNPACK_LIMIT if limit_bytes is None else limit_bytes
    try:
        size = file.filesystem.size(file.path)
        if size is not None and size > limit:
            raise too_large(file, limit)
        content: bytes = file.filesystem.cat_file(file.path)
        with unpacked(io.BytesIO(content), file, limit) as stream:
            data = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise broken(file, error) from error
    if not looks_like_dicom(data[:1024]):
        raise not_dicom(file, data[:1024])
    dataset = _parse(io.BytesIO(data), file)
    if "PixelData" not in dataset:  # pydicom drops encapsulated data that ends too early
        raise VolumeError(
            "unreadable", f"{file}: no pixel data, or its end is missing; the file is truncated; copy it again"
        )
    return dataset, hashlib.sha256(content).digest()


def looks_like_dicom(start: bytes) -> bool:
    """Whether the first bytes of a file are DICOM's, with its preamble or (older exports) without."""
    bare = start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00" and len(start) > 132
    return start[128:132] == b"DICM" or bare


def _parse(
    stream: BinaryIO | io.BufferedReader,
    file: DicomFile,
    header_only: bool = False,
    tags: Sequence[str] | None = None,
) -> pydicom.Dataset:
    with looking_into(file):
        has_preamble = read_preamble(stream, force=True) is not None
        meta = read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=_behind_meta)
        if meta.get("TransferSyntaxUID") == _DEFLATED:  # pydicom would inflate all of it, whatever its size
            raise VolumeError(
                "unsupported", f"{file}: deflated transfer syntax; expected another one; convert it (dcmconv)"
            )
        stream.seek(0)
        return pydicom.dcmread(
            stream, stop_before_pixels=header_only, force=not has_preamble, specific_tags=list(tags) if tags else None
        )


def _behind_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return bool(tag.group != 2)


def _may_be_slice(dataset: pydicom.Dataset) -> bool:
    """Whether a file without an image may be a damaged image: other objects state their SOP class."""
    stated = UID(str(dataset.get("SOPClassUID") or getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID")))
    if stated in _MR_IMAGES or not stated.is_valid:
        return True
    return not stated.is_private and stated.type not in ("SOP Class", "Meta SOP Class")
