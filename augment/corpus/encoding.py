"""Encode arrays in memory with `zarr`, as shards and metadata documents.

`rephase.corpus.decoding` decodes them. Equal values produce equal bytes, so that the checksums of a volume are
known before it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from rephase.corpus.decoding import ShardError, chunk_crcs, decode_shard
from rephase.corpus.layout import ArrayLayout, axes_of, from_json, has_axis_names, to_json
from rephase.files import sha256


def array_document(layout: ArrayLayout, named: bool) -> bytes:
    """Return the `zarr.json` of an array, as `zarr` writes it, with or without the names of its axes."""
    buffers: dict[str, Buffer] = {}
    name = layout.prefix.rsplit("/", 1)[-1]
    _create_array(layout, buffers, axes_of(name, len(layout.shape)) if named else None)
    return to_json(from_json(buffers["zarr.json"].to_bytes()))


def encode_array(layout: ArrayLayout, values: NDArray[Any]) -> Iterator[tuple[str, range, bytes]]:
    """Encode an array shard by shard.

    Yields
    ------
    key, chunks, data
        The shard's key, the numbers of its chunks, and its bytes.
    """
    buffers: dict[str, Buffer] = {}
    array = _create_array(layout, buffers)
    for key, chunks in layout.shards():
        part = slice(chunks.start, chunks.stop) if len(layout.shape) > 1 else slice(None)
        array[part] = values[part]  # one assignment per shard: a partial one would rewrite it
        yield key, chunks, buffers.pop(key.rsplit("/", 1)[-1]).to_bytes()


class StoredFacts:
    """What the store adds to a receipt, collected object by object: `rephase.corpus.receipt.STORE_KEYS`."""

    def __init__(self) -> None:
        self._arrays: dict[str, dict[str, Any]] = {}
        self._checksums: dict[str, str] = {}
        self._crcs: dict[str, str] = {}

    def add_document(self, array: str, layout: ArrayLayout, document: bytes) -> None:
        """Add an array and its `zarr.json`."""
        self._arrays[array] = layout.entry
        self._checksums[f"{array}/zarr.json"] = sha256(document)

    def add_shard(self, array: str, key: str, layout: ArrayLayout, num_chunks: int, data: bytes) -> None:
        """Add the next shard of an array."""
        self._checksums[f"{array}/{key.rsplit('/', 1)[-1]}"] = sha256(data)
        self._crcs[array] = self._crcs.get(array, "") + chunk_crcs(data, layout, num_chunks)

    def of_receipt(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the facts for a receipt with these attributes; one of earlier versions has no `name`."""
        facts: dict[str, Any] = {"arrays": self._arrays, "checksums": self._checksums}
        return facts | ({"chunk_crc32c": self._crcs} if "name" in attributes else {})


def stored_facts(arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Compute what a commit of these arrays would add to a receipt, without writing anything."""
    facts = StoredFacts()
    for array in sorted(arrays):
        layout = ArrayLayout.of(array, arrays[array].shape)
        facts.add_document(array, layout, array_document(layout, has_axis_names(attributes)))
        for key, chunks, data in encode_array(layout, arrays[array]):
            facts.add_shard(array, key, layout, len(chunks), data)
    return facts.of_receipt(attributes)


def check_encoded(data: bytes, layout: ArrayLayout, values: NDArray[Any]) -> None:
    """Decode a shard and compare it bit by bit with the values `(chunk, ...)` that it was encoded from.

    Raises
    ------
    ShardError
        If it does not decode, or to other values.
    """
    decoded = decode_shard(data, layout, len(values))
    if not all(_same_bits(part, value) for part, value in zip(decoded, values, strict=True)):
        raise ShardError("decoding the shard does not return the encoded values")


def _same_bits(left: NDArray[Any], right: NDArray[Any]) -> bool:
    return np.array_equal(np.ascontiguousarray(left).view(np.uint8), np.ascontiguousarray(right).view(np.uint8))


def _create_array(
    layout: ArrayLayout, buffers: dict[str, Buffer], axes: tuple[str, ...] | None = None
) -> zarr.Array[Any]:
    dtype = np.dtype(layout.dtype)
    typesize = 1 if dtype.kind == "u" else 4  # shuffle the real and imaginary parts, not their pairs
    level = layout.compression_level
    compressors = (BloscCodec(cname="lz4", clevel=level, shuffle="bitshuffle", typesize=typesize), Crc32cCodec())
    return zarr.create_array(
        MemoryStore(buffers),
        shape=layout.shape,
        dtype=dtype,
        chunks=layout.chunk_shape,
        shards=layout.shard_shape,
        compressors=compressors,
        fill_value=0 if dtype.kind == "u" else dtype.type(np.nan),
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
        dimension_names=axes,
        zarr_format=3,
    )
