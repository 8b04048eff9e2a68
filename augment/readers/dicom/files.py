"""Reads DICOM data sets out of files, up to their pixels or whole, and guards every look at their values."""

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

# A DICOM element says its length in 32 bits, so no honest file unpacks to more than its pixels and some header.
UNPACK_LIMIT = 4 << 30


# Functional groups of some ten thousand frames and private blocks stay far below it.
HEADER_LIMIT = 256 << 20


_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """One file on a filesystem that fsspec knows; `str()` of it is what messages show."""

    filesystem: Any
    path: str

    def __str__(self) -> str:
        return self.path

    @property
    def has_dicom_name(self) -> bool:
        """Whether the name promises DICOM, so that anything else inside is a fault and not a bystander."""
        return self.path.lower().endswith(READERS["dicom"].suffixes)


def list_sources(path: str) -> tuple[list[Source], bool]:
    """List the file that `path` names, or the files directly in the folder that it names, by name.

    Returns
    -------
    sources
        The files, sorted by name.
    is_folder
        Whether `path` names a folder.

    Raises
    ------
    VolumeError
        `missing` when there is nothing, `unreadable` when it cannot be listed.
    """
    try:
        filesystem, inner = fsspec.core.url_to_fs(path)
        if not filesystem.exists(inner):
            raise VolumeError("missing", f"{path}: no such file or folder; expected DICOM; correct the column path")
        if not filesystem.isdir(inner):
            if _is_local(filesystem):
                check_local(inner)
            return [Source(filesystem, inner)], False
        entries = [entry for entry in filesystem.ls(inner, detail=True) if not _is_bookkeeping(entry["name"])]
        found = [entry["name"] for entry in entries if _is_file(filesystem, entry)]
    except OSError as error:
        raise VolumeError("unreadable", f"{path}: cannot be listed ({error.strerror or error})") from error
    return [Source(filesystem, name) for name in sorted(found)], True


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
    if Source(filesystem, name).has_dicom_name or "." not in name.rsplit("/", 1)[-1]:
        raise VolumeError("incomplete", f"{name}: links to a file that is not there; expected a slice; fetch it")
    return False


def hash_file(source: Source) -> bytes:
    """SHA-256 of a file's bytes on disk, without unpacking."""
    try:
        with source.filesystem.open(source.path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise broken(source, error) from error


def combine_digests(digests: Sequence[bytes]) -> str:
    """One hexadecimal name for the files of a volume: a lone file's own SHA-256, else that of all digests in order."""
    return digests[0].hex() if len(digests) == 1 else hashlib.sha256(b"".join(digests)).hexdigest()


class _Bounded(io.RawIOBase):
    """A stream that gives at most `limit` bytes: what a few kilobytes of gzip unpack to is not known beforehand."""

    def __init__(self, stream: BinaryIO, source: Source, limit: int) -> None:
        self._stream, self._source, self._limit = stream, source, limit
        self.name = source.path  # pydicom asks for it

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        # In pieces: a header that claims gigabytes must not make anyone ask for them at once.
        view = memoryview(buffer).cast("B")[:_PIECE_BYTES]
        chunk = self._stream.read(len(view))
        if self._stream.tell() > self._limit:
            raise too_large(self._source, self._limit)
        view[: len(chunk)] = chunk
        return len(chunk)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def unpacked(raw: BinaryIO, source: Source, limit: int) -> io.BufferedReader:
    """Give a stream of the contents, gunzipped where they are gzipped, that refuses to give more than `limit` bytes."""
    gzipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if gzipped else raw
    return io.BufferedReader(_Bounded(stream, source, limit), buffer_size=1 << 16)


def not_dicom(source: Source, start: bytes) -> VolumeError:
    """Say that a file is not the DICOM that it was given as."""
    if not start:
        return VolumeError("unreadable", f"{source}: the file is empty; expected DICOM")
    printable = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
    found = "text" if printable > 0.9 * len(start) else "other data"
    return VolumeError(
        "unreadable", f"{source}: holds {found}, not DICOM; correct path or format, or copy the file again"
    )


def broken(source: Source, error: Exception) -> VolumeError:
    """Say that a file cannot be read, with what its reader said of it."""
    if isinstance(error, FileNotFoundError):
        return VolumeError("missing", f"{source}: no such file; correct path")
    return VolumeError(
        "unreadable", f"{source}: cannot be read as DICOM, cut off or damaged ({one_line(error)}); copy it again"
    )


def too_large(source: Source, limit: int) -> VolumeError:
    """Say that a file unpacks to more than is allowed."""
    return VolumeError(
        "too_large", f"{source}: unpacks to more than {limit} bytes, the limit; give workers more memory"
    )


def _is_bookkeeping(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last.startswith(".") or last.upper() == "DICOMDIR"


_DEFLATED = "1.2.840.10008.1.2.1.99"
_PIXEL_TAGS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_MR_IMAGES = {f"1.2.840.10008.5.1.4.1.1.4{suffix}" for suffix in ("", ".1", ".3", ".4")}
# What pydicom raises on values, lengths and types of values that make no sense, when it reads or converts them.
_HEADER_ERRORS = (
    InvalidDicomError, BytesLengthException, EOFError, OSError, zlib.error, struct.error, ValueError, TypeError,
    KeyError, IndexError, AttributeError, NotImplementedError, OverflowError, RecursionError,
)  # fmt: skip
_quiet_lock = threading.RLock()


@contextmanager
def tolerant_headers() -> Iterator[None]:
    """Silence pydicom's remarks on odd header values; errors pass.

    Values are converted when they are first looked at, so both reading and looking belong inside. The lock is there
    because the warning filters belong to the process: two threads that restore them crosswise would leave them off.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@contextmanager
def looking_into(source: Source) -> Iterator[None]:
    """Read values of a file's header: pydicom's remarks are silenced, its complaints become a `VolumeError`."""
    with tolerant_headers():
        try:
            yield
        except VolumeError:
            raise
        except _HEADER_ERRORS as error:
            raise broken(source, error) from error


def read_header(source: Source) -> pydicom.Dataset | None:
    """Read a file up to its pixels; None where it is no DICOM image and its name does not promise one.

    Raises
    ------
    VolumeError
        The file promises DICOM by its name or first bytes but cannot be read, or holds no pixels.
    """
    start = b""
    try:
        with source.filesystem.open(source.path, "rb") as raw, unpacked(raw, source, HEADER_LIMIT) as stream:
            start = stream.read(1024)
            if not looks_like_dicom(start):
                if source.has_dicom_name:
                    raise not_dicom(source, start)
                return None
            stream.seek(0)
            dataset = _parse(stream, source, header_only=True)
            if "Rows" in dataset and stream.read(4) not in _PIXEL_TAGS:
                raise VolumeError(
                    "unreadable", f"{source}: no pixel data after the header; cut off or empty; copy it again"
                )
    except (OSError, EOFError, zlib.error) as error:
        if start or source.has_dicom_name:
            raise broken(source, error) from error
        return None  # a damaged file of some other kind
    if "Rows" in dataset:
        return dataset
    with looking_into(source):
        may_be_slice = _may_be_slice(dataset)
    if may_be_slice:
        raise VolumeError(
            "unreadable",
            f"{source}: its header does not describe an image, nor say that it is anything else; cut off or damaged; "
            "copy it again",
        )
    return None  # DICOMDIR, report, presentation state, spectrum: nothing that could be a slice


def read_series_uid(source: Source) -> str | None:
    """Read the SeriesInstanceUID alone, quickly; None where the file is no DICOM that can be read so far."""
    try:
        with source.filesystem.open(source.path, "rb") as raw, unpacked(raw, source, HEADER_LIMIT) as stream:
            start = stream.read(1024)
            if not looks_like_dicom(start):
                return None
            stream.seek(0)
            dataset = _parse(stream, source, header_only=True, tags=("SeriesInstanceUID",))
        with looking_into(source):
            return str(dataset.get("SeriesInstanceUID") or "")
    except (OSError, EOFError, zlib.error, VolumeError):
        return None


def read_whole(source: Source, limit_bytes: int | None) -> tuple[pydicom.Dataset, bytes]:
    """Read a file with its pixels, still encoded.

    Parameters
    ----------
    source
        The file.
    limit_bytes
        Of the unpacked file; None for the largest that DICOM can say.

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
        size = source.filesystem.size(source.path)
        if size is not None and size > limit:
            raise too_large(source, limit)
        content: bytes = source.filesystem.cat_file(source.path)
        with unpacked(io.BytesIO(content), source, limit) as stream:
            data = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise broken(source, error) from error
    if not looks_like_dicom(data[:1024]):
        raise not_dicom(source, data[:1024])
    dataset = _parse(io.BytesIO(data), source)
    if "PixelData" not in dataset:  # pydicom gives what it has when encapsulated data ends too early
        raise VolumeError("unreadable", f"{source}: no pixel data, or its end is missing; cut off; copy it again")
    return dataset, hashlib.sha256(content).digest()


def looks_like_dicom(start: bytes) -> bool:
    """Whether the first bytes of a file are DICOM's, with its preamble or (older exports) without."""
    bare = start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00" and len(start) > 132
    return start[128:132] == b"DICM" or bare


def _parse(
    stream: BinaryIO | io.BufferedReader,
    source: Source,
    header_only: bool = False,
    tags: Sequence[str] | None = None,
) -> pydicom.Dataset:
    with looking_into(source):
        has_preamble = read_preamble(stream, force=True) is not None
        meta = read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=_behind_meta)
        if meta.get("TransferSyntaxUID") == _DEFLATED:  # pydicom would inflate it whole, whatever its size
            raise VolumeError(
                "unsupported", f"{source}: deflated transfer syntax; expected another; convert it (dcmconv)"
            )
        stream.seek(0)
        return pydicom.dcmread(
            stream, stop_before_pixels=header_only, force=not has_preamble, specific_tags=list(tags) if tags else None
        )


def _behind_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return bool(tag.group != 2)


def _may_be_slice(dataset: pydicom.Dataset) -> bool:
    """Whether a file without an image may be what is left of one: anything else says which class of object it is."""
    stated = UID(str(dataset.get("SOPClassUID") or getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID")))
    if stated in _MR_IMAGES or not stated.is_valid:
        return True
    return not stated.is_private and stated.type not in ("SOP Class", "Meta SOP Class")
