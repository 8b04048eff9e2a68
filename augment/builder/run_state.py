"""The state of one run, accumulated from the lines of its log; used by `status`, `status --watch` and `report`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rephase.builder.runlog import read_run, run_names
from rephase.corpus.storage.open import open_run_folder
from rephase.progress import Progress
from rephase.text import format_seconds

PROGRESS_KEY = "progress.json"
"""File of the folder beside a corpus with the progress of the latest run, `rephase.progress.Progress`, and its name."""

_LAST_FAILURES = 5


class RunState:
    """The progress of a run so far.

    Attributes
    ----------
    name
        Name of its log.
    facts
        Fields recorded in its first and last line.
    started, last
        Time of its first and last line, in seconds since 1970.
    counts
        Volumes by status: `built`, `skipped`, `failed`.
    num_slices, num_bytes
        Slices and bytes (before compression) of the volumes built.
    stage_seconds
        Seconds by stage, summed over volumes and workers.
    failures
        The most recent failures, as (volume, reason, message).
    ended
        True if its last line was written.
    """

    def __init__(self, name: str, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        self.name = name
        self.facts: dict[str, Any] = {}
        self.started = self.last = 0.0
        self.counts: Counter[str] = Counter()
        self.num_slices = self.num_bytes = 0
        self.stage_seconds: Counter[str] = Counter()
        self.failures: list[tuple[str, str, str]] = []
        self.ended = False
        for line in lines:
            self.take(line)

    @property
    def seconds(self) -> float:
        """Seconds between the first and the last line of the log."""
        return self.last - self.started

    @property
    def num_volumes(self) -> int:
        """Number of requested volumes."""
        return int(self.facts.get("num_volumes", 0))

    @property
    def num_left(self) -> int:
        """Number of volumes without an outcome."""
        return max(self.num_volumes - self.counts.total(), 0)

    @property
    def end(self) -> str | None:
        """How the run ended, in words; None without its last line."""
        if not self.ended:
            return None
        return "interrupted" if self.facts.get("interrupted") else self.facts.get("stopped") or "ended"

    @property
    def is_complete(self) -> bool:
        """Whether the run ended and every requested volume has an outcome."""
        return self.ended and not self.facts.get("num_open")

    def take(self, line: Mapping[str, Any]) -> None:
        """Add the next line of the log; lines without a timestamp are ignored."""
        moment = line.get("time")
        if not isinstance(moment, int | float):
            return
        self.last = max(self.last, float(moment))
        self.started = self.started or self.last
        match line.get("event"):
            case "volume":
                self._take_volume(line)
            case "start" | "end" as event:
                self.facts |= {key: value for key, value in line.items() if key not in ("time", "event")}
                if event == "end":
                    self._take_end(line)

    def _take_volume(self, line: Mapping[str, Any]) -> None:
        status = str(line.get("status"))
        self.counts[status] += 1
        if status == "failed":
            failure = (str(line.get("name")), str(line.get("reason")), str(line.get("detail") or line.get("message")))
            self.failures = [*self.failures, failure][-_LAST_FAILURES:]
        if status == "built":
            self.num_slices += int(line.get("num_slices", 0))
            self.num_bytes += int(line.get("num_bytes", 0))
        self.stage_seconds.update(line.get("seconds", {}))

    def _take_end(self, line: Mapping[str, Any]) -> None:
        """Set the end of the run. Its line also counts volumes whose outcome came too late to be logged."""
        self.ended = True
        for status in ("built", "skipped"):
            if line.get(status):
                self.counts[status] = line[status]
        self.num_slices = line.get("num_slices", self.num_slices)
        self.num_bytes = line.get("num_bytes", self.num_bytes)

    def slices_per_second(self) -> float | None:
        """Return slices per second over the entire run; None if no slice was built."""
        return self.num_slices / self.seconds if self.num_slices and self.seconds > 0 else None

    def describe_counts(self) -> str:
        """Format the number of volumes by status."""
        return ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items()) if count) or "none yet"

    def line(self) -> str:
        """Format the run as one line."""
        began = datetime.fromtimestamp(self.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        found = self.slices_per_second()
        rate = "" if found is None else f", {found:.1f} slices/s"
        end = self.end or "not ended"
        end = f"stopped: {end}" if self.facts.get("stopped") and end == self.facts["stopped"] else end
        return (
            f"{began}, {format_seconds(self.seconds)}, {end}; of {self.num_volumes} volumes "
            f"{self.describe_counts()}{rate}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the state as a JSON object."""
        return {
            "name": self.name,
            "started": self.started,
            "last": self.last,
            "num_volumes": self.num_volumes,
            "counts": {status: count for status, count in self.counts.items() if count},
            "num_slices": self.num_slices,
            "ended": self.ended,
            "interrupted": bool(self.facts.get("interrupted")),
            "stopped": self.facts.get("stopped"),
        }


def read_run_state(root: str, name: str) -> RunState:
    """Read the state of one run."""
    return RunState(name, read_run(root, name))


def read_run_states(root: str) -> list[RunState]:
    """Read the state of every run in the log, oldest first; runs without any line are skipped."""
    runs = (read_run_state(root, name) for name in run_names(root))
    return [run for run in runs if run.started]


def read_progress(root: str, run: str) -> Progress | None:
    """Read the progress of a run, as its builder last wrote it; None if there is none of this run."""
    try:
        document = json.loads(open_run_folder(root).get(PROGRESS_KEY) or b"{}")
        return Progress.from_json(document) if document.pop("run") == run else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
