"""How far a corpus is: what is committed, what failed, and what the last run did."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rephase.builder.run_history import RunStatus, _say_run, summarise_run
from rephase.builder.runlog import Failure, read_failures, run_names
from rephase.cluster.progress import Rate
from rephase.corpus.storage.open import open_run_folder, open_storage
from rephase.corpus.store import CorpusStore, open_attributes
from rephase.text import format_seconds

_SHOWN = 20


@dataclass
class CorpusStatus:
    """How far a corpus is."""

    corpus: str
    recipe: dict[str, Any]
    num_committed: int
    num_unfinished: int
    failures: dict[str, Failure]
    last_run: RunStatus | None

    def to_json(self) -> dict[str, Any]:
        """Give all of it as a JSON object."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Say it in words."""
        recipe = self.recipe
        lines = [
            f"corpus:    {self.corpus}",
            f"recipe:    phase {recipe.get('phase')}, seed {recipe.get('seed')}",
            f"committed: {self.num_committed} volumes",
        ]
        if self.num_unfinished:
            lines.append(f"begun:     {self.num_unfinished} volumes without a receipt; the next build makes them again")
        if self.last_run is not None:
            lines.append(f"last run:  {_say_run(self.last_run)}")
        if self.failures:
            counts = Counter(failure.reason for failure in self.failures.values())
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
            lines.append(f"failed:    {len(self.failures)} volumes: {reasons}")
            for name, failure in list(self.failures.items())[:_SHOWN]:
                lines.append(f"  {name}: {failure.reason}: {failure.message}")
            if len(self.failures) > _SHOWN:
                lines.append(f"  and {len(self.failures) - _SHOWN} more, all of them with --json")
        return lines


def read_status(root: str) -> CorpusStatus:
    """Read how far a corpus is, while it is built or later.

    Raises
    ------
    RequestError
        If there is no corpus.
    """
    store = CorpusStore.open(root)
    recipe = store.attributes.get("recipe")
    runs = run_names(store.root)
    return CorpusStatus(
        corpus=store.root,
        recipe=recipe if isinstance(recipe, dict) else {},
        num_committed=len(store.names()),
        num_unfinished=len(store.unfinished()),
        failures=read_failures(store.root),
        last_run=summarise_run(store.root, runs[-1]) if runs else None,
    )


EVERY_S = 2.0


SILENT_S = 120.0
"""A run that says nothing for so long may be dead."""


_LAST = 5
_BLOCK = 1 << 20


class Follower:
    """What the newest run has done so far. Only new lines of its log are read.

    Raises
    ------
    RequestError
        If there is no corpus.
    """

    def __init__(self, root: str) -> None:
        self.root = root.removeprefix("file://")
        open_attributes(open_storage(root))
        self._log = open_run_folder(root)
        self._forget("")

    def _forget(self, name: str) -> None:
        self.name = name
        self._offset = 0
        self.total = 0
        self.num_slices = 0
        self.started = self.last = 0.0
        self.counts: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.failures: list[tuple[str, str, str]] = []
        self.ended: str | None = None
        self._volumes, self._slices = Rate(), Rate(60.0)

    def look(self) -> None:
        """Read what is new; a newer run takes the place of the one that was followed."""
        names = run_names(self.root)
        if names and names[-1] != self.name:
            self._forget(names[-1])
        for line in self._new_lines():
            self._take(line)

    def _new_lines(self) -> Iterator[dict[str, Any]]:
        if not self.name:
            return
        while block := self._log.get_range(f"runs/{self.name}", self._offset, _BLOCK):
            whole = block[: block.rfind(b"\n") + 1]  # a line without its end is being written
            self._offset += len(whole)
            for text in whole.splitlines():
                try:
                    line = json.loads(text)
                except ValueError:
                    continue
                if isinstance(line, dict):
                    yield line
            if not whole or len(block) < _BLOCK:
                return

    def _take(self, line: dict[str, Any]) -> None:
        self.last = float(line["time"])
        match line["event"]:
            case "start":
                self.started, self.total = self.last, line["num_volumes"]
            case "volume":
                self.counts[line["status"]] += 1
                self.num_slices += line["num_slices"] if line["status"] == "built" else 0
                self.seconds.update(line["seconds"])
                if line["status"] == "failed":
                    self.failures = [*self.failures, (line["name"], line["reason"], line["message"])][-_LAST:]
                self._volumes.add(self.last, self.counts.total())
                self._slices.add(self.last, self.num_slices)
            case "end":
                self.ended = "interrupted" if line["interrupted"] else line["stopped"] or "ended"

    def lines(self, now: float) -> list[str]:
        """Say how far the run is; `now` is the time of the clock that the log is written by."""
        if not self.name:
            return [f"{self.root}: no run yet"]
        done = self.counts.total()
        share = f" ({100 * done / self.total:.0f} %)" if self.total else ""
        words = ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items())) or "none yet"
        began = datetime.fromtimestamp(self.started, UTC)
        return [
            f"{self.root}: run of {began:%Y-%m-%d %H:%M:%S} UTC, {self._say_state(now)}",
            f"volumes: {done} of {self.total}{share}: {words}; {self.total - done} left",
            f"speed:   {self._say_speed()}",
            f"stages:  {self._say_stages()}",
            *(["last failures:"] if self.failures else []),
            *(f"  {name}: {reason}: {message}" for name, reason, message in reversed(self.failures)),
        ]

    def _say_state(self, now: float) -> str:
        if self.ended:
            return f"{self.ended} after {format_seconds(self.last - self.started)}"
        silent = now - self.last
        dead = f"; nothing for {format_seconds(silent)}: at a large volume, or killed" if silent > SILENT_S else ""
        return f"for {format_seconds(now - self.started)}{dead}"

    def _say_speed(self) -> str:
        rate = self._slices.per_second()
        if self.ended or rate is None:
            whole = self.last - self.started
            return f"{self.num_slices / whole:.1f} slices/s over all" if whole > 0 else "not known yet"
        seconds = self._volumes.seconds_left(self.total - self.counts.total())
        if seconds is None:
            return f"{rate:.1f} slices/s"
        end = datetime.fromtimestamp(self.last, UTC) + timedelta(seconds=seconds)
        return f"{rate:.1f} slices/s, about {format_seconds(seconds)} left, until {end:%Y-%m-%d %H:%M} UTC"

    def _say_stages(self) -> str:
        whole = sum(self.seconds.values())
        parts = [f"{stage} {100 * value / whole:.0f} %" for stage, value in self.seconds.most_common() if whole]
        return ", ".join(parts) or "none yet"


def follow(root: str, show: Callable[[list[str]], None], every_s: float = EVERY_S) -> Follower:
    """Show the newest run again and again until it ends; Ctrl-C ends the looking, not the build.

    Parameters
    ----------
    root
        Path or URL of the corpus.
    show
        Gets the lines each time.
    every_s
        Seconds between two looks.
    """
    follower = Follower(root)
    try:
        while True:
            follower.look()
            show(follower.lines(time.time()))
            if follower.ended or not follower.name:
                return follower
            time.sleep(every_s)
    except KeyboardInterrupt:
        return follower


def draw(lines: list[str]) -> None:
    """Write the lines on standard output: over the last ones on a terminal, below them elsewhere."""
    if sys.stdout.isatty():
        sys.stdout.write("\033[H\033[2J")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
