"""What is watched on the scheduler: how far each build is, what its workers do, and a page that shows it."""

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
"""Moments that are remembered: an hour."""

_BUILDS = 20
_PLUGIN = "rephase-watching"
_HANDLER = "rephase_progress"


class BuildMonitor(SchedulerPlugin):  # type: ignore[misc]  # Dask has no types
    """Lives on the scheduler, once, however many builds it serves; holds a bounded number of values."""

    idempotent = True
    name = _PLUGIN

    def __init__(self) -> None:
        self.builds: dict[str, Build] = {}
        self.history: deque[tuple[float, float]] = deque(maxlen=HISTORY)
        self.page: str | None = None
        self._sampled: dict[str, float] = {}
        self._looked = 0.0

    async def start(self, scheduler: Scheduler) -> None:
        """Listen to clients, look at the workers now and then, and add the page."""
        self._scheduler = scheduler
        scheduler.handlers[_HANDLER] = self.take
        self._callback = PeriodicCallback(self.look, LOOK_S * 1000)
        self._callback.start()
        try:
            from rephase.cluster.page import add_page

            add_page(scheduler, self)
        except ImportError as error:
            missing = error.name or "bokeh"
            self.page = f"the dashboard has no rephase page: {missing} is not installed where the scheduler runs"
        except Exception as error:  # an unfamiliar version of Dask or bokeh must not stop a build
            self.page = f"the dashboard has no rephase page: {type(error).__name__}: {error}"

    async def close(self) -> None:
        """Stop looking."""
        self._callback.stop()

    def take(self, build: str, told: Mapping[str, Any]) -> str | None:
        """Take in what a client tells of its build; answers with what the page lacks, None where it is there."""
        entry = self.builds.setdefault(build, Build())
        entry.told = dict(told)
        moment = time.monotonic()
        entry.volumes.add(moment, told["done"])
        entry.slices.add(moment, told["slices"])
        while len(self.builds) > _BUILDS:
            self.builds.pop(next(iter(self.builds)))
        return self.page

    def workers(self) -> dict[str, dict[str, Any]]:
        """Give the counters of every worker that has some, with its memory in bytes and its name."""
        return {
            address: {**state.metrics[METRIC], "memory": state.metrics.get("memory", 0), "name": str(state.name)}
            for address, state in self._scheduler.workers.items()
            if METRIC in state.metrics
        }

    def look(self) -> None:
        """Remember how many slices a second were sampled since the last look."""
        now = time.monotonic()
        sampled = {address: float(worker["sampled"]) for address, worker in self.workers().items()}
        # a worker that was not there is counted from now on: it may have been at work before we looked
        grown = sum(max(value - self._sampled.get(address, value), 0.0) for address, value in sampled.items())
        if self._looked:
            self.history.append((time.time(), grown / (now - self._looked)))
        self._sampled, self._looked = sampled, now


class ProgressReporter:
    """Reports the progress of a build to the scheduler, at most once per second. What fails here never fails the build.

    Parameters
    ----------
    client
        Of the build.
    build
        Names it on the page; unique.
    say
        Gets one line where the page cannot be had.
    """

    def __init__(self, client: Client, build: str, say: Callable[[str], None]) -> None:
        self._client = client
        self._build = build
        self._say = say
        self._told = 0.0
        self._silent = False
        try:
            client.register_plugin(BuildMonitor())
        except Exception as error:  # the scheduler lacks this package, or forbids pickled plugins
            self._give_up(f"the dashboard has no rephase page: the scheduler cannot run it ({one_line(error)})")

    def report(self, facts: Callable[[], dict[str, Any]], at_once: bool = False) -> None:
        """Send what `facts` returns: `corpus`, `total`, `done`, `failed`, `slices`, `last_failures`, `ended`."""
        now = time.monotonic()
        if self._silent or (now - self._told < 1.0 and not at_once) or self._client.status != "running":
            return
        first, self._told = not self._told, now
        try:
            lacking = self._client.sync(
                getattr(self._client.scheduler, _HANDLER), build=self._build, told=facts(), callback_timeout=5
            )
        except Exception:  # a scheduler that is busy or gone: the window over the tasks finds that out
            return
        if first and lacking:
            self._say(lacking)

    def _give_up(self, line: str) -> None:
        self._silent = True
        self._say(line)
