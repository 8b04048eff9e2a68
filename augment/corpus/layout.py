"""Keys, shapes, shards and metadata documents of format 1, which augment/FORMAT.md specifies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.storage.base import Storage
from rephase.errors import RequestError, unreadable
from rephase.files import sha256

FORMAT = 1
MAX_SHARD_BYTES = 512 * 2**20
MAGNITUDE_TOLERANCE = 1e-5
"""Largest difference between the stored magnitude and that of the k-space's image, relative to the maximum."""

CONVENTIONS = {
    "axes": "(slice, [coil,] height, width); height is readout, width is phase encoding",
    "fft": "kspace = fftshift(fft2(ifftshift(image), norm='ortho')) over the last two axes",
    "scale": "stored = input / scale, scale a power of two; max and norm are in stored units",
    "orientation": "patient direction (LPS letters) in which the slice, height and width indices grow",
    "zero": "zeros are +0.0; every value is finite; the fill value NaN means a missing chunk",
}

DTYPES = {
    "kspace": "complex64",
    "image": "complex64",
    "coil_coefficients": "complex64",
    "noise_covariance": "complex64",
    "noise_scan": "complex64",
    "reconstruction_esc": "float32",
    "reconstruction_rss": "float32",
    "sens_maps": "complex64",
    "segmentation": "uint8",
    "mask": "float32",
}
"""Every array that a volume may have."""

_AXES = {
    "kspace": ("slice", "k_height", "k_width"),
    "coil_coefficients": ("coil", "order_slice", "order_height", "order_width"),
    "noise_covariance": ("coil", "other_coil"),
    "noise_scan": ("coil", "sample"),
    "sens_maps": ("slice", "encoded_height", "encoded_width"),
    "mask": ("k_width",),
}
_IMAGE_AXES = ("slice", "height", "width")


def axes_of(name: str, num_axes: int) -> tuple[str, ...]:
    """Return the names of an array's axes. Axes of one name have equal lengths in a volume."""
    axes = _AXES.get(name, _IMAGE_AXES)
    return axes if len(axes) == num_axes else (axes[0], "coil", *axes[1:])


def has_axis_names(attributes: Mapping[str, Any]) -> bool:
    """Check by the attributes of a receipt whether the arrays name their axes; those of earlier versions do not."""
    return "ome" in attributes


def ome_metadata(target: str, spacing_mm: Sequence[float]) -> dict[str, Any]:
    """Return the metadata by which viewers open the target array of a volume: OME-NGFF 0.5, one resolution."""
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in _IMAGE_AXES]
    scale = {"type": "scale", "scale": [float(step) for step in spacing_mm]}
    datasets = [{"path": target, "coordinateTransformations": [scale]}]
    return {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def volume_prefix(name: str) -> str:
    """Return the key of a volume's group."""
    return f"volumes/{name}"


def receipt_key(name: str) -> str:
    """Return the key of a volume's receipt. The volume exists if and only if this object exists."""
    return f"volumes/{name}/zarr.json"


def to_json(document: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """Serialise a document in the canonical JSON of the format: equal documents yield equal bytes.

    Raises
    ------
    ValueError
        If a number is not finite.
    TypeError
        If a value is not JSON, such as a NumPy number or a path.
    """
    text = json.dumps(document, indent=indent, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text.encode() + b"\n"


def from_json(document: bytes) -> dict[str, Any]:
    """Parse a JSON object; raise ValueError for anything else."""
    try:
        if b"\\ud" in document or b"\\uD" in document:  # a lone surrogate cannot be encoded again
            raise ValueError("characters beyond the first 65,536 are escaped")
        parsed = json.loads(document, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"expected a JSON object, got {type(parsed).__name__}")
    return parsed


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number")


def plain_json(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as read back from JSON, with lists for tuples; raise as `to_json` does."""
    return from_json(to_json(attributes))


def group_document(attributes: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """Return the `zarr.json` of a group with these attributes."""
    return to_json({"attributes": attributes, "node_type": "group", "zarr_format": 3}, indent)


def group_attributes(document: bytes | None, where: str) -> dict[str, Any]:
    """Read the attributes of a group's `zarr.json`.

    Raises
    ------
    ValueError
        If it is not such a document; the message names `where`.
    """
    try:
        parsed = from_json(document or b"")
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error}); expected the metadata of a Zarr v3 group") from None
    attributes = parsed.get("attributes")
    if not isinstance(attributes, dict) or parsed.get("node_type") != "group" or parsed.get("zarr_format") != 3:
        raise ValueError(f"{where}: not the metadata of a Zarr v3 group")
    return attributes


def open_attributes(storage: Storage) -> dict[str, Any]:
    """Read the attributes of a corpus.

    Raises
    ------
    RequestError
        If there is no corpus, or one of another format.
    """
    try:
        document = storage.get("zarr.json")
    except OSError as error:
        raise unreadable(storage.root, error) from None
    if document is None:
        raise RequestError(f"{storage.root}: no corpus here (no zarr.json); build one with 'rephase build'")
    return parse_attributes(storage, document)


def parse_attributes(storage: Storage, document: bytes) -> dict[str, Any]:
    """Parse the root document of a corpus; RequestError if it is damaged or of another format."""
    try:
        attributes = group_attributes(document, f"{storage.root}/zarr.json")
    except ValueError as error:
        raise RequestError(str(error)) from None
    if attributes.get("format") != FORMAT:
        found = attributes.get("format", "none")
        raise RequestError(f"{storage.root}: format is {found}; this version reads format {FORMAT}")
    return attributes


def committed_names(storage: Storage) -> list[str]:
    """List the committed volumes, sorted."""
    return storage.children_with("volumes", "zarr.json")


def unfinished_names(storage: Storage) -> list[str]:
    """List the volumes that were started and not committed, sorted."""
    lone = sorted(set(storage.children("volumes")) - set(committed_names(storage)))
    return [name for name in lone if not storage.exists(f"volumes/{name}")]


@dataclass(frozen=True)
class ArrayLayout:
    """The chunks and shards of one array.

    Attributes
    ----------
    prefix
        Key of the array from the root of the corpus, or its name alone for keys inside the volume.
    shape
        Shape of the entire array.
    dtype
        `"complex64"`, `"float32"` or `"uint8"`.
    chunks_per_shard
        Slices per shard; the last shard may have fewer.
    """

    prefix: str
    shape: tuple[int, ...]
    dtype: str
    chunks_per_shard: int

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], volume: str | None = None) -> ArrayLayout:
        """Return the layout of an array in format 1; with `volume`, keys start at the root of the corpus."""
        prefix = name if volume is None else f"{volume_prefix(volume)}/{name}"
        return cls(prefix, shape, DTYPES[name], chunks_per_shard(name, shape))

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk: one slice with its coils; the entire array if it has one axis (a sampling mask)."""
        return (1, *self.shape[1:]) if len(self.shape) > 1 else self.shape

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk before compression."""
        return math.prod(self.chunk_shape) * np.dtype(self.dtype).itemsize

    @property
    def entry(self) -> dict[str, Any]:
        """Description of the array in a receipt."""
        return {"shape": list(self.shape), "dtype": self.dtype, "chunks_per_shard": self.chunks_per_shard}

    @property
    def compression_level(self) -> int:
        """Blosc's compression level: 0 (uncompressed) for complex multi-coil arrays, else 5.

        Such an array is mostly noise: compression would save a tenth of the disk, and decompressing takes longer than
        reading.
        """
        return 0 if self.dtype == "complex64" and len(self.shape) >= 4 else 5

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Shape of one shard."""
        return (self.chunk_shape[0] * self.chunks_per_shard, *self.shape[1:])

    @property
    def num_chunks(self) -> int:
        """Number of chunks of the entire array."""
        return self.shape[0] if len(self.shape) > 1 else 1

    def locate(self, index: int) -> tuple[str, int]:
        """Return the key of the shard that contains a chunk, and the index of the chunk in it."""
        shard, inner = divmod(index, self.chunks_per_shard)
        return f"{self.prefix}/c.{shard}{'.0' * (len(self.shape) - 1)}", inner

    def shards(self) -> list[tuple[str, range]]:
        """Return the key of every shard and the numbers of its chunks."""
        starts = range(0, self.num_chunks, self.chunks_per_shard)
        return [(self.locate(i)[0], range(i, min(i + self.chunks_per_shard, self.num_chunks))) for i in starts]


def chunks_per_shard(name: str, shape: tuple[int, ...]) -> int:
    """Return the chunks per shard: all, or equal parts of at most 512 MiB before compression."""
    if len(shape) == 1:
        return 1
    slice_bytes = math.prod(shape[1:]) * np.dtype(DTYPES[name]).itemsize
    most = max(MAX_SHARD_BYTES // slice_bytes, 1)
    num_shards = -(-shape[0] // most)
    return -(-shape[0] // num_shards)


def positive_zeros(array: NDArray[Any]) -> NDArray[Any]:
    """Copy an array with every -0.0, real or imaginary, as +0.0: the sign of a zero reveals what was masked."""
    values = np.ascontiguousarray(array)
    if values.dtype.kind not in "fc":
        return values.copy()
    parts = values.view(values.real.dtype)
    cleaned: NDArray[Any] = (parts + parts.dtype.type(0)).view(values.dtype).reshape(values.shape)
    return cleaned


def corpus_attributes(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a corpus that is built by a recipe, given as JSON."""
    return {
        "recipe": dict(recipe),
        "recipe_hash": canonical_hash(recipe),
        "checkpoint_hash": recipe.get("checkpoint_sha256"),
        "seed": recipe.get("seed"),
    }


def canonical_hash(document: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON document with sorted keys, without spaces, in ASCII."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return sha256(text.encode("ascii"))
