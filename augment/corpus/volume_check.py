"""Check one committed volume: its receipt, the checksum of every object, every chunk and the values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from numpy.typing import NDArray

from rephase.corpus.decoding import ShardError, chunk_crcs, decode_shard
from rephase.corpus.encoding import array_document
from rephase.corpus.expansion import Expander, Scan, kspace_shape
from rephase.corpus.index import index_row
from rephase.corpus.invariants import VolumeValues, check_shapes
from rephase.corpus.layout import (
    ArrayLayout,
    from_json,
    group_document,
    has_axis_names,
    ome_metadata,
    receipt_key,
    volume_prefix,
)
from rephase.corpus.receipt import check_receipt, is_volume_name
from rephase.corpus.storage.base import Storage
from rephase.corpus.store import CorpusStore
from rephase.errors import VolumeError
from rephase.files import sha256
from rephase.text import one_line


@dataclass(frozen=True)
class VolumeCheck:
    """Result of checking one volume.

    Attributes
    ----------
    problems
        Problems of the volume, one line each.
    unexpected
        Keys from the root of the volume's objects that its receipt does not list.
    row
        Row of the index, derived from the receipt; None if the receipt is damaged.
    copied_from
        Name of another volume to which the receipt belongs.
    """

    name: str
    num_slices: int = 0
    num_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    row: dict[str, Any] | None = None
    recipe_hash: str | None = None
    copied_from: str | None = None


def check_volume(store: CorpusStore, name: str) -> VolumeCheck:
    """Check one committed volume. Never raises: every error becomes a line of `problems`."""
    try:
        return _check(store, name)
    except VolumeError as error:
        return VolumeCheck(name, problems=[str(error)])
    except OSError as error:
        return VolumeCheck(name, problems=[f"cannot be read ({error})"])
    except Exception as error:  # a damaged document may contain anything; the other volumes must still be checked
        what = one_line(f"{type(error).__name__}: {error}")
        return VolumeCheck(name, problems=[f"cannot be checked ({what}); its receipt is damaged"])


def _check(store: CorpusStore, name: str) -> VolumeCheck:
    receipt = store.receipt(name)
    if receipt is None:
        return VolumeCheck(name, problems=["the receipt was removed while it was checked"])
    problems = check_receipt(receipt)
    if not is_volume_name(name):
        problems.append("not a valid volume name")
    if not problems and store.storage.get(receipt_key(name)) != group_document(receipt):
        problems.append("the receipt is not in the canonical spelling of format 1")
    if not problems and receipt.get("name", name) != name:
        what = f"its receipt is that of volume {receipt['name']}: it was copied or renamed"
        return VolumeCheck(name, problems=[what], copied_from=receipt["name"])
    if not problems:
        problems = _check_entries(receipt)
    if problems:
        return VolumeCheck(name, problems=problems)
    objects = _VolumeObjects(store, name, receipt)
    problems = _check_arrays(objects, name, receipt)
    row = index_row(name, receipt)
    return VolumeCheck(
        name, receipt["num_slices"], objects.num_bytes, problems, objects.unexpected(), row, receipt["recipe_hash"]
    )


def _check_entries(receipt: Mapping[str, Any]) -> list[str]:
    """Check the part of a receipt that the store writes: its arrays and checksums."""
    entries, checksums = receipt.get("arrays"), receipt.get("checksums")
    if not isinstance(entries, dict) or not isinstance(checksums, dict):
        return ["the receipt lacks arrays or checksums"]
    try:
        shapes = {key: tuple(int(size) for size in entry["shape"]) for key, entry in entries.items()}
    except (KeyError, TypeError, ValueError):
        return ["the receipt's arrays lack their shapes"]
    problems = check_shapes(shapes, receipt)
    target = "reconstruction_rss" if "reconstruction_rss" in entries else "reconstruction_esc"
    if has_axis_names(receipt) and receipt["ome"] != ome_metadata(target, receipt["spacing_mm"]):
        problems.append("attribute ome does not describe the target and spacing_mm of the receipt")
    if problems:
        return problems
    layouts = {key: ArrayLayout.of(key, shape) for key, shape in shapes.items()}
    # counted before they are listed: with a damaged number, the names of all shards might not fit into memory
    promised = sum(1 + math.ceil(layout.num_chunks / layout.chunks_per_shard) for layout in layouts.values())
    if promised > 2 * len(checksums) + 8:
        return ["the receipt lacks checksums of most of its arrays' objects"]
    expected = set()
    for key, layout in layouts.items():
        if entries[key] != layout.entry:
            problems.append(f"the receipt describes {key} as {entries[key]}, which is not format 1")
        expected |= {f"{key}/zarr.json", *(shard for shard, _ in layout.shards())}
    problems += [f"the receipt has no checksum of {key}" for key in sorted(expected - set(checksums))]
    problems += [
        f"the receipt has a checksum of an object that is not format 1: {key}"
        for key in sorted(set(checksums) - expected)
    ]
    return problems


class _VolumeObjects:
    """Reads the objects of a volume and checks each against the receipt."""

    def __init__(self, store: CorpusStore, name: str, receipt: Mapping[str, Any]) -> None:
        self._store = store
        self._prefix = volume_prefix(name) + "/"
        self._checksums: Mapping[str, str] = receipt["checksums"]
        self._crcs: Mapping[str, str] | None = receipt.get("chunk_crc32c")
        self._named = has_axis_names(receipt)
        self.num_bytes = 0
        self.problems: list[str] = []

    @property
    def storage(self) -> Storage:
        """Storage of the corpus."""
        return self._store.storage

    def check_document(self, layout: ArrayLayout, array: str) -> None:
        """Check an array's metadata against the format."""
        data = self._read(f"{array}/zarr.json")
        if data is None:
            return
        try:
            right = from_json(data) == from_json(array_document(layout, self._named))
        except ValueError:
            right = False
        if not right:
            self.problems.append(f"{array}/zarr.json does not describe the array of the receipt in format 1")

    def chunks(self, layout: ArrayLayout) -> Iterator[NDArray[Any] | None]:
        """Decode an array chunk by chunk, with one shard in memory; None for chunks that cannot be decoded."""
        found = ""
        for key, chunks in layout.shards():
            data = self._read(key.removeprefix(self._prefix))
            num_good = 0
            try:
                if data is not None:
                    found += chunk_crcs(data, layout, len(chunks))
                    for chunk in decode_shard(data, layout, len(chunks)):
                        num_good += 1
                        yield chunk
            except ShardError as error:
                self.problems.append(f"{key.removeprefix(self._prefix)}, chunk {num_good}: {error}")
            yield from [None] * (len(chunks) - num_good)
        array = layout.prefix.removeprefix(self._prefix)
        if self._crcs is not None and not self.problems and self._crcs.get(array) != found:
            self.problems.append(f"the receipt's chunk_crc32c of {array} are not those of its chunks")

    def unexpected(self) -> list[str]:
        """List the objects under the volume that its receipt does not list, as keys from the root."""
        known = {self._prefix + key for key in ("zarr.json", *self._checksums)}
        return [key for key in self._store.storage.keys(self._prefix.rstrip("/")) if key not in known]

    def _read(self, key: str) -> bytes | None:
        data = self._store.storage.get(self._prefix + key)
        if data is None:
            self.problems.append(f"{key} is missing")
            return None
        self.num_bytes += len(data)
        if sha256(data) != self._checksums[key]:
            self.problems.append(f"{key} does not match its checksum")
            return None
        return data


def _check_arrays(objects: _VolumeObjects, name: str, receipt: Mapping[str, Any]) -> list[str]:
    shapes = {array: tuple(entry["shape"]) for array, entry in receipt["arrays"].items()}
    layouts = {array: ArrayLayout.of(array, shape, name) for array, shape in shapes.items()}
    for array, layout in layouts.items():
        objects.check_document(layout, array)
    target = "reconstruction_esc" if len(kspace_shape(receipt)) == 3 else "reconstruction_rss"
    values = VolumeValues(receipt, partial(Expander(objects.storage).noise, Scan.of(name, receipt)))
    source = "kspace" if "kspace" in shapes else "image"
    pairs = zip(objects.chunks(layouts[source]), objects.chunks(layouts[target]), strict=True)
    for number, (kspace, image) in enumerate(pairs):
        values.take_chunk(source, number, kspace)
        values.take_chunk(target, number, image)
        values.take_slice(number, kspace, image)
    for array in sorted(set(layouts) - {source, target}):
        for number, chunk in enumerate(objects.chunks(layouts[array])):
            values.take_chunk(array, number, chunk)
    return objects.problems + values.problems()
