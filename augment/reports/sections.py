"""The sections of the report in words and tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rephase.builder.run_state import RunState
from rephase.reports.facts import UNKNOWN, CorpusFacts, Failed
from rephase.reports.html import Markup, bar, code, element, section, table, tiles
from rephase.text import format_bytes, format_seconds

MOST_FAILURES = 500
_MOST_VALUES = 20
_BUILT_FROM = ("Contrast", "Split", "Anatomy", "Field strength", "Matrix", "Orientation", "Phase encoding")

_FLAG_WORDS = {
    "interpolated": "the stored matrix is larger than the acquired one: its outer k-space was never measured",
    "filtered": "the header names a filter or a resampling",
    "lossy": "the pixels were once compressed with loss",
    "clipped_negatives": "negative values of the source were set to zero",
}


def counted(number: int, noun: str) -> str:
    """Say a number with its noun: 1 slice, 2 slices."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def say_moment(moment: float) -> str:
    """Say a point in time, UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def head(
    facts: CorpusFacts, failed: Sequence[Failed], runs: Sequence[RunState], contents: Iterable[tuple[str, str]]
) -> Markup:
    """Make the top of the page: name, state, and one sentence."""
    if not facts.num_volumes:
        state, kind = "No volume was built", "bad" if failed else "note"
    elif failed or facts.unreadable:
        state, kind = f"Built, {counted(len(failed) + len(facts.unreadable), 'volume')} failed", "bad"
    elif facts.unfinished or (runs and not runs[-1].is_complete):
        state, kind = "Not finished", "note"
    else:
        state, kind = "Built, nothing failed", "good"
    phases = ", ".join(sorted(facts.tallies.get("Phase", {}))) or "no phase yet"
    lede = (
        f"{counted(facts.num_volumes, 'volume')}, {counted(facts.num_slices, 'slice')} of synthetic k-space, "
        f"phase from: {phases}. Not for clinical use; report results on real k-space only."
    )
    links = (element("li", element("a", title, href=f"#{anchor}")) for anchor, title in contents)
    return element(
        "header",
        element(
            "div",
            element("h1", facts.title),
            element("p", element("span", state, class_=f"state {kind}")),
            element("p", lede),
            element("nav", element("ul", *links), aria_label="Contents"),
        ),
    )


def built(facts: CorpusFacts, failed: Sequence[Failed]) -> Markup:
    """Say what is in the corpus."""
    stored, remark = "not known", "the place gives no sizes"
    if facts.stored_bytes is not None:
        ratio = facts.array_bytes / max(facts.stored_bytes, 1)
        stored, remark = format_bytes(facts.stored_bytes), f"compressed {ratio:.2f} to 1"
    boxes = [
        ("Volumes", f"{facts.num_volumes:,}", f"of {counted(facts.num_subjects, 'subject')}"),
        ("Slices", f"{facts.num_slices:,}", "one chunk each"),
        ("Arrays", format_bytes(facts.array_bytes), "before compression"),
        ("Stored", stored, remark if facts.num_volumes else ""),
        ("Failed", f"{len(failed):,}", "listed below" if failed else ""),
    ]
    if facts.unfinished:
        boxes.append(("Begun only", f"{len(facts.unfinished):,}", "the next build makes them"))
    tables = [
        _tally(heading, facts.tallies[heading])
        for heading in _BUILT_FROM
        if heading in facts.tallies and set(facts.tallies[heading]) != {UNKNOWN}
    ]
    unread = [element("p", f"Receipts that cannot be read: {', '.join(facts.unreadable)}.", class_="fault")]
    return section(
        "built",
        "What was built",
        tiles(boxes),
        *(unread if facts.unreadable else []),
        element("div", *tables, class_="columns"),
        _ranges(facts.ranges) if facts.ranges else "",
    )


def _tally(heading: str, counts: Counter[str]) -> Markup:
    total = counts.total()
    values = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [(value, f"{count:,}", bar(count / total)) for value, count in values[:_MOST_VALUES]]
    if rest := values[_MOST_VALUES:]:
        count = sum(count for _, count in rest)
        rows.append((f"{len(rest)} others", f"{count:,}", bar(count / total)))
    return table(f"Volumes by {heading.lower()}", (heading, "Volumes", ""), rows, numbers=(1,), show_caption=False)


def _ranges(ranges: Mapping[str, tuple[float, float, int]]) -> Markup:
    rows = [(name, f"{low:.4g}", f"{high:.4g}", f"{count:,}") for name, (low, high, count) in ranges.items()]
    return table("Sizes", ("", "Smallest", "Largest", "Volumes that say"), rows, (1, 2, 3), narrow=True)


def sources(facts: CorpusFacts) -> Markup:
    """Say from what the corpus was made, as far as it does not point to a person."""
    words = (
        f"{counted(facts.num_sources, 'different source')} (by SHA-256), {counted(facts.num_subjects, 'pseudonym')}. "
        "Names of files, patients and institutions are not in a corpus."
    )
    tables = [_tally(heading, facts.tallies[heading]) for heading in ("Licence", "Replica") if heading in facts.tallies]
    return section("sources", "From what", element("p", words), element("div", *tables, class_="columns"))


def audit(facts: CorpusFacts) -> Markup:
    """Say which volumes carry signs that their magnitude is not what the scanner sampled."""
    if not facts.flags:
        words = "No header tells against a volume. Headers do not tell everything: a missing flag proves nothing."
        return section("audit", "Audit flags", element("p", words))
    rows = []
    for word, flag in sorted(facts.flags.items(), key=lambda item: (-item[1].count, item[0])):
        more = flag.count - len(flag.examples)
        names = ", ".join(flag.examples) + (f" and {more:,} more" if more else "")
        rows.append((word, f"{flag.count:,}", _FLAG_WORDS.get(word, ""), code(names)))
    words = "What the headers tell against a volume; training on it as if it were raw data flatters a method."
    flags = table("Flags", ("Flag", "Volumes", "Meaning", "Which"), rows, numbers=(1,))
    return section("audit", "Audit flags", element("p", words), flags)


def recipe(facts: CorpusFacts) -> Markup:
    """Say how the bytes were made."""
    entries = [*_flat({key: value for key, value in facts.attributes.items() if key != "conventions"})]
    tables = [table("Recipe", ("Entry", "Value"), [(name, code(value)) for name, value in entries])]
    environments = facts.tallies.get("Environment", Counter())
    rows = [
        (counted(count, "volume"), ", ".join(f"{key} {value}" for key, value in _flat(json.loads(text))))
        for text, count in environments.most_common()
    ]
    if rows:
        tables.append(table("Machines", ("Volumes", "Environment class"), rows))
    words = "Equal recipes give equal bytes on machines of one environment class."
    return section("recipe", "With which recipe", element("p", words), *tables)


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def speed(runs: Sequence[RunState]) -> Markup:
    """Say how long it took, on what the time went."""
    if not runs:
        words = "There is no run log beside this corpus, so nothing is known of the time that it took."
        return section("speed", "How fast", element("p", words))
    rows = [_run_row(run) for run in runs]
    header = ("Started", "Workers", "Time", "Asked for", "Built", "Skipped", "Failed", "Slices", "Slices/s", "Ended")
    tables = [table("Runs", header, rows, numbers=range(1, 9))]
    seconds: Counter[str] = sum((run.stage_seconds for run in runs), Counter())
    num_slices = sum(run.num_slices for run in runs)
    if num_slices and (total := seconds.total()):
        stages = [
            (
                stage,
                format_seconds(value),
                f"{1000 * value / num_slices:.3g}",
                f"{value / total:.0%}",
                bar(value / total),
            )
            for stage, value in seconds.most_common()
        ]
        columns = ("Stage", "Time", "ms a slice", "Part", "")
        tables.append(table("Stages, summed over workers and threads", columns, stages, (1, 2, 3), narrow=True))
    return section("speed", "How fast", *tables)


def _run_row(run: RunState) -> Sequence[object]:
    rate = f"{run.num_slices / run.seconds:.3g}" if run.num_slices and run.seconds > 0 else "–"
    numbers = [f"{run.counts[word]:,}" for word in ("built", "skipped", "failed")]
    ended = "complete" if run.is_complete else "early" if run.ended else "killed, or still at work"
    workers, wanted = (str(run.facts.get(key, "–")) for key in ("num_workers", "num_volumes"))
    time = format_seconds(run.seconds)
    return say_moment(run.started), workers, time, wanted, *numbers, f"{run.num_slices:,}", rate, ended


def failures(failed: Sequence[Failed], committed: Collection[str]) -> Markup:
    """List what failed, and why; `committed` names what is in the corpus, perhaps from an earlier run."""
    if not failed:
        return section("failures", "What failed", element("p", "Nothing."))
    reasons = _tally("Reason", Counter(one.reason for one in failed))
    rows = [
        (code(one.name), one.reason, "as built before" if one.name in committed else "no", one.message)
        for one in failed[:MOST_FAILURES]
    ]
    words = "File names are left out here; failures.json in the run folder beside the corpus has the whole messages."
    more = element("p", f"The first {MOST_FAILURES} of {len(failed):,} are listed.") if len(failed) > len(rows) else ""
    listed = table("Volumes that failed", ("Volume", "Reason", "In the corpus", "What happened"), rows)
    return section(
        "failures", "What failed", element("p", words), element("div", reasons, class_="columns"), listed, more
    )


def foot(moment: float) -> Markup:
    """Say when and by what the page was made."""
    words = f"Made by rephase report, {say_moment(moment)}. The phase in this corpus is synthetic unless it says real."
    return element("footer", element("div", words))
