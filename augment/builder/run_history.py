"""What the run log beside a corpus tells: how long every run took, on what its time went, and what failed."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rephase.builder.runlog import read_failures, read_run, run_names
from rephase.text import format_seconds

_UID = re.compile(r"\b\d+(?:\.\d+){4,}\b")
_PATH = re.compile(r"(?:\b[A-Za-z][\w+.-]+://|(?<![\w.])[A-Za-z]:\\|(?<![\w.<])~?/)[^\s;,'\"()]+")


@dataclass
class Run:
    """One run of `rephase build`.

    Attributes
    ----------
    started, wall_s
        Seconds since 1970; seconds from its first to its last line.
    status
        Volumes `built`, `skipped`, `failed`.
    num_slices, num_bytes
        Of the volumes built, before compression.
    seconds
        By stage, summed over volumes and workers.
    ended
        False where the run was killed, or still goes on.
    facts
        Of its first and last line.
    """

    started: float
    wall_s: float = 0.0
    status: Counter[str] = field(default_factory=Counter)
    num_slices: int = 0
    num_bytes: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    ended: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """True where it came to every volume that was asked for."""
        return self.ended and not self.facts.get("num_open")


@dataclass(frozen=True)
class Failed:
    """A volume that is not in the corpus; `message` without paths and UIDs, which may name a person."""

    name: str
    reason: str
    message: str


def read_runs(root: str) -> list[Run]:
    """Summarise every run of the log, oldest first; empty where there is no log."""
    runs = (_read_one(root, name) for name in run_names(root))
    return [run for run in runs if run is not None]


def _read_one(root: str, name: str) -> Run | None:
    run: Run | None = None
    for line in read_run(root, name):
        moment = line.get("time")
        if not isinstance(moment, (int, float)):
            continue
        if run is None:
            run = Run(started=float(moment))
        run.wall_s = max(run.wall_s, float(moment) - run.started)
        if line.get("event") == "volume":
            _take_volume(run, line)
        else:
            run.facts |= {key: value for key, value in line.items() if key not in ("time", "event")}
            run.ended = run.ended or line.get("event") == "end"
    return run


def _take_volume(run: Run, line: dict[str, Any]) -> None:
    status = str(line.get("status"))
    run.status[status] += 1
    if status != "built":
        return
    run.num_slices += int(line.get("num_slices", 0))
    run.num_bytes += int(line.get("num_bytes", 0))
    for stage, value in line.get("seconds", {}).items():
        run.seconds[str(stage)] += value


def list_failures(root: str) -> list[Failed]:
    """List the volumes that failed and were not built since, by reason, then name."""
    found = [Failed(name, one.reason, without_identity(name, one.message)) for name, one in read_failures(root).items()]
    return sorted(found, key=lambda one: (one.reason, one.name))


def without_identity(name: str, message: str) -> str:
    """Take paths and UIDs out of a failure's message: folder names hold names of people, and a page is passed on.

    Messages say where first, up to a colon; what comes next seldom names a file.
    """
    text = message.removeprefix(f"volume {name} ")
    if text != message and text.startswith("(") and "): " in text:
        text = text.split("): ", 1)[1]
    where, separator, rest = text.partition(": ")
    if separator and ("/" in where or "\\" in where):
        text = rest
    return _UID.sub("[UID]", _PATH.sub("[path]", text))


@dataclass
class RunStatus:
    """What one run's log tells. `ended` is False while it runs, or where it was killed."""

    name: str
    started: float = 0.0
    last: float = 0.0
    num_volumes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    num_slices: int = 0
    ended: bool = False
    interrupted: bool = False
    stopped: str | None = None

    @property
    def seconds(self) -> float:
        """From its start to its last line."""
        return self.last - self.started


def summarise_run(root: str, name: str) -> RunStatus:
    """Add up the log of one run."""
    run = RunStatus(name)
    counts: Counter[str] = Counter()
    for line in read_run(root, name):
        run.last = float(line["time"])
        match line["event"]:
            case "start":
                run.started = run.last
                run.num_volumes = line["num_volumes"]
            case "volume":
                counts[line["status"]] += 1
                run.num_slices += line["num_slices"] if line["status"] == "built" else 0
            case "end":
                run.ended = True
                run.interrupted = line["interrupted"]
                run.stopped = line["stopped"]
                for status in ("built", "skipped"):  # with volumes whose outcome came too late to be seen
                    counts[status] = line.get(status, counts[status])
                run.num_slices = line.get("num_slices", run.num_slices)
    run.counts = {status: count for status, count in counts.items() if count}
    return run


def _say_run(run: RunStatus) -> str:
    began = datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    done = ", ".join(f"{count} {status}" for status, count in sorted(run.counts.items())) or "nothing yet"
    rate = f", {run.num_slices / run.seconds:.1f} slices/s" if run.num_slices and run.seconds else ""
    if not run.ended:
        end = "not ended: it is running, or was killed"
    elif run.interrupted:
        end = "interrupted"
    else:
        end = f"stopped: {run.stopped}" if run.stopped else "ended"
    return f"{began}, {format_seconds(run.seconds)}, {end}; of {run.num_volumes} volumes {done}{rate}"
