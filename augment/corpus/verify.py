"""Verify a corpus: checksums, receipts and invariants of format 1, the index, and the absence of orphan objects."""

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
from rephase.text import one_line

ROOT_KEY, VOLUMES_KEY = "zarr.json", "volumes/zarr.json"
_TOP = ("zarr.json", "index", "volumes")
_AHEAD = 4
"""Volumes submitted ahead per thread."""
_SHOWN = 50


@dataclass(frozen=True)
class VerifyResult:
    """Result of verifying a corpus.

    Attributes
    ----------
    num_volumes, num_slices, num_bytes
        Committed volumes, their slices, and the bytes read.
    problems
        (volume name, problem), one line each; the name is empty for a problem of the corpus itself.
    unfinished
        Volumes that were started and not committed. This is not a problem: the next build rebuilds them.
    other_recipe
        Volumes that were built by another recipe than that of the corpus: intact, but not overwritten by a build that
        overwrites.
    damaged
        Of `problems`, the volumes to rebuild: part of them is damaged or missing, or index and receipt contradict each
        other.
    documents
        Keys of the corpus's own documents to rewrite.
    unexpected
        Keys of orphan objects, which belong to no volume, and of volumes that were copied into the corpus.
    twins
        Volumes whose names differ from others in case only.
    """

    num_volumes: int
    num_slices: int
    num_bytes: int
    problems: list[tuple[str, str]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    other_recipe: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    twins: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


def problem_lines(problems: Sequence[tuple[str, str]]) -> list[str]:
    """Format the first problems, one line each, and the number of the others."""
    lines = [f"{name or 'corpus'}: {what}" for name, what in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN} more problems; --json lists all")
    return lines


def verify_corpus(
    root: str | os.PathLike[str], workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> VerifyResult:
    """Read all objects of a corpus and compare them with receipts, index and format.

    Parameters
    ----------
    root
        Path or URL of the corpus.
    workers
        Number of threads; each keeps one shard in memory. Default: one per core.
    progress
        Called with (volumes done, volumes in all) after every volume.

    Raises
    ------
    RequestError
        If there is no corpus of format 1.
    """
    return verify_store(CorpusStore.open(root), workers, progress)


def verify_store(
    store: CorpusStore, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> VerifyResult:
    """Check an open corpus, as `verify_corpus` does."""
    names = store.names()
    checks: dict[str, VolumeCheck] = {}
    threads = workers or os.cpu_count() or 1
    for check in in_order(partial(check_volume, store), names, threads, _AHEAD * threads, "verify"):
        checks[check.name] = check
        if progress is not None:
            progress(len(checks), len(names))
    found = _Findings()
    foreign = _foreign(store, checks)
    for name, check in checks.items():
        found.problems += [(name, problem) for problem in check.problems]
        found.damaged |= {name: None} if check.problems and name not in foreign else {}
        found.add_unexpected(check.unexpected if name not in foreign else [], name)
    found.add_unexpected(_unexpected_keys(store, checks))
    for name, what in foreign.items():
        found.unexpected.append(f"volumes/{name}")
        found.problems += [(name, what)] if what else []
    twins = _twins(store.storage.children("volumes"))
    found.problems += twins
    for key, problem in _check_documents(store):
        found.add_document(key, problem)
    _compare_index(store, {name: check.row for name, check in checks.items() if name not in foreign}, found)
    recipe_hash = store.attributes.get("recipe_hash")
    return VerifyResult(
        num_volumes=len(names),
        num_slices=sum(check.num_slices for check in checks.values()),
        num_bytes=sum(check.num_bytes for check in checks.values()),
        problems=found.problems,
        unfinished=store.unfinished(),
        other_recipe=[name for name, check in checks.items() if check.recipe_hash not in (None, recipe_hash)],
        damaged=sorted(found.damaged),
        documents=list(found.documents),
        unexpected=found.unexpected,
        twins=[name for name, _ in twins],
    )


def _foreign(store: CorpusStore, checks: Mapping[str, VolumeCheck]) -> dict[str, str]:
    """Return the volumes that came in by copying and are not in the index, and what is wrong with each."""
    try:
        index = set(read_index(store.root, check=False, attributes=store.attributes).names)
    except (RequestError, TypeError):
        return {name: "" for name, check in checks.items() if check.copied_from is not None}
    recipe_hash, found = store.attributes.get("recipe_hash"), {}
    for name, check in checks.items():
        if name in index:
            continue
        if check.copied_from is not None:
            found[name] = ""  # it has that problem already
        elif check.recipe_hash not in (None, recipe_hash):
            found[name] = "is not in the index, and of another recipe than the corpus: it was copied into it"
    return found


def _twins(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the names that differ from others in case only: on some disks they are one."""
    first: dict[str, str] = {}
    return [
        (name, f"differs from volume {other} in case only; expected names that differ otherwise")
        for name in names
        if (other := first.setdefault(name.lower(), name)) != name and name != "zarr.json"
    ]


class _Findings:
    """Collects the problems of a corpus."""

    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []
        self.damaged: dict[str, None] = {}
        self.documents: dict[str, None] = {}
        self.unexpected: list[str] = []

    def add_document(self, key: str, problem: str, name: str = "") -> None:
        self.problems.append((name, problem))
        self.documents[key] = None

    def add_unexpected(self, keys: list[str], name: str = "") -> None:
        self.unexpected += keys
        start = len(f"volumes/{name}/") if name else 0
        what = "is not in the receipt" if name else "is not part of the corpus"
        self.problems += [(name, f"{key[start:]} {what}") for key in keys]


def _unexpected_keys(store: CorpusStore, committed: Mapping[str, object]) -> list[str]:
    """List the keys outside of volumes that are not part of a corpus."""
    storage = store.storage
    keys = [name for name in storage.children("") if name not in _TOP]
    keys += [key for key in storage.keys("index") if key != INDEX_KEY]
    for name in storage.children("volumes"):
        if name in committed or name == "zarr.json":
            continue
        if not is_volume_name(name) or storage.exists(f"volumes/{name}"):
            keys.append(f"volumes/{name}")
    return keys


def _check_documents(store: CorpusStore) -> list[tuple[str, str]]:
    """Check the corpus's own documents except the index; return (key, problem)."""
    attributes = store.attributes
    problems = [(ROOT_KEY, f"{ROOT_KEY}: {problem}") for problem in check_root(attributes)]
    expected = {ROOT_KEY: group_document(attributes), VOLUMES_KEY: group_document({})}
    for key, document in expected.items():
        try:
            found = store.storage.get(key)
        except OSError as error:
            problems.append((key, f"{key}: cannot be read ({one_line(error)})"))
            continue
        if found != document and key not in dict(problems):
            try:
                group_attributes(found, key)
                problems.append((key, f"{key}: is not in the canonical spelling of format 1"))
            except ValueError as error:
                problems.append((key, str(error)))
    return problems


def check_root(attributes: Mapping[str, Any]) -> list[str]:
    """List where the attributes of a corpus contradict each other or the format."""
    recipe = attributes.get("recipe")
    if not isinstance(recipe, dict):
        return ["attribute recipe is missing"]
    problems, known = [], corpus_attributes(recipe)
    if attributes.get("recipe_hash") != known["recipe_hash"]:
        problems.append("recipe_hash is not the hash of the recipe")
    for key, expected in (
        ("seed", known["seed"]), ("checkpoint_hash", known["checkpoint_hash"]), ("conventions", CONVENTIONS),
    ):  # fmt: skip
        if key not in attributes or attributes[key] != expected:
            problems.append(f"attribute {key} is {attributes.get(key)!r}; expected {expected!r}")
    return problems


def _compare_index(store: CorpusStore, rows: Mapping[str, dict[str, Any] | None], found: _Findings) -> None:
    """Compare the index with the receipts; damaged volumes count as present."""
    try:
        index = read_index(store.root, check=False, attributes=store.attributes)
    except RequestError as error:
        found.add_document(INDEX_KEY, str(error))
        return
    if not all(isinstance(name, str) for name in index.names):
        found.add_document(INDEX_KEY, f"{INDEX_KEY}: some names are not strings")
        return
    before = len(found.problems)
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
            if row["receipt_sha256"] not in digests:  # otherwise it exists and only its name in the index is wrong
                found.damaged[name] = None
            continue
        expected = rows[name]
        if expected is not None:
            _compare_row(name, row, expected, found)
    if len(found.problems) == before and None not in rows.values():
        _compare_spelling(store, index, {name: row for name, row in rows.items() if row is not None}, found)


def _compare_row(name: str, row: Mapping[str, Any], expected: Mapping[str, Any], found: _Findings) -> None:
    wrong = [column for column in COLUMNS if row[column] != expected[column]]
    for column in wrong:
        what = f"the index says {column} is {row[column]!r}; expected {expected[column]!r}"
        found.add_document(INDEX_KEY, what, name)
    if "receipt_sha256" in wrong:  # one of the two is wrong; rebuilding the volume shows which
        found.damaged[name] = None


def _compare_spelling(
    store: CorpusStore, index: CorpusIndex, rows: Mapping[str, dict[str, Any]], found: _Findings
) -> None:
    """Compare the bytes of the index with those that follow from the receipts, in the order of the index."""
    names = index.names
    columns = {column: [rows[name][column] for name in names] for column in COLUMNS}
    documents = [b"".join(index_document(columns))]
    if not names:
        documents.append(group_document({}))  # a new corpus
    if store.storage.get(INDEX_KEY) not in documents:
        found.add_document(INDEX_KEY, f"{INDEX_KEY}: is not in the canonical spelling of format 1")
