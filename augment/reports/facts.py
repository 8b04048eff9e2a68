"""The facts of a report, counted in one pass over the receipts of a corpus."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rephase.builder.runlog import read_failures
from rephase.corpus.expansion import kspace_shape
from rephase.corpus.layout import DTYPES
from rephase.corpus.store import CorpusStore
from rephase.errors import VolumeError

UNKNOWN = "unknown"
_EXAMPLES = 8


@dataclass(frozen=True)
class Candidate:
    """A committed volume that may be shown; volumes are selected over contrasts and shapes, `([coil] height width)`."""

    name: str
    contrast: str
    shape: tuple[int, ...]
    num_slices: int
    flags: tuple[str, ...] = ()


@dataclass
class Flag:
    """An audit flag: the number of volumes with it, and the names of the first."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class CorpusFacts:
    """The counts.

    Attributes
    ----------
    title
        Name of the corpus without its directory.
    attributes
        Attributes of the corpus: recipe, hashes, seed.
    num_volumes, num_slices, array_bytes
        Totals of committed volumes; bytes before compression.
    stored_bytes
        Size of all objects of the corpus, None if the storage does not report it.
    tallies
        Heading to the number of volumes with each value.
    ranges
        Heading to the smallest and largest number, and the number of volumes that have one.
    values
        Heading to the number of every volume, in the order of `candidates`; NaN where unknown.
    num_subjects, num_sources
        Number of different pseudonyms, and of different hashes of source bytes.
    flags
        Audit flags by name.
    unfinished, unreadable
        Volumes without a receipt; volumes whose receipt cannot be read.
    candidates
        All committed volumes.
    """

    title: str
    attributes: dict[str, Any]
    num_volumes: int = 0
    num_slices: int = 0
    array_bytes: int = 0
    stored_bytes: int | None = None
    tallies: dict[str, Counter[str]] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    values: dict[str, array[float]] = field(default_factory=dict)
    num_subjects: int = 0
    num_sources: int = 0
    flags: dict[str, Flag] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)


def gather_facts(store: CorpusStore, progress: Callable[[int, int], None] | None = None) -> CorpusFacts:
    """Read every receipt and count the facts.

    Parameters
    ----------
    store
        The corpus; its index is not used, since it may be older than the receipts.
    progress
        Called with (receipts read, receipts in total).
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
            subjects.add(hash(receipt["patient_id"]))  # hashes take less memory than strings
            sources.add(hash(receipt["source_sha256"]))
        if progress is not None:
            progress(number, len(names))
    for values in facts.values.values():
        values.extend([math.nan] * (facts.num_volumes - len(values)))
    facts.num_subjects, facts.num_sources = len(subjects), len(sources)
    facts.stored_bytes = _stored_bytes(store)
    return facts


def _count(facts: CorpusFacts, name: str, receipt: Mapping[str, Any]) -> None:
    kspace = kspace_shape(receipt)
    facts.num_volumes += 1
    facts.num_slices += kspace[0]
    facts.array_bytes += sum(_array_bytes(key, entry["shape"]) for key, entry in receipt["arrays"].items())
    contrast = receipt["contrast"] or UNKNOWN
    facts.candidates.append(Candidate(name, contrast, kspace[1:], kspace[0], tuple(sorted(receipt["audit"]))))
    for heading, value in _described(receipt, kspace):
        facts.tallies.setdefault(heading, Counter())[value] += 1
    for heading, number in _measured(receipt):
        low, high, count = facts.ranges.get(heading, (math.inf, -math.inf, 0))
        facts.ranges[heading] = (min(low, number), max(high, number), count + 1)
        values = facts.values.setdefault(heading, array("d"))
        values.extend([math.nan] * (facts.num_volumes - 1 - len(values)))
        values.append(number)
    for word in receipt["audit"]:
        flag = facts.flags.setdefault(str(word), Flag())
        flag.count += 1
        if len(flag.examples) < _EXAMPLES:
            flag.examples.append(name)


def _described(receipt: Mapping[str, Any], kspace: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    yield "Contrast", receipt["contrast"] or UNKNOWN
    assumed = receipt.get("sequence_assumed")
    yield "Pulse sequence", receipt.get("sequence") or (f"{assumed} (assumed)" if assumed else UNKNOWN)
    yield "Range of the training data", _familiarity(receipt.get("out_of_distribution"))
    yield "Licence of the weights", receipt.get("weights_licence") or UNKNOWN
    yield "Split", receipt["split"] or UNKNOWN
    yield "Anatomy", receipt["anatomy"] or UNKNOWN
    yield "Field strength", UNKNOWN if receipt["field_t"] is None else f"{receipt['field_t']:.3g} T"
    yield "Matrix", describe_shape(kspace[1:])
    yield "Orientation", receipt["orientation"]
    yield "Phase encoding", receipt["phase_encode"]
    yield "Licence", receipt["licence"] or UNKNOWN
    if "coil_array" in receipt:
        yield "Receive coils (simulated)", receipt["coil_array"]
    yield "Phase", describe_generator(receipt)
    yield "Replica", str(receipt["replica"])
    yield "Environment", json.dumps(receipt["environment"], sort_keys=True)


def _measured(receipt: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield "Slices per volume", receipt["num_slices"]
    yield "Slice distance (mm)", receipt["spacing_mm"][0]
    yield "Pixel height (mm)", receipt["spacing_mm"][1]
    yield "Pixel width (mm)", receipt["spacing_mm"][2]
    if receipt.get("out_of_distribution") is not None:
        yield "Out-of-distribution score", receipt["out_of_distribution"]
    if receipt["te_ms"] is not None:
        yield "Echo time (ms)", receipt["te_ms"]
    if receipt["field_t"] is not None:
        yield "Field strength (T)", receipt["field_t"]
    floor = receipt["audit"].get("noise_floor")
    if isinstance(floor, dict) and isinstance(floor.get("snr"), int | float):
        yield "SNR, where flagged as low", floor["snr"]
    num_pixels = receipt["num_slices"] * math.prod(receipt["recon_size"])
    if receipt["max"] > 0:
        yield "RMS / maximum", receipt["norm"] / math.sqrt(num_pixels) / receipt["max"]


def _familiarity(score: float | None) -> str:
    if score is None:
        return UNKNOWN
    return "inside" if score == 0 else "outside, score below 1" if score < 1 else "outside, score 1 or more"


def describe_generator(receipt: Mapping[str, Any]) -> str:
    """Format a volume's phase generator with its network evaluations (NFE) per slice."""
    return f"{receipt['phase_generator']}, {receipt['nfe']} NFE" if receipt["nfe"] else str(receipt["phase_generator"])


def describe_facts(receipt: Mapping[str, Any]) -> Iterator[str]:
    """Yield the facts of a volume that a picture of it is captioned with."""
    yield describe_shape(kspace_shape(receipt)[1:])
    yield f"{receipt['spacing_mm'][1]:.3g} × {receipt['spacing_mm'][2]:.3g} mm"
    yield f"orientation {receipt['orientation']}"
    yield from (receipt[key] for key in ("contrast", "anatomy", "split") if receipt[key] is not None)
    if receipt["field_t"] is not None:
        yield f"{receipt['field_t']:.3g} T"
    if receipt["te_ms"] is not None:
        yield f"TE {receipt['te_ms']:.4g} ms"
    yield f"phase: {describe_generator(receipt)}"


def describe_shape(shape: tuple[int, ...]) -> str:
    """Format a shape `([coil] height width)`."""
    matrix = f"{shape[-2]} × {shape[-1]}"
    return matrix if len(shape) == 2 else f"{matrix}, {shape[0]} coils"


def _array_bytes(key: str, shape: list[int]) -> int:
    return math.prod(shape) * np.dtype(DTYPES[key]).itemsize


def _stored_bytes(store: CorpusStore) -> int | None:
    """Return the size of all objects of a corpus, None if the storage does not report it."""
    try:
        return store.storage.num_bytes()
    except (OSError, NotImplementedError):
        return None


@dataclass(frozen=True)
class Failed:
    """A failed volume; its message has no paths and UIDs, which could identify a person."""

    name: str
    reason: str
    message: str


def list_failures(root: str) -> list[Failed]:
    """Return the volumes that failed and were not built since, sorted by reason and name."""
    found = [
        Failed(name, one.reason, one.message if one.line else "logged by an earlier version, whose messages have paths")
        for name, one in read_failures(root).items()
    ]
    return sorted(found, key=lambda one: (one.reason, one.name))
