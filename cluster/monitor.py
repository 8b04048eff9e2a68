"""The progress of builds on the scheduler: a plugin that collects it for a page, and the reporter of a client."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from distributed import Client, SchedulerPlugin
from distributed.scheduler import Scheduler
from tornado.ioloop import PeriodicCallback

from rephase.cluster.metrics import METRIC
from rephase.cluster.progress import Build
from rephase.text import one_line

LOOK_S = 2.0
HISTORY = 1800
"""Number of rates kept: one hour."""

_BUILDS = 20
_PLUGIN = "rephase-watching"
_HANDLER = "rephase_progress"


class BuildMonitor(SchedulerPlugin):  # type: ignore[misc]  # Dask has no types
    """Collects the progress of all builds; one per scheduler, with a bounded number of values."""

    idempotent = True
    name = _PLUGIN

    def __init__(self) -> None:
        self.builds: dict[str, Build] = {}
        self.history: deque[tuple[float, float]] = deque(maxlen=HISTORY)
        self.page: str | None = None
        self._sampled: dict[str, float] = {}
        self._looked = 0.0

    async def start(self, scheduler: Scheduler) -> None:
        """Register the handler of clients' reports, start sampling the workers, and add the page."""
        self._scheduler = scheduler
        scheduler.handlers[_HANDLER] = self.update
        self._callback = PeriodicCallback(self.look, LOOK_S * 1000)
        self._callback.start()
        try:
            from rephase.cluster.page import add_page

            add_page(scheduler, self)
        except ImportError as error:
            missing = error.name or "bokeh"
            self.page = f"the dashboard has no rephase page: {missing} is not installed where the scheduler runs"
        except Exception as error:  # an unknown version of Dask or bokeh must not stop a build
            self.page = f"the dashboard has no rephase page: {type(error).__name__}: {error}"

    async def close(self) -> None:
        """Stop sampling the workers."""
        self._callback.stop()

    def update(self, build: str, progress: Mapping[str, Any]) -> str | None:
        """Store a client's report of its build; return the reason why it has no page, else None."""
        entry = self.builds.setdefault(build, Build())
        entry.progress = dict(progress)
        moment = time.monotonic()
        entry.volumes.add(moment, progress["done"])
        entry.slices.add(moment, progress["slices"])
        while len(self.builds) > _BUILDS:
            self.builds.pop(next(iter(self.builds)))
        return self.page

    def workers(self) -> dict[str, dict[str, Any]]:
        """Return the counters of every worker that has some, with its memory in bytes and its name, by address."""
        return {
            address: {**state.metrics[METRIC], "memory": state.metrics.get("memory", 0), "name": str(state.name)}
            for address, state in self._scheduler.workers.items()
            if METRIC in state.metrics
        }

    def look(self) -> None:
        """Append the rate of sampled slices since the last call to the history."""
        now = time.monotonic()
        sampled = {address: float(worker["sampled"]) for address, worker in self.workers().items()}
        # a new worker counts from now on: its earlier slices were not sampled within this interval
        grown = sum(max(value - self._sampled.get(address, value), 0.0) for address, value in sampled.items())
        if self._looked:
            self.history.append((time.time(), grown / (now - self._looked)))
        self._sampled, self._looked = sampled, now


class ProgressReporter:
    """Reports the progress of a build to the scheduler, at most once per second; its errors never fail the build.

    Parameters
    ----------
    client
        Client of the build.
    build
        Unique key of the build.
    say
        Called with one line if the page is unavailable.
    """

    def __init__(self, client: Client, build: str, say: Callable[[str], None]) -> None:
        self._client = client
        self._build = build
        self._say = say
        self._reported_s = 0.0
        self._silent = False
        try:
            client.register_plugin(BuildMonitor())
        except Exception as error:  # the scheduler lacks this package, or forbids pickled plugins
            self._give_up(f"the dashboard has no rephase page: the scheduler cannot run it ({one_line(error)})")

    def report(self, facts: Callable[[], dict[str, Any]], at_once: bool = False) -> None:
        """Send what `facts` returns, the `progress` of `rephase.cluster.progress.Build`."""
        now = time.monotonic()
        if self._silent or (now - self._reported_s < 1.0 and not at_once) or self._client.status != "running":
            return
        first, self._reported_s = not self._reported_s, now
        try:
            lacking = self._client.sync(
                getattr(self._client.scheduler, _HANDLER), build=self._build, progress=facts(), callback_timeout=5
            )
        except Exception:  # a busy or lost scheduler, which `run_window` reports
            return
        if first and lacking:
            self._say(lacking)

    def _give_up(self, line: str) -> None:
        self._silent = True
        self._say(line)
