"""The progress of a run as its client knows it: on the bar, the dashboard, and in `progress.json` beside the corpus."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from rephase.builder.headers import HeaderSizes
from rephase.builder.run_state import PROGRESS_KEY
from rephase.cluster.monitor import ProgressReporter
from rephase.corpus.storage.open import open_run_folder
from rephase.pipeline.task import Outcome, Task, TaskList
from rephase.progress import Estimator, Progress

_TICK_S = 1.0
_WRITE_EVERY_S = 2.0
_BAR = "{percentage:3.0f}%|{bar}| {desc}[{elapsed}]"


class RunProgress:
    """Estimates the progress of a run, and passes it on about once per second.

    Parameters
    ----------
    tasks
        The tasks of the run.
    committed
        Names of committed volumes, which need no work.
    num_workers
        Number of workers at the start.
    reporter
        Passes the progress on to the dashboard, and returns what the workers are doing.
    root, run, token
        Path or URL of the corpus, name of the run's log, and token of the lease.
    show
        Show a bar on standard error.
    """

    def __init__(
        self,
        tasks: TaskList,
        committed: set[str],
        num_workers: int,
        reporter: ProgressReporter,
        root: str,
        run: str,
        token: str,
        show: bool,
    ) -> None:
        self._estimator = Estimator(tasks.pixels, num_workers)
        if committed:
            for position, name in enumerate(tasks.names()):
                if name in committed:
                    self._estimator.settle(position)
        self._reporter = reporter
        self._headers = HeaderSizes(tasks)
        self._storage = open_run_folder(root, token)
        self._run = run
        self._told = self._written = self._drawn = 0.0
        self._write_every_s = _WRITE_EVERY_S
        self._draw_every_s = 0.2 if sys.stderr.isatty() else 30.0  # a log file needs few lines
        self._bar = tqdm(total=1.0, bar_format=_BAR, disable=not show, dynamic_ncols=True, delay=0.1)

    def drawn(self, tasks: Iterable[Task], keep: Callable[[Iterator[Task]], Iterator[Task]]) -> Iterator[Task]:
        """Yield the tasks that `keep` keeps, as they start; tasks that it drops need no work."""
        position = -1

        def counted() -> Iterator[Task]:
            nonlocal position
            for task in tasks:
                position += 1
                yield task

        for task in keep(counted()):
            self._estimator.start(task.name, position)
            yield task
        self._estimator.leave_out(position + 1)

    def finish(self, outcome: Outcome) -> None:
        """Count the outcome of a volume."""
        self._estimator.finish(
            outcome.name, outcome.status, outcome.num_slices, outcome.num_pixels or None, outcome.seconds
        )

    def tick(self, facts: Callable[[], Mapping[str, Any]], at_once: bool = False) -> None:
        """Pass the progress on, with the `report` of a build, if that was not done within the last second."""
        now = time.monotonic()
        if now - self._told < _TICK_S and not at_once:
            return
        self._told = now
        for position, pixels in self._headers.take():
            self._estimator.learn(position, pixels)
        progress = self._estimator.progress()
        seen = self._reporter.report(facts(), progress)
        if seen is not None:
            self._estimator.observe(seen.in_work, seen.num_workers)
        self._draw(progress, now)
        self._write(progress, now, at_once)

    def close(self) -> None:
        """End the bar and the reading of headers."""
        self._headers.close()
        self._bar.close()

    def _draw(self, progress: Progress, now: float) -> None:
        self._bar.n = min(progress.share, 1.0)
        self._bar.set_description_str(f"{progress.line()} ", refresh=False)
        if now - self._drawn >= self._draw_every_s:
            self._bar.refresh()
            self._drawn = now

    def _write(self, progress: Progress, now: float, at_once: bool) -> None:
        if now - self._written < self._write_every_s and not at_once:
            return
        document = json.dumps({"run": self._run, **progress.to_json()}, indent=1)
        with suppress(OSError):  # a full disk, which the log reports
            self._storage.put(PROGRESS_KEY, document.encode() + b"\n")
        self._written = time.monotonic()
        self._write_every_s = max(_WRITE_EVERY_S, 20 * (self._written - now))
