"""Reads DICOM data sets out of files, up to their pixels or whole, and guards every look at their values."""

from __future__ import annotations

import hashlib
import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import UID

from augment.errors import VolumeError
from augment.readers.dicom_bytes import HEADER_LIMIT, UNPACK_LIMIT, Source, broken, not_dicom, too_large, unpacked

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
