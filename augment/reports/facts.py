"""What a report tells of a corpus: one pass over the receipts, counted, nothing kept that grows with its size."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rephase.builder.runlog import read_failures
from rephase.corpus.layout import DTYPES
from rephase.corpus.store import CorpusStore
from rephase.errors import VolumeError

UNKNOWN = "not known"
_UID = re.compile(r"\b\d+(?:\.\d+){4,}\b")
_PATH = re.compile(r"(?:\b[A-Za-z][\w+.-]+://|(?<![\w.])[A-Za-z]:\\|(?<![\w.<])~?/)[^\s;,'\"()]+")
_EXAMPLES = 8


@dataclass(frozen=True)
class Candidate:
    """A committed volume that may be shown: its name, what it is spread by, and its slices."""

    name: str
    contrast: str
    shape: tuple[int, ...]
    num_slices: int


@dataclass
class Flag:
    """An audit flag: how many volumes carry it, and the first of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class CorpusFacts:
    """What was counted.

    Attributes
    ----------
    title
        The corpus's own name, without the folders above it.
    attributes
        Of the corpus: recipe, hashes, seed.
    num_volumes, num_slices, array_bytes
        Committed; bytes before compression.
    stored_bytes
        What lies under the corpus's root, None where that cannot be told.
    tallies
        By heading: how many volumes have each value.
    ranges
        By heading: smallest and largest number, and how many volumes have one.
    num_subjects, num_sources
        Distinct pseudonyms, distinct hashes of source bytes.
    flags
        By name of the audit flag.
    unfinished, unreadable
        Volumes that were begun only; volumes whose receipt cannot be read.
    candidates
        Every committed volume, small.
    """

    title: str
    attributes: dict[str, Any]
    num_volumes: int = 0
    num_slices: int = 0
    array_bytes: int = 0
    stored_bytes: int | None = None
    tallies: dict[str, Counter[str]] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    num_subjects: int = 0
    num_sources: int = 0
    flags: dict[str, Flag] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)


def gather_facts(store: CorpusStore, progress: Callable[[int, int], None] | None = None) -> CorpusFacts:
    """Read every receipt once and count.

    Parameters
    ----------
    store
        An open corpus. Receipts are the truth: the index may be older.
    progress
        Called with (receipts read, receipts in all).
    """
    facts = CorpusFacts(title=store.root.rstrip("/").rsplit("/", 1)[-1], attributes=store.attributes)
    facts.unfinished = store.unfinished()
    subjects: set[int] = set()
    sources: set[int] = set()
    names = store.names()
    for number, name in enumerate(names, start=1):
        try:
            receipt = store.receipt(name)
        except VolumeError:
            facts.unreadable.append(name)
            continue
        if receipt is not None:
            _count(facts, name, receipt)
            subjects.add(hash(receipt["patient_id"]))  # hashes: a million strings would not be small
            sources.add(hash(receipt["source_sha256"]))
        if progress is not None:
            progress(number, len(names))
    facts.num_subjects, facts.num_sources = len(subjects), len(sources)
    facts.stored_bytes = _stored_bytes(store)
    return facts


def _count(facts: CorpusFacts, name: str, receipt: Mapping[str, Any]) -> None:
    kspace = tuple(receipt["arrays"]["kspace"]["shape"])
    facts.num_volumes += 1
    facts.num_slices += kspace[0]
    facts.array_bytes += sum(_array_bytes(key, entry["shape"]) for key, entry in receipt["arrays"].items())
    contrast = receipt["contrast"] or UNKNOWN
    facts.candidates.append(Candidate(name, contrast, kspace[1:], kspace[0]))
    for heading, value in _described(receipt, kspace):
        facts.tallies.setdefault(heading, Counter())[value] += 1
    for heading, number in _measured(receipt):
        low, high, count = facts.ranges.get(heading, (math.inf, -math.inf, 0))
        facts.ranges[heading] = (min(low, number), max(high, number), count + 1)
    for word in receipt["audit"]:
        flag = facts.flags.setdefault(str(word), Flag())
        flag.count += 1
        if len(flag.examples) < _EXAMPLES:
            flag.examples.append(name)


def _described(receipt: Mapping[str, Any], kspace: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    yield "Contrast", receipt["contrast"] or UNKNOWN
    yield "Split", receipt["split"] or UNKNOWN
    yield "Anatomy", receipt["anatomy"] or UNKNOWN
    yield "Field strength", UNKNOWN if receipt["field_t"] is None else f"{receipt['field_t']:.3g} T"
    yield "Matrix", describe_shape(kspace[1:])
    yield "Orientation", receipt["orientation"]
    yield "Phase encoding", receipt["phase_encode"]
    yield "Licence", receipt["licence"] or UNKNOWN
    yield "Phase", receipt["phase_generator"] + (f", {receipt['nfe']} evaluations" if receipt["nfe"] else "")
    yield "Replica", str(receipt["replica"])
    yield "Environment", json.dumps(receipt["environment"], sort_keys=True)


def _measured(receipt: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield "Slices in a volume", receipt["num_slices"]
    yield "Slice distance (mm)", receipt["spacing_mm"][0]
    yield "Pixel height (mm)", receipt["spacing_mm"][1]
    yield "Pixel width (mm)", receipt["spacing_mm"][2]
    if receipt["te_ms"] is not None:
        yield "Echo time (ms)", receipt["te_ms"]


def describe_shape(shape: tuple[int, ...]) -> str:
    """Say `(height, width)` or `(coil, height, width)` in words."""
    matrix = f"{shape[-2]} × {shape[-1]}"
    return matrix if len(shape) == 2 else f"{matrix}, {shape[0]} coils"


def _array_bytes(key: str, shape: list[int]) -> int:
    return math.prod(shape) * np.dtype(DTYPES[key]).itemsize


def _stored_bytes(store: CorpusStore) -> int | None:
    """Add up the sizes of everything in a corpus; None where the place gives none."""
    try:
        return store.storage.num_bytes()
    except (OSError, NotImplementedError):
        return None


@dataclass(frozen=True)
class Failed:
    """A volume that failed; its message without paths and UIDs, which may name a person."""

    name: str
    reason: str
    message: str


def list_failures(root: str) -> list[Failed]:
    """List the volumes that failed and were not built since, by reason, then name."""
    found = [Failed(name, one.reason, without_identity(name, one.message)) for name, one in read_failures(root).items()]
    return sorted(found, key=lambda one: (one.reason, one.name))


def without_identity(name: str, message: str) -> str:
    """Remove paths and UIDs from the message of a failure: folders may be named after people, and a page is passed on.

    Messages begin with the place, up to a colon; the rest seldom names a file.
    """
    text = message.removeprefix(f"volume {name} ")
    if text != message and text.startswith("(") and "): " in text:
        text = text.split("): ", 1)[1]
    where, separator, rest = text.partition(": ")
    if separator and ("/" in where or "\\" in where):
        text = rest
    return _UID.sub("[UID]", _PATH.sub("[path]", text))
