"""Read single slices out of a shard: one read for its index, one for the chunk, and every checksum is checked.

This is the decoding half of the format, written without `zarr`: a slice costs a few system calls. A test holds it equal
to plain `zarr`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import google_crc32c
import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from augment.layout import ArrayLayout
from augment.storage import Storage

# Blosc's own threads do not survive a fork, and a context without them is what gives equal bytes.
numcodecs.blosc.use_threads = False

_CRC_BYTES = 4
_MISSING = np.uint64(2**64 - 1)


class ShardError(ValueError):
    """A shard does not hold what format 1 says."""


def _check_crc(data: bytes, what: str) -> bytes:
    if len(data) < _CRC_BYTES:
        raise ShardError(f"{what} is cut off")
    body = data[:-_CRC_BYTES]
    if google_crc32c.value(body) != int.from_bytes(data[-_CRC_BYTES:], "little"):
        raise ShardError(f"the checksum of {what} is wrong")
    return body


def parse_index(tail: bytes, chunks_per_shard: int) -> NDArray[np.uint64]:
    """Read a shard's index, the last bytes of the shard, as (chunk, [offset, length]).

    Raises
    ------
    ShardError
        If it is cut off or its checksum is wrong.
    """
    if len(tail) != index_bytes(chunks_per_shard):
        raise ShardError("the shard index is cut off")
    return np.frombuffer(_check_crc(tail, "the shard index"), dtype="<u8").reshape(chunks_per_shard, 2)


def index_bytes(chunks_per_shard: int) -> int:
    """Give the length of a shard's index: two 64-bit numbers a chunk and a crc32c."""
    return 16 * chunks_per_shard + _CRC_BYTES


def decode_chunk(data: bytes, layout: ArrayLayout) -> NDArray[Any]:
    """Undo crc32c and blosc.

    Raises
    ------
    ShardError
        If the checksum is wrong or the bytes are not one chunk of the layout.
    """
    body = _check_crc(data, "the chunk")
    out = np.empty(layout.chunk_shape, dtype=layout.dtype)
    try:
        raw = numcodecs.blosc.decompress(body)
    except RuntimeError as error:
        raise ShardError(f"the chunk does not decompress ({error})") from None
    if len(raw) != out.nbytes:
        raise ShardError(f"the chunk has {len(raw)} bytes; expected {out.nbytes} for shape {layout.chunk_shape}")
    out.view(np.uint8).reshape(-1)[:] = np.frombuffer(raw, dtype=np.uint8)
    return out[0] if len(layout.shape) > 1 else out


def decode_shard(data: bytes, layout: ArrayLayout, num_chunks: int) -> Iterator[NDArray[Any]]:
    """Decode the chunks of a whole shard in order.

    Raises
    ------
    ShardError
        If a chunk is missing, cut off or fails its checksum, or if the shard holds more than its chunks.
    """
    size = index_bytes(layout.chunks_per_shard)
    index = parse_index(data[-size:], layout.chunks_per_shard)
    if (index[num_chunks:] != _MISSING).any() or (index[:num_chunks] == _MISSING).any():
        raise ShardError(f"the shard index does not list chunks 0 to {num_chunks - 1}")
    if int(index[:num_chunks, 1].sum()) + size != len(data):
        raise ShardError("the shard is longer or shorter than its chunks")
    for offset, length in index[:num_chunks]:
        yield decode_chunk(data[int(offset) : int(offset + length)], layout)


class SliceReader:
    """Reads slices of arrays; keeps the shard indexes it has seen, and no open file, so that it may be forked."""

    def __init__(self, storage: Storage, keep: int = 4096) -> None:
        self._storage = storage
        self._keep = keep
        self._indexes: dict[str, NDArray[np.uint64]] = {}

    def read_slice(self, layout: ArrayLayout, index: int) -> NDArray[Any]:
        """Read one chunk, in the shape of the slice: without the first axis of 1.

        Raises
        ------
        ShardError
            If the shard or the chunk is missing, cut off or fails its checksum.
        """
        key, inner = layout.locate(index)
        try:
            offset, length = self._shard_index(key, layout.chunks_per_shard)[inner]
            if offset == _MISSING:
                raise ShardError(f"{key}: the chunk was never written")
            data = self._storage.get_range(key, int(offset), int(length))
            if len(data) != int(length):
                raise ShardError(f"{key}: the shard is cut off")
            return decode_chunk(data, layout)
        except FileNotFoundError:
            raise ShardError(f"{key}: the shard is missing") from None
        except ShardError as error:
            self._indexes.pop(key, None)
            message = str(error)
            raise ShardError(message if message.startswith(key) else f"{key}: {message}") from None

    def _shard_index(self, key: str, chunks_per_shard: int) -> NDArray[np.uint64]:
        found = self._indexes.get(key)
        if found is None:
            size = index_bytes(chunks_per_shard)
            found = parse_index(self._storage.get_range(key, -size, size), chunks_per_shard)
            while len(self._indexes) >= self._keep:
                self._indexes.pop(next(iter(self._indexes)))
            self._indexes[key] = found
        return found
