"""Open one NIfTI image, a single file or a pair, and read its values."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.fileslice import fileslice
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.readers.nifti.header import HEADER_BYTES, NiftiHeader, parse_header
from rephase.readers.nifti.others import as_nifti, files_of, is_other
from rephase.readers.nifti.unpacked import open_unpacked
from rephase.readers.sources import hash_open, join_digests, watch
from rephase.readers.volume import check_limit, refuse_vanished
from rephase.text import one_line

Stream = gzip.GzipFile | io.BufferedReader | io.BytesIO

MOST_PADDING = 1 << 20

_DEFLATE_RATIO = 1032  # limit of zlib: no stream unpacks to more
_BLOCK_BYTES = 1 << 17
_LARGEST_PLANE = 1 << 24
_LARGEST_SAMPLE = 1 << 23  # voxels: a few planes of a large image are enough
_GZIP_MAGIC = b"\x1f\x8b"
_IMG_SUFFIXES = (".img", ".IMG", ".img.gz", ".IMG.GZ")
_HDR_SUFFIXES = (".hdr", ".HDR")


@dataclass(frozen=True)
class NiftiFile:
    """An open image: its header, the stream of its values (unpacked), and its files (as they are)."""

    header: NiftiHeader
    stream: Stream
    files: tuple[io.BufferedReader, ...]

    def sha256(self) -> str:
        """Return the SHA-256 of the file, or of the digests of a pair; read no more values afterwards."""
        return join_digests([hash_open(file) for file in self.files])


@contextmanager
def open_nifti(path: Path, name: str, keep_unpacked: bool = False) -> Iterator[NiftiFile]:
    """Open an image, decompressing gzip, and read its header.

    Parameters
    ----------
    path
        Path of a local file; of a pair, either one.
    name
        Name of the file in messages.
    keep_unpacked
        Whether to read a compressed file of several frames from a decompressed copy that this process keeps.

    Raises
    ------
    VolumeError
        `unreadable` or `unsupported`, also for read errors in the block of the `with` statement.
    """
    try:
        with ExitStack() as stack:
            if is_other(path):
                for file in files_of(path):
                    watch(file)
                raws = tuple(stack.enter_context(file.open("rb")) for file in files_of(path))
                content, te_ms = as_nifti(path, name)
                header = parse_header(content.read(HEADER_BYTES), name)
                yield NiftiFile(replace(header, te_ms=te_ms), content, raws)
                return
            watch(header_path(path))
            raw = stack.enter_context(header_path(path).open("rb"))
            stream = _stream(raw, path, name)
            header = parse_header(stream.read(HEADER_BYTES), name)
            files: tuple[io.BufferedReader, ...] = (raw,)
            if header.is_pair:
                watch(_values_path(path, name))
                raw = stack.enter_context(_values_path(path, name).open("rb"))
                stream = _stream(raw, Path(raw.name), name)
                files = (*files, raw)
            packed = isinstance(stream, gzip.GzipFile)
            _check_size(header, os.fstat(raw.fileno()).st_size, packed)
            if packed and keep_unpacked and header.num_frames > 1:
                copy = open_unpacked(raw, header.expected_bytes, MOST_PADDING)
                raw.seek(0)
                stream = gzip.GzipFile(fileobj=raw) if copy is None else stack.enter_context(copy)
            yield NiftiFile(header, stream, files)
    except (OSError, EOFError, zlib.error) as error:
        raise VolumeError(
            "unreadable", f"{name}: is truncated or damaged ({one_line(error)}); expected NIfTI; fetch it again"
        ) from error


def header_path(path: Path) -> Path:
    """Return the file with the header: `path`, or the `.hdr` beside an `.img`."""
    if path.name.lower().endswith((".img", ".img.gz")):
        stem = path.name[: path.name.lower().index(".img")]
        return next((one for one in (path.with_name(stem + s) for s in _HDR_SUFFIXES) if one.exists()), path)
    return path


def _values_path(path: Path, name: str) -> Path:
    header = header_path(path)
    stem = header.name[: -len(".hdr")]
    found = next((one for one in (header.with_name(stem + suffix) for suffix in _IMG_SUFFIXES) if one.is_file()), None)
    if found is None:
        raise VolumeError("unreadable", f"{name}: is the header of a pair; expected {stem}.img beside it; fetch both")
    return found


def _stream(raw: io.BufferedReader, path: Path, name: str) -> Stream:
    packed = raw.read(2) == _GZIP_MAGIC
    raw.seek(0)
    if not packed and path.name.lower().endswith(".gz"):
        raise VolumeError("unreadable", f"{name}: is not gzip; expected .nii.gz; rename it or fetch it again")
    return gzip.GzipFile(fileobj=raw) if packed else raw


def _check_size(header: NiftiHeader, file_bytes: int, packed: bool) -> None:
    """Check that the file can have the size that its header states, before memory is allocated."""
    if header.expected_bytes > file_bytes * (_DEFLATE_RATIO if packed else 1):
        raise VolumeError(
            "unreadable",
            f"{header.name}: has {file_bytes} bytes; "
            f"expected {header.expected_bytes}{' unpacked' if packed else ''} by its header; fetch it again",
        )


def read_frame(file: NiftiFile, frame: int, limit_bytes: int | None) -> NDArray[Any]:
    """Read one volume: float32, or complex64 of complex data.

    The rest of a gzip stream is read too, since its checksum is at the end.

    Parameters
    ----------
    file
        Result of `open_nifti`.
    frame
        Counted over all axes after the third, the fourth one fastest.
    limit_bytes
        Memory limit, None for no limit.

    Returns
    -------
    values
        In the file's three axes, scaled by slope and intercept.

    Raises
    ------
    VolumeError
        `too_large`; `unreadable` if the file has more data than its header states.
    """
    header, stream = file.header, file.stream
    check_frame(header, limit_bytes)
    size = header.frame_bytes
    stream.seek(header.offset + frame * size)
    content = stream.read(size)
    if len(content) != size:
        raise EOFError(f"{len(content)} of {size} bytes")
    raw = np.frombuffer(content, header.dtype).reshape(header.shape, order="F")
    check_end(header, stream)
    values = np.empty(header.shape, np.complex64 if header.dtype.kind == "c" else np.float32, order="F")
    # plane by plane: the standard scales in double precision, which would double the memory of the volume
    with np.errstate(over="ignore", invalid="ignore"):
        for plane in range(header.shape[2]):
            values[:, :, plane] = scaled(header, raw[:, :, plane])
    refuse_vanished(
        values,
        lambda: max(float(np.abs(scaled(header, raw[:, :, plane])).max()) for plane in range(header.shape[2])),
        header.name,
    )
    return values


def scaled(header: NiftiHeader, raw: NDArray[Any]) -> NDArray[Any]:
    """Return stored values scaled by slope and intercept, in double precision."""
    wide = np.complex128 if header.dtype.kind == "c" else np.float64
    values: NDArray[Any] = raw.astype(wide) * header.slope + header.intercept
    return values


def check_frame(header: NiftiHeader, limit_bytes: int | None) -> None:
    """Check that a volume fits into the memory limit: the bytes of the file and two arrays."""
    size = int(np.prod(header.shape, dtype=np.int64))
    check_limit(size * (header.dtype.itemsize + (16 if header.dtype.kind == "c" else 8)), limit_bytes, header.name)


def sample_planes(file: NiftiFile, num_planes: int = 6) -> NDArray[Any]:
    """Read a few planes from the middle of the first frame, scaled: `(plane, y, x)`, to classify the image."""
    header = file.header
    chosen = sampled(header, num_planes)
    selected = (slice(None), slice(None), chosen, *((0,) if header.num_frames > 1 else ()))
    shape = (*header.shape, header.num_frames) if header.num_frames > 1 else header.shape
    try:
        raw = fileslice(file.stream, selected, shape, header.dtype, header.offset, order="F")
    except ValueError as error:  # raised by nibabel
        raise EOFError(one_line(error)) from error
    with np.errstate(over="ignore", invalid="ignore"):
        return scaled(header, raw.T)


def sampled(header: NiftiHeader, num_planes: int = 6) -> slice:
    """Return which planes along the third axis classify the image: a few in the middle."""
    plane = header.shape[0] * header.shape[1]
    if plane > _LARGEST_PLANE:
        sizes = f"{header.shape[0]} x {header.shape[1]}"
        raise VolumeError("unsupported", f"{header.name}: has planes of {sizes} voxels; expected MR images; check it")
    num_planes = max(1, min(num_planes, _LARGEST_SAMPLE // plane))
    first = max(0, header.shape[2] // 2 - num_planes // 2)
    return slice(first, min(first + num_planes, header.shape[2]))


def check_end(header: NiftiHeader, stream: Stream) -> None:
    """Read to the end, for the checksum of gzip, and check that the file has as many voxels as its header states.

    Otherwise the sizes are wrong, and the values would be read in rows of a wrong length.
    """
    if isinstance(stream, gzip.GzipFile):
        while stream.tell() < header.expected_bytes and stream.read(
            min(_BLOCK_BYTES, header.expected_bytes - stream.tell())
        ):
            pass
    else:
        stream.seek(0, io.SEEK_END)
    if stream.tell() < header.expected_bytes:  # bytes missing anywhere would shift all values after them
        raise EOFError(f"{stream.tell()} of {header.expected_bytes} bytes")
    stream.seek(header.expected_bytes)
    plane = header.shape[0] * header.shape[1] * header.dtype.itemsize
    rest = stream.read(MOST_PADDING)
    if len(rest) == MOST_PADDING or (len(rest) >= plane and any(rest)):
        raise VolumeError(
            "unreadable",
            f"{header.name}: has more than {header.expected_bytes} bytes; "
            "expected the sizes and the type of its header; "
            "they are damaged; convert it again",
        )
