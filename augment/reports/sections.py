"""The tables of a report as rows of text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import version

from rephase.builder.run_state import RunState
from rephase.corpus.receipt import AUDIT_FLAGS
from rephase.pages import counted, format_moment
from rephase.reports.facts import UNKNOWN, CorpusFacts, Failed
from rephase.text import format_bytes, format_seconds

MOST_FAILURES = 500
_MOST_VALUES = 20

Row = Sequence[object]


def state(facts: CorpusFacts, failed: Sequence[Failed], runs: Sequence[RunState]) -> tuple[str, str]:
    """Return the state of the corpus as a class of the style sheet and in words."""
    if not facts.num_volumes:
        return "bad" if failed else "note", "No volume was built"
    if failed or facts.unreadable:
        return "bad", f"Built, {counted(len(failed) + len(facts.unreadable), 'volume')} failed"
    if facts.unfinished or (runs and not runs[-1].is_complete):
        return "note", "Not finished"
    return "good", "Built, nothing failed"


def tiles(facts: CorpusFacts, failed: Sequence[Failed]) -> list[tuple[str, str, str]]:
    """Return the main numbers of the corpus as (name, value, remark)."""
    if facts.stored_bytes is None:
        stored, remark = "unknown", "this storage reports no sizes"
    else:
        ratio = facts.array_bytes / max(facts.stored_bytes, 1)
        stored, remark = format_bytes(facts.stored_bytes), f"compressed {ratio:.2f} to 1"
    found = [
        ("Volumes", f"{facts.num_volumes:,}", f"of {counted(facts.num_subjects, 'subject')}"),
        ("Slices", f"{facts.num_slices:,}", "one chunk each"),
        ("Arrays", format_bytes(facts.array_bytes), "before compression"),
        ("Stored", stored, remark if facts.num_volumes else ""),
        ("Failed", f"{len(failed):,}", "listed below" if failed else ""),
    ]
    if facts.unfinished:
        found.append(("Incomplete", f"{len(facts.unfinished):,}", "the next build completes them"))
    return found


def tally(counts: Counter[str]) -> list[Row]:
    """Return values with their counts and shares, the most frequent first, rare ones together."""
    total = counts.total()
    values = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = values[_MOST_VALUES:]
    values = values[:_MOST_VALUES] + ([(f"{len(rest)} others", sum(count for _, count in rest))] if rest else [])
    return [(value, f"{count:,}", count / total) for value, count in values]


def flags(facts: CorpusFacts) -> list[Row]:
    """Return the audit flags with their counts, meanings and first volumes."""
    rows: list[Row] = []
    for word, flag in sorted(facts.flags.items(), key=lambda item: (-item[1].count, item[0])):
        more = flag.count - len(flag.examples)
        names = ", ".join(flag.examples) + (f" and {more:,} more" if more else "")
        rows.append((word, f"{flag.count:,}", AUDIT_FLAGS.get(word, ""), names))
    return rows


def recipe(facts: CorpusFacts) -> list[Row]:
    """Return the entries of the recipe; names of nested entries are joined by dots."""
    return list(_flat({key: value for key, value in facts.attributes.items() if key != "conventions"}))


def citation(facts: CorpusFacts) -> str:
    """Return the sentences by which a publication cites the corpus."""
    recipe = facts.attributes.get("recipe", {})
    weights = recipe.get("checkpoint_sha256")
    licences = sorted(facts.tallies.get("Licence", Counter()).keys() - {UNKNOWN})
    sources = f"; licences of the sources: {', '.join(licences)}" if licences else ""
    hashes = f"recipe {facts.attributes.get('recipe_hash')}" + (f", weights SHA-256 {weights}" if weights else "")
    volumes, subjects = counted(facts.num_volumes, "magnitude volume"), counted(facts.num_subjects, "subject")
    return (
        f"K-space was synthesised from {volumes} of {subjects} ({counted(facts.num_slices, 'slice')}{sources}; cite "
        f"their archives by their own terms) with rephase {version('rephase')} (phase {recipe.get('phase')}, "
        f"seed {recipe.get('seed')}, {hashes}), after PhaseGen (Rempe et al. 2025, arXiv 2504.07560). "
        "Phase and coils are synthetic unless the phase is 'real'."
    )


def environments(facts: CorpusFacts) -> list[Row]:
    """Return the environment classes that built the volumes, with their numbers of volumes."""
    counts = facts.tallies.get("Environment", Counter())
    return [
        (counted(count, "volume"), ", ".join(f"{key} {value}" for key, value in _flat(json.loads(text))))
        for text, count in counts.most_common()
    ]


def _flat(document: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def runs(history: Sequence[RunState]) -> list[Row]:
    """Return the runs with their numbers of volumes, rates, and how they ended."""
    rows: list[Row] = []
    for run in history:
        rate = f"{run.num_slices / run.seconds:.3g}" if run.num_slices and run.seconds > 0 else "–"
        ended = "complete" if run.is_complete else "early" if run.ended else "not ended"
        workers, requested = (str(run.facts.get(key, "–")) for key in ("num_workers", "num_volumes"))
        counts = [f"{run.counts[word]:,}" for word in ("built", "skipped", "failed")]
        begin = (format_moment(run.started), workers, format_seconds(run.seconds), requested)
        rows.append((*begin, *counts, f"{run.num_slices:,}", rate, ended))
    return rows


def stages(history: Sequence[RunState]) -> list[Row]:
    """Return the time of each stage over all runs, per slice, and as a share."""
    seconds: Counter[str] = sum((run.stage_seconds for run in history), Counter())
    num_slices, total = sum(run.num_slices for run in history), seconds.total()
    if not num_slices or not total:
        return []
    return [
        (stage, format_seconds(value), f"{1000 * value / num_slices:.3g}", f"{value / total:.0%}", value / total)
        for stage, value in seconds.most_common()
    ]


def failures(failed: Sequence[Failed], committed: Collection[str]) -> list[Row]:
    """Return the first failures; `committed` has the volumes in the corpus, perhaps from an earlier run."""
    return [
        (one.name, one.reason, "from an earlier run" if one.name in committed else "no", one.message)
        for one in failed[:MOST_FAILURES]
    ]
