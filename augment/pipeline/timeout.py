"""The time limit of a volume: a worker process whose volume exceeds it ends itself, even if it hangs in C code.

Python's `faulthandler` runs the timer in a C thread that needs no interpreter lock, so a library that holds the lock or
hangs in C is ended too. The nanny restarts the process. The volume, and the place where it hung, remain in a file next
to the corpus: `<corpus>.run/hung/`.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from rephase.corpus.storage.base import run_folder
from rephase.files import private_folder, user_folder
from rephase.text import is_url

READING_S = 1800.0
"""Seconds to find, hash and read a volume without a given limit; its size is not known yet."""
WORK_S = 600.0
"""Seconds for all later steps, in addition to those of the network evaluations."""
EVALUATION_S = 5.0
"""Seconds per network evaluation of a 256 x 256 slice; about thirty times its duration on one core."""

_EVALUATION_PIXELS = 256 * 256
_LEAST_S = 0.001
_STORAGE = re.compile(r"corpus/(storage/\w+|lease)\.py$")
"""The modules that wait for the disk or object store of a corpus."""


@dataclass(frozen=True)
class TimeLimit:
    """The time limit of one volume, excluding the time it waits for other volumes.

    Attributes
    ----------
    seconds
        In total; None derives it: `READING_S` for reading, then `WORK_S` plus `EVALUATION_S` for each
        network evaluation of each slice, scaled up for slices above 256 x 256 pixels.
    evaluations
        Network evaluations per slice.
    """

    seconds: float | None = None
    evaluations: int = 0

    def work_s(self, num_slices: int, height: int, width: int) -> float:
        """Return the time limit, in seconds, of a volume of this size after reading."""
        parts = max(height * width / _EVALUATION_PIXELS, 1.0) * max(self.evaluations, 1)
        return WORK_S + EVALUATION_S * num_slices * parts


@dataclass(frozen=True)
class _Timer:
    """The timer of one volume. `left` is set instead of `deadline` while it is paused."""

    name: str
    limit_s: float
    deadline: float
    left: float | None = None


class Watchdog:
    """Ends the process if one of its volumes exceeds its time limit; inactive without a `folder`."""

    def __init__(self, limit: TimeLimit | None = None, folder: Path | None = None) -> None:
        self._limit = limit or TimeLimit()
        self._timers: dict[int, _Timer] = {}
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        if folder is not None:
            private_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            self._file = (folder / f"{os.getpid()}-{os.urandom(4).hex()}.txt").open("ab", buffering=0)

    @contextmanager
    def volume(self, name: str) -> Iterator[None]:
        """Limit the time of the volume that this thread builds in a `with` block."""
        limit_s = self._limit.seconds or READING_S
        self._set(_Timer(name, limit_s, time.monotonic() + limit_s))
        try:
            yield
        finally:
            self._set(None)

    def allow(self, num_slices: int, height: int, width: int) -> None:
        """Set the remaining time limit of this thread's volume, now that its size is known."""
        timer = self._timers.get(threading.get_ident())
        if timer is not None and self._limit.seconds is None:
            limit_s = self._limit.work_s(num_slices, height, width)
            self._set(_Timer(timer.name, limit_s, time.monotonic() + limit_s))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause this thread's timer while it waits for others."""
        timer = self._timers.get(threading.get_ident())
        if timer is None:
            yield
            return
        left = timer.deadline - time.monotonic()
        self._set(_Timer(timer.name, timer.limit_s, 0.0, left))
        try:
            yield
        finally:
            self._set(_Timer(timer.name, timer.limit_s, time.monotonic() + left))

    def _set(self, timer: _Timer | None) -> None:
        if self._file is None:
            return
        with self._lock:
            if timer is None:
                self._timers.pop(threading.get_ident(), None)
            else:
                self._timers[threading.get_ident()] = timer
            self._arm(self._file)

    def _arm(self, file: FileIO) -> None:
        """Set faulthandler's timer to the earliest deadline, and record its volume."""
        running = {thread: timer for thread, timer in self._timers.items() if timer.left is None}
        if not running:
            faulthandler.cancel_dump_traceback_later()
            return
        thread, timer = min(running.items(), key=lambda item: item[1].deadline)
        file.truncate(0)
        note = {"name": timer.name, "limit_s": round(timer.limit_s, 1), "thread": f"0x{thread:016x}"}
        file.write(json.dumps(note).encode() + b"\n")
        wait_s = max(timer.deadline - time.monotonic(), _LEAST_S)
        faulthandler.dump_traceback_later(wait_s, exit=True, file=file)


def timeout_folder(root: str) -> Path:
    """Return the folder in which worker processes record the volume that they build."""
    folder = run_folder(root).removeprefix("file://")
    if is_url(folder):  # an object store cannot be written to by a process that hangs
        name = "".join(letter if letter.isalnum() else "_" for letter in folder)
        return user_folder() / name / "hung"
    return Path(folder) / "hung"


@dataclass(frozen=True)
class TimeoutRecord:
    """A volume that exceeded its limit.

    `place` is the innermost call of its thread, if known; `in_storage` tells that it waited for the corpus's own disk
    or object store, which is no fault of the volume.
    """

    limit_s: float
    place: str
    in_storage: bool = False


def find_timeout(root: str, name: str) -> TimeoutRecord | None:
    """Return the timeout record of this volume; None if it did not time out."""
    for path in sorted(timeout_folder(root).glob("*.txt")):
        try:
            note, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            document: dict[str, Any] = json.loads(note)
        except (OSError, ValueError):
            continue
        if lines and document.get("name") == name:
            calls = _calls(lines, str(document.get("thread")))
            place = f"{calls[0][2]} ({Path(calls[0][0]).name}:{calls[0][1]})" if calls else "an unknown place"
            in_storage = any(_STORAGE.search(file) for file, _, _ in calls)
            return TimeoutRecord(float(document.get("limit_s", 0.0)), place, in_storage)
    return None


def clear_timeouts(root: str, keep_dumps: bool = False) -> None:
    """Remove the records of earlier processes; with `keep_dumps`, keep those of timeouts."""
    for path in timeout_folder(root).glob("*.txt"):
        with suppress(OSError):  # must not stop a build
            if not (keep_dumps and path.read_bytes().count(b"\n") > 1):
                path.unlink()


def _calls(lines: list[str], thread: str) -> list[tuple[str, str, str]]:
    """Return file, line and function of each call of a thread, the innermost first, from the lines of faulthandler."""
    inside, found = False, []
    for line in lines:
        if line.startswith(("Thread ", "Current thread ")):
            inside = thread in line
        match = re.match(r'\s+File "(.*)", line (\d+) in (.*)', line)
        if inside and match:
            found.append((match[1], match[2], match[3]))
    return found
