"""Read single slices of a shard: one read for its index, one for the chunk; every checksum is checked.

Decoding without `zarr`, so that reading a slice takes only a few system calls. A test compares it with plain
`zarr`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any, TypeAlias

import google_crc32c
import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from rephase.corpus.layout import ArrayLayout
from rephase.corpus.storage.base import Storage
from rephase.errors import RephaseError
from rephase.files import open_file

# Blosc's own threads do not survive a fork; without them, equal values produce equal bytes.
numcodecs.blosc.use_threads = False

_CRC_BYTES = 4
_BLOSC_HEADER = 16
_BLOSC_MEMCPYED = 0x2
_MISSING = np.uint64(2**64 - 1)
_INDEXES_BYTES = 2**20

Bytes: TypeAlias = bytes | NDArray[np.uint8]
"""Data of a chunk or an index: bytes, or a reused buffer."""

_kept = threading.local()


class ShardError(RephaseError):
    """A shard violates format 1."""


def _check_crc(data: Bytes, what: str, expected: int | None = None) -> NDArray[np.uint8]:
    if len(data) < _CRC_BYTES:
        raise ShardError(f"{what} is truncated")
    values = np.frombuffer(data, np.uint8)  # a view: slices of bytes would be copies
    body = values[:-_CRC_BYTES]
    stored = int.from_bytes(values[-_CRC_BYTES:].tobytes(), "little")
    if google_crc32c.value(body) != stored:
        raise ShardError(f"the checksum of {what} is wrong")
    _check_bound(stored, expected)
    return body


def _check_bound(stored: int, expected: int | None) -> None:
    """Compare a chunk's checksum with the one that the receipt records: a chunk may be sound, but another volume's."""
    if expected is not None and stored != expected:
        raise ShardError("the chunk is not the one that the volume's receipt names")


def parse_index(tail: bytes, layout: ArrayLayout) -> NDArray[np.uint64]:
    """Decode a shard's index, the last bytes of the shard, as (chunk, [offset, length]).

    Raises
    ------
    ShardError
        If it is truncated, its checksum is wrong, or it does not list chunks in order, without gaps, each at most as
        long as the uncompressed one.
    """
    if len(tail) != index_bytes(layout.chunks_per_shard):
        raise ShardError("the shard index is truncated")
    index = np.frombuffer(_check_crc(tail, "the shard index"), dtype="<u8").reshape(layout.chunks_per_shard, 2)
    missing = (index == _MISSING).all(axis=1)
    lengths = np.where(missing, np.uint64(0), index[:, 1])
    # lengths first: the sums of others might exceed 64 bits
    if (lengths > _plain_bytes(layout)).any() or not (missing | (index[:, 0] == np.cumsum(lengths) - lengths)).all():
        raise ShardError("the shard index is damaged: its chunks do not follow one another")
    return index


def index_bytes(chunks_per_shard: int) -> int:
    """Return the length of a shard's index: two 64-bit numbers per chunk and a crc32c."""
    return 16 * chunks_per_shard + _CRC_BYTES


def chunk_crcs(data: bytes, layout: ArrayLayout, num_chunks: int) -> str:
    """Return the crc32c of every chunk of a shard as it is stored at the chunk's end, eight hexadecimal digits each.

    Raises
    ------
    ShardError
        If the shard's index is damaged or does not list these chunks.
    """
    stops = _shard_index(data, layout, num_chunks).sum(axis=1).tolist()
    return b"".join(data[stop - _CRC_BYTES : stop] for stop in stops).hex()


def decode_chunk(data: Bytes, layout: ArrayLayout, crc: int | None = None) -> NDArray[Any]:
    """Check the crc32c of a chunk, also against `crc` if given, and decompress it.

    Raises
    ------
    ShardError
        If the checksum is wrong or the bytes are not one chunk of the layout.
    """
    body = _check_crc(data, "the chunk", crc)
    found, expected = _decoded_bytes(body), layout.chunk_bytes
    if found != expected:  # before anything of that size is allocated
        raise ShardError(f"the chunk has {found} bytes; expected {expected} for shape {layout.chunk_shape}")
    out = np.empty(layout.chunk_shape, dtype=layout.dtype)
    try:
        numcodecs.blosc.decompress(body, out)
    except (RuntimeError, ValueError) as error:
        raise ShardError(f"the chunk does not decompress ({error})") from None
    return out[0] if len(layout.shape) > 1 else out


def _decoded_bytes(body: NDArray[np.uint8]) -> int:
    """Return the length after decompression from blosc's header, which must state the length of the frame, too."""
    if len(body) < _BLOSC_HEADER or int.from_bytes(body[12:16].tobytes(), "little") != len(body):
        raise ShardError("the chunk does not decompress (not one blosc frame)")
    return int.from_bytes(body[4:8].tobytes(), "little")


def decode_shard(data: bytes, layout: ArrayLayout, num_chunks: int) -> Iterator[NDArray[Any]]:
    """Decode all chunks of a shard in order.

    Raises
    ------
    ShardError
        If a chunk is missing, truncated or fails its checksum, or if the shard contains anything besides its chunks.
    """
    for offset, length in _shard_index(data, layout, num_chunks).tolist():
        yield decode_chunk(data[offset : offset + length], layout)


def _shard_index(data: bytes, layout: ArrayLayout, num_chunks: int) -> NDArray[np.uint64]:
    """Return offset and length of every chunk of a shard that contains nothing besides these chunks."""
    size = index_bytes(layout.chunks_per_shard)
    index = parse_index(data[-size:], layout)
    if (index[num_chunks:] != _MISSING).any() or (index[:num_chunks] == _MISSING).any():
        raise ShardError(f"the shard index does not list chunks 0 to {num_chunks - 1}")
    if int(index[:num_chunks, 1].sum()) + size != len(data):
        raise ShardError("the shard is longer or shorter than its chunks")
    return index[:num_chunks]


def fetch(storage: Storage, key: str, start: int, length: int) -> Bytes:
    """Read a part of an object; on a local disk into a buffer of this thread, valid until its next call.

    A new buffer of some megabytes costs as much as reading into it, since its pages must be allocated first.

    Raises
    ------
    FileNotFoundError
        If the object does not exist.
    """
    if not storage.is_local:
        return storage.get_range(key, start, length)
    buffer: NDArray[np.uint8] | None = getattr(_kept, "buffer", None)
    if buffer is None or len(buffer) < length:
        _kept.buffer = buffer = np.empty(length, np.uint8)
    descriptor = open_file(f"{storage.root}/{key}")
    try:
        count = 0
        while count < length:  # one call reads at most 2 GiB
            got = os.preadv(descriptor, [buffer[count:length].data], start + count)
            if not got:
                break
            count += got
        return buffer[:count]
    finally:
        os.close(descriptor)


def read_plain(
    storage: Storage, key: str, start: int, layout: ArrayLayout, crc: int | None = None
) -> NDArray[Any] | None:
    """Read a chunk that blosc stored uncompressed directly into a new array, and check its crc32c as `decode_chunk`.

    Returns None for any other chunk and for a truncated one; `decode_chunk` then reports the error.

    Raises
    ------
    ShardError
        If its checksum is wrong.
    """
    out = np.empty(layout.chunk_shape, dtype=layout.dtype)
    header, values, tail = np.empty(_BLOSC_HEADER, np.uint8), out.reshape(-1).view(np.uint8), np.empty(4, np.uint8)
    descriptor = open_file(f"{storage.root}/{key}")
    try:
        got = os.preadv(descriptor, [part.data for part in (header, values, tail)], start)
    finally:
        os.close(descriptor)
    if got != _plain_bytes(layout) or not header[2] & _BLOSC_MEMCPYED:
        return None
    stored = int.from_bytes(tail.tobytes(), "little")
    if google_crc32c.extend(google_crc32c.value(header), values) != stored:
        raise ShardError("the checksum of the chunk is wrong")
    _check_bound(stored, crc)
    if int.from_bytes(header[4:8].tobytes(), "little") != out.nbytes:
        return None
    return out[0] if len(layout.shape) > 1 else out


def _plain_bytes(layout: ArrayLayout) -> int:
    """Return the length of a chunk that was stored uncompressed, with blosc's header and the crc32c; none is longer."""
    return _BLOSC_HEADER + layout.chunk_bytes + _CRC_BYTES


class SliceReader:
    """Reads slices of arrays. It caches shard indexes and keeps no file open, so it may be forked.

    Parameters
    ----------
    storage
        Storage of the corpus, or of the volume.
    keep
        Maximum number of cached shard indexes, which are also limited to 1 MiB together.
    """

    def __init__(self, storage: Storage, keep: int = 4096) -> None:
        self._storage = storage
        self._keep = keep
        self._bytes = 0
        self._indexes: dict[str, NDArray[np.uint64]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"storage": self._storage, "keep": self._keep}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read_slice(self, layout: ArrayLayout, index: int, crc: int | None = None) -> NDArray[Any]:
        """Read one chunk in the shape of the slice, without the first axis of 1. Thread-safe.

        Parameters
        ----------
        layout, index
            The array, and the number of the chunk.
        crc
            Checksum of the chunk in the volume's receipt, see `rephase.corpus.receipt.chunk_crc`; None if unknown.

        Raises
        ------
        ShardError
            If the shard or the chunk is missing, truncated, fails its checksum, or is not the receipt's.
        """
        key, inner = layout.locate(index)
        try:
            offset, length = self._shard_index(key, layout)[inner]
            if offset == _MISSING:
                raise ShardError(f"{key}: the chunk was never written")
            if int(length) == _plain_bytes(layout) and self._storage.is_local:
                plain = read_plain(self._storage, key, int(offset), layout, crc)
                if plain is not None:
                    return plain
            data = fetch(self._storage, key, int(offset), int(length))
            if len(data) != int(length):
                raise ShardError(f"{key}: the shard is truncated")
            return decode_chunk(data, layout, crc)
        except FileNotFoundError:
            raise ShardError(f"{key}: the shard is missing") from None
        except (MemoryError, OverflowError) as error:  # sizes that no machine has
            raise ShardError(f"{key}: a slice of shape {layout.chunk_shape} does not fit into memory") from error
        except ShardError as error:
            self._forget(key)
            message = str(error)
            raise ShardError(message if message.startswith(key) else f"{key}: {message}") from None

    def _shard_index(self, key: str, layout: ArrayLayout) -> NDArray[np.uint64]:
        found = self._indexes.get(key)
        if found is None:
            size = index_bytes(layout.chunks_per_shard)
            found = parse_index(self._storage.get_range(key, -size, size), layout)
            self._remember(key, found)
        return found

    def _remember(self, key: str, found: NDArray[np.uint64]) -> None:
        with self._lock:
            self._bytes += found.nbytes - (self._indexes[key].nbytes if key in self._indexes else 0)
            self._indexes[key] = found
            while len(self._indexes) > max(self._keep, 1) or (self._bytes > _INDEXES_BYTES and len(self._indexes) > 1):
                self._bytes -= self._indexes.pop(next(iter(self._indexes))).nbytes

    def _forget(self, key: str) -> None:
        with self._lock:
            found = self._indexes.pop(key, None)
            self._bytes -= 0 if found is None else found.nbytes
