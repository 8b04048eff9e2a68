"""The bytes of DICOM files: where they lie, how large they unpack, what their digests are."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import fsspec

from augment.errors import VolumeError
from augment.readers.sources import check_local

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# A DICOM element says its length in 32 bits, so no honest file unpacks to more than its pixels and some header.
UNPACK_LIMIT = 4 << 30
# Functional groups of some ten thousand frames and private blocks stay far below it.
HEADER_LIMIT = 256 << 20
_PIECE_BYTES = 1 << 20
DICOM_NAMES = (".dcm", ".dicom", ".ima", ".dcm.gz", ".dicom.gz", ".ima.gz")


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
        return self.path.lower().endswith(DICOM_NAMES)


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
    what = " ".join(str(error).split())[:160] or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return VolumeError("missing", f"{source}: no such file; correct path")
    return VolumeError("unreadable", f"{source}: cannot be read as DICOM, cut off or damaged ({what}); copy it again")


def too_large(source: Source, limit: int) -> VolumeError:
    """Say that a file unpacks to more than is allowed."""
    return VolumeError(
        "too_large", f"{source}: unpacks to more than {limit} bytes, the limit; give workers more memory"
    )


def _is_bookkeeping(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last.startswith(".") or last.upper() == "DICOMDIR"
