"""Check a corpus: every object's checksum, every receipt, every invariant of format 1; nothing else may be there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from augment.errors import RequestError, VolumeError
from augment.index import COLUMNS, INDEX_KEY, index_row, read_index
from augment.invariants import VolumeValues
from augment.layout import (
    DTYPES,
    ArrayLayout,
    from_json,
    group_attributes,
    sha256,
    volume_prefix,
)
from augment.receipts import is_volume_name, receipt_faults
from augment.rules import shape_faults
from augment.shards import ShardError, decode_shard
from augment.store import CorpusStore, array_document

_TOP = ("zarr.json", "index", "volumes")


@dataclass(frozen=True)
class VolumeCheck:
    """What was found in one volume."""

    name: str
    num_slices: int
    num_bytes: int
    faults: list[str]
    row: dict[str, Any] | None
    recipe_hash: str | None = None


@dataclass(frozen=True)
class VerifyResult:
    """What was checked and found.

    Attributes
    ----------
    num_volumes, num_slices, num_bytes
        Committed volumes, their slices, and the bytes read.
    faults
        (volume name, what is wrong), one line each; the name is empty for a fault of the corpus itself.
    unfinished
        Volumes that were begun and not committed: no fault, the next build makes them again.
    other_recipe
        Volumes made by another recipe than the corpus names: sound, but a build that overwrites has left them.
    """

    num_volumes: int
    num_slices: int
    num_bytes: int
    faults: list[tuple[str, str]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    other_recipe: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True where nothing is wrong."""
        return not self.faults


def verify_corpus(
    root: str | os.PathLike[str], workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> VerifyResult:
    """Read everything in a corpus and compare it with receipts, index and format.

    Parameters
    ----------
    root
        Path or URL of the corpus.
    workers
        Threads; each holds one shard at a time. Default: one per core.
    progress
        Called with (volumes done, volumes in all) after every volume.

    Raises
    ------
    RequestError
        If there is no corpus of format 1 to look at.
    """
    store = CorpusStore.open(root)
    names = store.names()
    checks = []
    with ThreadPoolExecutor(max_workers=workers or os.cpu_count()) as pool:
        for check in pool.map(lambda name: verify_volume(store, name), names):
            checks.append(check)
            if progress is not None:
                progress(len(checks), len(names))
    faults = [(check.name, fault) for check in checks for fault in check.faults]
    faults += [("", fault) for fault in _stray_objects(store, names)]
    faults += _index_faults(store, {check.name: check.row for check in checks})
    return VerifyResult(
        num_volumes=len(names),
        num_slices=sum(check.num_slices for check in checks),
        num_bytes=sum(check.num_bytes for check in checks),
        faults=faults,
        unfinished=store.unfinished(),
        other_recipe=[
            check.name for check in checks if check.recipe_hash not in (None, store.attributes.get("recipe_hash"))
        ],
    )


def verify_volume(store: CorpusStore, name: str) -> VolumeCheck:
    """Check one committed volume; whatever is wrong becomes a line in its faults."""
    try:
        receipt = store.receipt(name)
    except VolumeError as error:
        return VolumeCheck(name, 0, 0, [str(error)], None)
    if receipt is None:
        return VolumeCheck(name, 0, 0, ["the receipt went away while it was checked"], None)
    faults = receipt_faults(receipt)
    if not is_volume_name(name):
        faults.append("not a name that a volume may have")
    if not faults:
        faults = _entry_faults(receipt)
    if faults:
        return VolumeCheck(name, 0, 0, faults, None)
    num_bytes, faults = _check_arrays(store, name, receipt)
    row = index_row(name, receipt)
    return VolumeCheck(name, receipt["num_slices"], num_bytes, faults, row, receipt["recipe_hash"])


def _entry_faults(receipt: Mapping[str, Any]) -> list[str]:
    """Check the part of a receipt that the store writes: which arrays and objects there are."""
    entries, checksums = receipt.get("arrays"), receipt.get("checksums")
    if not isinstance(entries, dict) or not isinstance(checksums, dict):
        return ["the receipt lacks arrays or checksums"]
    try:
        shapes = {key: tuple(int(size) for size in entry["shape"]) for key, entry in entries.items()}
    except (KeyError, TypeError, ValueError):
        return ["the receipt's arrays lack their shapes"]
    faults = shape_faults(shapes, receipt)
    if faults:
        return faults
    expected = set()
    for key, shape in shapes.items():
        layout = ArrayLayout.of(key, shape)
        if entries[key] != {"shape": list(shape), "dtype": DTYPES[key], "chunks_per_shard": layout.chunks_per_shard}:
            faults.append(f"the receipt describes {key} as {entries[key]}, which is not format 1")
        expected |= {f"{key}/zarr.json", *(shard for shard, _ in layout.shards())}
    faults += [f"the receipt has no checksum of {key}" for key in sorted(expected - set(checksums))]
    faults += [
        f"the receipt has a checksum of an object that is not format 1: {key}" for key in set(checksums) - expected
    ]
    return faults


class _VolumeObjects:
    """Reads a volume's objects, checks each against the receipt, and notes what is wrong."""

    def __init__(self, store: CorpusStore, name: str, receipt: Mapping[str, Any]) -> None:
        self._store = store
        self._prefix = volume_prefix(name) + "/"
        self._checksums: Mapping[str, str] = receipt["checksums"]
        self.num_bytes = 0
        self.faults: list[str] = []

    def check_document(self, layout: ArrayLayout, array: str) -> None:
        """Check an array's metadata against the format."""
        data = self._read(f"{array}/zarr.json")
        if data is None:
            return
        try:
            right = from_json(data) == from_json(array_document(layout))
        except ValueError:
            right = False
        if not right:
            self.faults.append(f"{array}/zarr.json does not describe the array of the receipt in format 1")

    def chunks(self, layout: ArrayLayout) -> Iterator[NDArray[Any] | None]:
        """Decode an array chunk by chunk, one shard in memory at a time; None for chunks that cannot be had."""
        for key, chunks in layout.shards():
            data = self._read(key.removeprefix(self._prefix))
            num_good = 0
            try:
                if data is not None:
                    for chunk in decode_shard(data, layout, len(chunks)):
                        num_good += 1
                        yield chunk
            except ShardError as error:
                self.faults.append(f"{key.removeprefix(self._prefix)}, chunk {num_good}: {error}")
            yield from [None] * (len(chunks) - num_good)

    def find_strangers(self) -> None:
        """Note objects under the volume that its receipt does not list."""
        known = {"zarr.json", *self._checksums}
        present = [key.removeprefix(self._prefix) for key in self._store.storage.keys(self._prefix.rstrip("/"))]
        self.faults += [f"{key} is not in the receipt" for key in present if key not in known]

    def _read(self, key: str) -> bytes | None:
        data = self._store.storage.get(self._prefix + key)
        if data is None:
            self.faults.append(f"{key} is missing")
            return None
        self.num_bytes += len(data)
        if sha256(data) != self._checksums[key]:
            self.faults.append(f"{key} is not what its checksum says")
            return None
        return data


def _check_arrays(store: CorpusStore, name: str, receipt: Mapping[str, Any]) -> tuple[int, list[str]]:
    objects = _VolumeObjects(store, name, receipt)
    shapes = {array: tuple(entry["shape"]) for array, entry in receipt["arrays"].items()}
    layouts = {array: ArrayLayout.of(array, shape, name) for array, shape in shapes.items()}
    for array, layout in layouts.items():
        objects.check_document(layout, array)
    objects.find_strangers()
    target = "reconstruction_esc" if len(shapes["kspace"]) == 3 else "reconstruction_rss"
    values = VolumeValues(receipt)
    pairs = zip(objects.chunks(layouts["kspace"]), objects.chunks(layouts[target]), strict=True)
    for number, (kspace, image) in enumerate(pairs):
        values.take_chunk("kspace", number, kspace)
        values.take_chunk(target, number, image)
        values.take_slice(number, kspace, image)
    for array in sorted(set(layouts) - {"kspace", target}):
        for number, chunk in enumerate(objects.chunks(layouts[array])):
            values.take_chunk(array, number, chunk)
    return objects.num_bytes, objects.faults + values.faults()


def _stray_objects(store: CorpusStore, names: list[str]) -> list[str]:
    """List what lies in the corpus outside its volumes and does not belong there."""
    storage = store.storage
    faults = [f"{name} is not part of the corpus" for name in storage.children("") if name not in _TOP]
    faults += [f"{key} is not part of the corpus" for key in storage.keys("index") if key != INDEX_KEY]
    committed = set(names)
    for name in storage.children("volumes"):
        if name in committed or name == "zarr.json":
            continue
        if not is_volume_name(name) or storage.exists(f"volumes/{name}"):
            faults.append(f"volumes/{name} is not part of the corpus")
    try:
        group_attributes(storage.get("volumes/zarr.json"), "volumes/zarr.json")
    except ValueError as error:
        faults.append(str(error))
    return faults


def _index_faults(store: CorpusStore, rows: Mapping[str, dict[str, Any] | None]) -> list[tuple[str, str]]:
    """Compare the index with what the receipts say; volumes with faults of their own count as present."""
    try:
        index = read_index(store.root)
    except RequestError as error:
        return [("", str(error))]
    faults = [(name, "committed, but not in the index") for name in sorted(set(rows) - set(index.names))]
    seen: set[str] = set()
    for row in index.rows():
        name = row["name"]
        if name in seen:
            faults.append((name, "twice in the index"))
        seen.add(name)
        if name not in rows:
            faults.append((name, "in the index, but not committed"))
            continue
        expected = rows[name]
        if expected is not None:
            wrong = [column for column in COLUMNS if row[column] != expected[column]]
            faults += [(name, f"the index says {key} is {row[key]!r}; expected {expected[key]!r}") for key in wrong]
    return faults
