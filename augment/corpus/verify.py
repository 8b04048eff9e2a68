"""Check a corpus: every object's checksum, every receipt, every invariant of format 1; nothing else may be there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rephase.corpus.index import COLUMNS, INDEX_KEY, CorpusIndex, index_document, read_index
from rephase.corpus.layout import CONVENTIONS, corpus_attributes, group_attributes, group_document
from rephase.corpus.receipt import is_volume_name
from rephase.corpus.store import CorpusStore
from rephase.corpus.volume_check import VolumeCheck, check_volume
from rephase.diffusion.training.prefetch import in_order
from rephase.errors import RequestError

ROOT_KEY, VOLUMES_KEY = "zarr.json", "volumes/zarr.json"
_TOP = ("zarr.json", "index", "volumes")
_AHEAD = 4
"""Volumes handed to the threads ahead of the answer that is awaited, per thread."""
_SHOWN = 50


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
    damaged
        Of `faults`, the volumes that are to be made again: something of theirs is wrong or gone, or the index and the
        receipt contradict each other.
    documents
        Keys of the corpus's own documents that are to be written again.
    strays
        Keys of what lies in the corpus and belongs to nothing in it.
    """

    num_volumes: int
    num_slices: int
    num_bytes: int
    faults: list[tuple[str, str]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    other_recipe: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True where nothing is wrong."""
        return not self.faults


def fault_lines(faults: Sequence[tuple[str, str]]) -> list[str]:
    """Say the first faults, a line each, and how many more there are."""
    lines = [f"{name or 'corpus'}: {what}" for name, what in faults[:_SHOWN]]
    if len(faults) > _SHOWN:
        lines.append(f"and {len(faults) - _SHOWN} more faults, all of them with --json")
    return lines


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
    return verify_store(CorpusStore.open(root), workers, progress)


def verify_store(
    store: CorpusStore, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> VerifyResult:
    """Check an open corpus; as `verify_corpus`."""
    names = store.names()
    checks: dict[str, VolumeCheck] = {}
    threads = workers or os.cpu_count() or 1
    for check in in_order(partial(check_volume, store), names, threads, _AHEAD * threads, "verify"):
        checks[check.name] = check
        if progress is not None:
            progress(len(checks), len(names))
    found = _Findings()
    for name, check in checks.items():
        found.faults += [(name, fault) for fault in check.faults]
        found.damaged |= {name: None} if check.faults else {}
        found.add_strays(check.strays, name)
    found.add_strays(_stray_keys(store, checks))
    for key, fault in _document_faults(store):
        found.add_document(key, fault)
    _compare_index(store, {name: check.row for name, check in checks.items()}, found)
    recipe_hash = store.attributes.get("recipe_hash")
    return VerifyResult(
        num_volumes=len(names),
        num_slices=sum(check.num_slices for check in checks.values()),
        num_bytes=sum(check.num_bytes for check in checks.values()),
        faults=found.faults,
        unfinished=store.unfinished(),
        other_recipe=[name for name, check in checks.items() if check.recipe_hash not in (None, recipe_hash)],
        damaged=sorted(found.damaged),
        documents=list(found.documents),
        strays=found.strays,
    )


class _Findings:
    """Collects what is wrong while a corpus is looked at."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []
        self.damaged: dict[str, None] = {}
        self.documents: dict[str, None] = {}
        self.strays: list[str] = []

    def add_document(self, key: str, fault: str, name: str = "") -> None:
        self.faults.append((name, fault))
        self.documents[key] = None

    def add_strays(self, keys: list[str], name: str = "") -> None:
        self.strays += keys
        start = len(f"volumes/{name}/") if name else 0
        what = "is not in the receipt" if name else "is not part of the corpus"
        self.faults += [(name, f"{key[start:]} {what}") for key in keys]


def _stray_keys(store: CorpusStore, committed: Mapping[str, object]) -> list[str]:
    """List what lies in the corpus outside its volumes and does not belong there."""
    storage = store.storage
    keys = [name for name in storage.children("") if name not in _TOP]
    keys += [key for key in storage.keys("index") if key != INDEX_KEY]
    for name in storage.children("volumes"):
        if name in committed or name == "zarr.json":
            continue
        if not is_volume_name(name) or storage.exists(f"volumes/{name}"):
            keys.append(f"volumes/{name}")
    return keys


def _document_faults(store: CorpusStore) -> list[tuple[str, str]]:
    """Check the corpus's own documents but for the index: (key, what is wrong)."""
    attributes = store.attributes
    faults = [(ROOT_KEY, f"{ROOT_KEY}: {fault}") for fault in root_faults(attributes)]
    expected = {ROOT_KEY: group_document(attributes), VOLUMES_KEY: group_document({})}
    for key, document in expected.items():
        found = store.storage.get(key)
        if found != document and key not in dict(faults):
            try:
                group_attributes(found, key)
                faults.append((key, f"{key}: is not spelled as format 1 spells it"))
            except ValueError as error:
                faults.append((key, str(error)))
    return faults


def root_faults(attributes: Mapping[str, Any]) -> list[str]:
    """List where the attributes of a corpus contradict each other or the format."""
    recipe = attributes.get("recipe")
    if not isinstance(recipe, dict):
        return ["attribute recipe is missing"]
    faults, known = [], corpus_attributes(recipe)
    if attributes.get("recipe_hash") != known["recipe_hash"]:
        faults.append("recipe_hash is not the hash of the recipe")
    for key, expected in (
        ("seed", known["seed"]), ("checkpoint_hash", known["checkpoint_hash"]), ("conventions", CONVENTIONS),
    ):  # fmt: skip
        if key not in attributes or attributes[key] != expected:
            faults.append(f"attribute {key} is {attributes.get(key)!r}; expected {expected!r}")
    return faults


def _compare_index(store: CorpusStore, rows: Mapping[str, dict[str, Any] | None], found: _Findings) -> None:
    """Compare the index with what the receipts say; volumes with faults of their own count as present."""
    try:
        index = read_index(store.root, check=False)
    except RequestError as error:
        found.add_document(INDEX_KEY, str(error))
        return
    if not all(isinstance(name, str) for name in index.names):
        found.add_document(INDEX_KEY, f"{INDEX_KEY}: some names are not strings")
        return
    before = len(found.faults)
    for name in sorted(set(rows) - set(index.names)):
        found.add_document(INDEX_KEY, "committed, but not in the index", name)
    digests = {row["receipt_sha256"] for name, row in rows.items() if row is not None and name not in set(index.names)}
    seen: set[str] = set()
    for row in index.rows():
        name = row["name"]
        if name in seen:
            found.add_document(INDEX_KEY, "twice in the index", name)
        seen.add(name)
        if name not in rows:
            found.add_document(INDEX_KEY, "in the index, but not committed", name)
            if row["receipt_sha256"] not in digests:  # else it is there, and the index has its name wrong
                found.damaged[name] = None
            continue
        expected = rows[name]
        if expected is not None:
            _compare_row(name, row, expected, found)
    if len(found.faults) == before and None not in rows.values():
        _compare_spelling(store, index, {name: row for name, row in rows.items() if row is not None}, found)


def _compare_row(name: str, row: Mapping[str, Any], expected: Mapping[str, Any], found: _Findings) -> None:
    wrong = [column for column in COLUMNS if row[column] != expected[column]]
    for column in wrong:
        what = f"the index says {column} is {row[column]!r}; expected {expected[column]!r}"
        found.add_document(INDEX_KEY, what, name)
    if "receipt_sha256" in wrong:  # either of the two is wrong; making the volume again tells which
        found.damaged[name] = None


def _compare_spelling(
    store: CorpusStore, index: CorpusIndex, rows: Mapping[str, dict[str, Any]], found: _Findings
) -> None:
    """Compare the index's bytes with those that the receipts give in the index's own order."""
    names = index.names
    columns = {column: [rows[name][column] for name in names] for column in COLUMNS}
    documents = [b"".join(index_document(columns))]
    if not names:
        documents.append(group_document({}))  # a corpus that was begun and has none yet
    if store.storage.get(INDEX_KEY) not in documents:
        found.add_document(INDEX_KEY, f"{INDEX_KEY}: is not spelled as format 1 spells it")
