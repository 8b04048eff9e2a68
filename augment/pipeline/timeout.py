"""The time limit of a volume: a worker process whose volume takes longer ends itself, whatever it hangs in.

Python's `faulthandler` keeps the clock in a thread of C that needs no interpreter lock, so a library that holds the
lock, or never comes back from C, is ended too. Its nanny starts the process again. What was in hand, and where, stays
in a file beside the corpus: `<corpus>.run/hung/`.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from rephase.corpus.storage.base import run_folder
from rephase.text import is_url

READING_S = 1800.0
"""For finding, hashing and reading a volume, where no limit is given: its size is not known yet."""
WORK_S = 600.0
"""For all that follows, and besides for every evaluation of a slice:"""
EVALUATION_S = 5.0
"""For an evaluation of 256 x 256 pixels; about thirty times what one takes on one core."""

_EVALUATION_PIXELS = 256 * 256
_LEAST_S = 0.001


@dataclass(frozen=True)
class TimeLimit:
    """How long one volume may take; waiting for other volumes does not count.

    Attributes
    ----------
    seconds
        For all of it, None derives it: `READING_S` until it is read, then `WORK_S` and `EVALUATION_S` for each
        evaluation of a slice, more for slices above 256 x 256 pixels.
    evaluations
        Of the network per slice.
    """

    seconds: float | None = None
    evaluations: int = 0

    def work_s(self, num_slices: int, height: int, width: int) -> float:
        """Say how long a volume of this size may take once it is read."""
        parts = max(height * width / _EVALUATION_PIXELS, 1.0) * max(self.evaluations, 1)
        return WORK_S + EVALUATION_S * num_slices * parts


@dataclass(frozen=True)
class _Turn:
    """One volume in hand. `left` is set instead of `deadline` while the clock stands still."""

    name: str
    limit_s: float
    deadline: float
    left: float | None = None


class Watchdog:
    """Keeps the time of the volumes that a process has in hand; with no `folder` it does nothing."""

    def __init__(self, limit: TimeLimit | None = None, folder: Path | None = None) -> None:
        self._limit = limit or TimeLimit()
        self._turns: dict[int, _Turn] = {}
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / f"{os.getpid()}-{os.urandom(4).hex()}.txt").open("ab", buffering=0)

    @contextmanager
    def volume(self, name: str) -> Iterator[None]:
        """Keep the time of the volume that this thread makes."""
        limit_s = self._limit.seconds or READING_S
        self._set(_Turn(name, limit_s, time.monotonic() + limit_s))
        try:
            yield
        finally:
            self._set(None)

    def allow(self, num_slices: int, height: int, width: int) -> None:
        """Give this thread's volume, now that its size is known, the time that it may take from here."""
        turn = self._turns.get(threading.get_ident())
        if turn is not None and self._limit.seconds is None:
            limit_s = self._limit.work_s(num_slices, height, width)
            self._set(_Turn(turn.name, limit_s, time.monotonic() + limit_s))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let this thread's clock stand still while it waits for others."""
        turn = self._turns.get(threading.get_ident())
        if turn is None:
            yield
            return
        left = turn.deadline - time.monotonic()
        self._set(_Turn(turn.name, turn.limit_s, 0.0, left))
        try:
            yield
        finally:
            self._set(_Turn(turn.name, turn.limit_s, time.monotonic() + left))

    def _set(self, turn: _Turn | None) -> None:
        if self._file is None:
            return
        with self._lock:
            if turn is None:
                self._turns.pop(threading.get_ident(), None)
            else:
                self._turns[threading.get_ident()] = turn
            self._arm(self._file)

    def _arm(self, file: FileIO) -> None:
        """Set the clock to the turn that ends first, and write down whose it is."""
        running = {thread: turn for thread, turn in self._turns.items() if turn.left is None}
        if not running:
            faulthandler.cancel_dump_traceback_later()
            return
        thread, turn = min(running.items(), key=lambda item: item[1].deadline)
        file.truncate(0)
        note = {"name": turn.name, "limit_s": round(turn.limit_s, 1), "thread": f"0x{thread:016x}"}
        file.write(json.dumps(note).encode() + b"\n")
        wait_s = max(turn.deadline - time.monotonic(), _LEAST_S)
        faulthandler.dump_traceback_later(wait_s, exit=True, file=file)


def timeout_folder(root: str) -> Path:
    """Name the folder in which the processes that build a corpus write what they have in hand."""
    folder = run_folder(root).removeprefix("file://")
    if is_url(folder):  # an object store cannot be written to by a process that hangs
        name = "".join(letter if letter.isalnum() else "_" for letter in folder)
        return Path(tempfile.gettempdir()) / f"rephase-{os.getuid()}" / name / "hung"
    return Path(folder) / "hung"


@dataclass(frozen=True)
class TimeoutRecord:
    """A volume that took longer than its limit; `place` is where its thread was, as far as that is known."""

    limit_s: float
    place: str


def find_timeout(root: str, name: str) -> TimeoutRecord | None:
    """Say whether a process ended itself over this volume, and where it hung; None where none did."""
    for path in sorted(timeout_folder(root).glob("*.txt")):
        try:
            note, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            document: dict[str, Any] = json.loads(note)
        except (OSError, ValueError):
            continue
        if lines and document.get("name") == name:
            return TimeoutRecord(float(document.get("limit_s", 0.0)), _place(lines, str(document.get("thread"))))
    return None


def clear_timeouts(root: str, keep_dumps: bool = False) -> None:
    """Remove what earlier processes wrote, or all but what they wrote when they ended themselves."""
    for path in timeout_folder(root).glob("*.txt"):
        with suppress(OSError):  # not worth a build
            if not (keep_dumps and path.read_bytes().count(b"\n") > 1):
                path.unlink()


def _place(lines: list[str], thread: str) -> str:
    """Give the innermost call of a thread from faulthandler's lines."""
    inside = False
    for line in lines:
        if line.startswith(("Thread ", "Current thread ")):
            inside = thread in line
        match = re.match(r'\s+File "(.*)", line (\d+) in (.*)', line)
        if inside and match:
            return f"{match[3]} ({Path(match[1]).name}:{match[2]})"
    return "an unknown place"
