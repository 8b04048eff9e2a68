"""The table of faults: read from pytest's results, written as Markdown."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

END = "<!-- end -->\n"


@dataclass(frozen=True)
class Row:
    """The results of one fault."""

    fault: str
    passed: int
    failed: int
    skipped: int


def read_rows(junit: Path) -> list[Row]:
    """Count the cases of every fault in pytest's XML, in the order of their names."""
    counts: dict[str, Counter[str]] = {}
    for case in ElementTree.parse(junit).iter("testcase"):  # noqa: S314 - written by our own pytest
        names = [one.get("value") for one in case.iter("property") if one.get("name") == "fault"]
        for name in names:
            counts.setdefault(str(name), Counter())[_outcome(case)] += _num_cases(case)
    return [
        Row(fault, found["passed"], found["failed"], found["skipped"])
        for fault, found in sorted(counts.items(), key=lambda item: item[0].lower())
    ]


def _num_cases(case: ElementTree.Element) -> int:
    """Return the number of cases: a test of many cases records it; a failed test counts as one."""
    told = [one.get("value") for one in case.iter("property") if one.get("name") == "cases"]
    return int(told[0] or 1) if told and _outcome(case) == "passed" else 1


def _outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def render(rows: list[Row], where: str) -> str:
    """Format the table with sums and machine."""
    lines = ["| fault | cases | held | not held | skipped |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.fault} | {row.passed + row.failed + row.skipped} | {row.passed} | {row.failed} | {row.skipped} |"
        for row in rows
    ]
    passed, failed = sum(row.passed for row in rows), sum(row.failed for row in rows)
    skipped = sum(row.skipped for row in rows)
    lines.append(f"| **all** | {passed + failed + skipped} | {passed} | {failed} | {skipped} |")
    return "\n".join([*lines, "", f"Measured on {where}; Python {platform.python_version()}, {sys.platform}.", ""])


def replace_part(document: str, name: str, text: str) -> str:
    """Replace what stands between the marks of this name in a document.

    Raises
    ------
    ValueError
        If the document lacks the marks.
    """
    begin = f"<!-- begin: {name} -->\n"
    pattern = re.escape(begin) + r".*?" + re.escape(END)
    if re.search(pattern, document, re.DOTALL) is None:
        raise ValueError(f"the document lacks the marks {begin.strip()} and {END.strip()}")
    return re.sub(pattern, lambda _: begin + text + END, document, flags=re.DOTALL)


def machine() -> str:
    """Describe the machine: cores and processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = re.findall(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return f"{os.cpu_count()}-core {names[0] if names else platform.machine()}"
