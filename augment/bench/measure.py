"""Tables of results with facts of the machine, and the timing of calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Value = str | int | float | None


@dataclass(frozen=True)
class Table:
    """One table of results.

    Attributes
    ----------
    title
        Quantity measured.
    columns
        Names with units, the same in text and JSON.
    rows
        One value per column; None if not applicable.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]]

    def to_json(self) -> dict[str, Any]:
        """Return every row as an object."""
        return {"title": self.title, "rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows]}

    def lines(self) -> list[str]:
        """Format the table as text, numbers aligned right."""
        cells = [self.columns, *(tuple(_shown(value) for value in row) for row in self.rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.columns))]
        numeric = [all(not isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]
        drawn = ["  ".join(_set(*cell) for cell in zip(row, widths, numeric, strict=True)).rstrip() for row in cells]
        return [self.title, drawn[0], "  ".join("-" * width for width in widths), *drawn[1:]]


@dataclass(frozen=True)
class BenchResult:
    """The result of a benchmark.

    Attributes
    ----------
    benchmark
        Its name, such as `sampler`.
    machine
        `rephase.pipeline.environment.machine_facts`, on which the figures depend.
    settings
        The requested sizes and numbers.
    tables
        The results.
    notes
        Remarks on the tables.
    """

    benchmark: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    tables: list[Table]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the result as one JSON object."""
        return {**asdict(self), "tables": [table.to_json() for table in self.tables]}

    def lines(self) -> list[str]:
        """Format the result as lines of text."""
        machine = self.machine
        lines = [
            f"rephase bench {self.benchmark}",
            f"{machine['cpu']}, {machine['cores']} cores; device {machine['device']}; torch {machine['torch']}, "
            f"Python {machine['python']}; load {machine['load']} before the run",
            ", ".join(f"{key} {_shown(value)}" for key, value in self.settings.items() if value is not None),
        ]
        for table in self.tables:
            lines += ["", *table.lines()]
        return [*lines, *([""] if self.notes else []), *(f"note: {note}" for note in self.notes)]


def seconds_per_call(calls: Sequence[Callable[[], object]], budget_s: float, rounds: int = 3) -> list[float]:
    """Return the median time of each call in seconds, after one for warm-up.

    The calls alternate: a machine that is busy for a while slows all of them, so their ratios stay reliable.

    Parameters
    ----------
    calls
        Functions to time.
    budget_s
        Seconds per function in all; more if fewer than `rounds` calls fit.
    rounds
        Number of rounds over all calls.
    """
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            end = time.perf_counter() + budget_s / rounds
            while True:
                start = time.perf_counter()
                call()
                now = time.perf_counter()
                taken.append(now - start)
                if now >= end:
                    break
    return [sorted(taken)[len(taken) // 2] for taken in times]


def rounded(value: float) -> float:
    """Return a value rounded to four significant digits."""
    return float(f"{value:.4g}")


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(str, value))
    return str(value)


def _set(text: str, width: int, numeric: bool) -> str:
    return text.rjust(width) if numeric else text.ljust(width)
