"""`rephase status`: committed and failed volumes of a corpus, and the state of the latest run."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rephase.builder.run_state import RunState, read_progress, read_run_state
from rephase.builder.runlog import Failure, read_failures, run_names
from rephase.corpus.layout import committed_names, open_attributes, unfinished_names
from rephase.corpus.storage.open import open_run_folder, open_storage
from rephase.progress import Progress
from rephase.text import format_seconds

if TYPE_CHECKING:
    from rephase.corpus.lease import Holder

_SHOWN = 20

EVERY_S = 2.0
"""Time between two updates of `--watch`."""

_BLOCK = 1 << 20


@dataclass
class CorpusStatus:
    """The progress of a corpus.

    `num_unfinished` counts volumes that were started and not committed. A run that has not ended has a `progress`, as
    it last reported it, and a `builder`, who holds the lease.
    """

    corpus: str
    recipe: dict[str, Any]
    num_committed: int
    num_unfinished: int
    failures: dict[str, Failure]
    last_run: RunState | None
    progress: Progress | None = None
    builder: Holder | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the status as a JSON object."""
        return {
            "corpus": self.corpus,
            "recipe": self.recipe,
            "num_committed": self.num_committed,
            "num_unfinished": self.num_unfinished,
            "failures": {name: asdict(failure) for name, failure in self.failures.items()},
            "last_run": None if self.last_run is None else self.last_run.to_json(),
            "progress": None if self.progress is None else self.progress.to_json(),
            "builder": None if self.builder is None else asdict(self.builder),
        }

    def lines(self) -> list[str]:
        """Format the status as lines of text."""
        lines = [
            f"corpus:    {self.corpus}",
            f"recipe:    phase {self.recipe.get('phase')}, seed {self.recipe.get('seed')}",
            f"committed: {self.num_committed} volumes",
        ]
        if self.num_unfinished:
            lines.append(f"begun:     {self.num_unfinished} volumes, not committed; the next build rebuilds them")
        if self.last_run is not None:
            lines.append(f"last run:  {self.last_run.line()}")
            if not self.last_run.ended:
                lines.append(f"builder:   {describe_builder(self.builder)}")
                lines += [f"{name}{text}" for name, text in _describe_progress(self.progress, self.builder)]
        if self.failures:
            counts = Counter(failure.reason for failure in self.failures.values())
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
            lines.append(f"failed:    {len(self.failures)} volumes: {reasons}")
            for name, failure in list(self.failures.items())[:_SHOWN]:
                lines.append(f"  {name}: {failure.reason}: {failure.shown}")
            if len(self.failures) > _SHOWN:
                lines.append(f"  and {len(self.failures) - _SHOWN} more, all of them with --json")
        return lines


def read_status(root: str) -> CorpusStatus:
    """Read the progress of a corpus, during a build or later.

    Raises
    ------
    RequestError
        If there is no corpus.
    """
    storage = open_storage(root)
    recipe = open_attributes(storage).get("recipe")
    runs = run_names(storage.root)
    last_run = read_run_state(storage.root, runs[-1]) if runs else None
    running = last_run is not None and not last_run.ended
    return CorpusStatus(
        corpus=storage.root,
        recipe=recipe if isinstance(recipe, dict) else {},
        num_committed=len(committed_names(storage)),
        num_unfinished=len(unfinished_names(storage)),
        failures=read_failures(storage.root),
        last_run=last_run,
        progress=read_progress(storage.root, runs[-1]) if running else None,
        builder=_find_holder(storage.root) if running else None,
    )


class Follower:
    """Follows the newest run of a corpus; only new lines of its log are read.

    `run` is its state, None before the first `look` and without any run.

    Raises
    ------
    RequestError
        If there is no corpus.
    """

    def __init__(self, root: str) -> None:
        self.root = root.removeprefix("file://")
        open_attributes(open_storage(root))
        self._log = open_run_folder(root)
        self.run: RunState | None = None
        self._offset = 0

    def look(self) -> None:
        """Read the new lines of the log; switch to a newer run as soon as one starts."""
        names = run_names(self.root)
        if names and (self.run is None or names[-1] != self.run.name):
            self.run, self._offset = RunState(names[-1]), 0
        if self.run is not None:
            for line in self._new_lines(f"runs/{self.run.name}"):
                self.run.take(line)

    def _new_lines(self, key: str) -> Iterator[dict[str, Any]]:
        while block := self._log.get_range(key, self._offset, _BLOCK):
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

    def lines(self, now: float) -> list[str]:
        """Format the run; `now` is the time by the clock of the log."""
        run = self.run
        if run is None:
            return [f"{self.root}: no run yet"]
        done = run.counts.total()
        began = datetime.fromtimestamp(run.started, UTC)
        if run.ended:
            rate = run.slices_per_second()
            state = f"{run.end} after {format_seconds(run.seconds)}"
            progress = [("speed:   ", "no slice was built" if rate is None else f"{rate:.1f} slices/s")]
        else:
            builder = _find_holder(self.root)
            state = f"for {format_seconds(now - run.started)}; {describe_builder(builder)}"
            progress = _describe_progress(read_progress(self.root, run.name), builder, "")
        return [
            f"{self.root}: run of {began:%Y-%m-%d %H:%M:%S} UTC, {state}",
            f"volumes: {done} of {run.num_volumes}: {run.describe_counts()}; {run.num_left} left",
            *(f"{name}{text}" for name, text in progress),
            f"stages:  {_describe_stages(run)}",
            *(["last failures:"] if run.failures else []),
            *(f"  {name}: {reason}: {message}" for name, reason, message in reversed(run.failures)),
        ]


def _find_holder(root: str) -> Holder | None:
    from rephase.corpus.lease import find_holder  # what it imports is needed for runs that have not ended only

    return find_holder(root)


def describe_builder(holder: Holder | None) -> str:
    """Say whether the builder of a run that has not ended is running."""
    resume = "the same command resumes it"
    if holder is None:
        return f"not running: it ended without a word, and nobody holds the lease; {resume}"
    if holder.alive:
        return f"running: {holder}, last heartbeat {holder.silent_s:.0f} s ago"
    if holder.alive is None:
        return f"no heartbeat of {holder} for {format_seconds(holder.silent_s)}; {resume} with --break-lease"
    return f"not running: {holder} is gone; {resume}"


def _describe_progress(progress: Progress | None, builder: Holder | None, indent: str = "  ") -> list[tuple[str, str]]:
    """Format what a builder last reported, if it still holds the lease."""
    if progress is None or builder is None or builder.alive is False:
        return []
    return [
        (f"work:    {indent}", f"{100 * progress.share:.0f} % done, {progress.speed()}"),
        (f"in work: {indent}", progress.working_on()),
    ]


def _describe_stages(run: RunState) -> str:
    whole = run.stage_seconds.total()
    parts = [f"{stage} {100 * value / whole:.0f} %" for stage, value in run.stage_seconds.most_common() if whole]
    return ", ".join(parts) or "none yet"


def follow(root: str, show: Callable[[list[str]], None], every_s: float = EVERY_S) -> Follower:
    """Show the newest run repeatedly until it ends; Ctrl-C stops the display, not the build.

    Parameters
    ----------
    root
        Path or URL of the corpus.
    show
        Receives the lines each time.
    every_s
        Seconds between two updates.
    """
    follower = Follower(root)
    try:
        while True:
            follower.look()
            show(follower.lines(time.time()))
            if follower.run is None or follower.run.ended:
                return follower
            time.sleep(every_s)
    except KeyboardInterrupt:
        return follower


def draw(lines: list[str]) -> None:
    """Write lines to standard output: over the previous ones on a terminal, below them elsewhere."""
    if sys.stdout.isatty():
        sys.stdout.write("\033[H\033[2J")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
