"""The progress of builds on the scheduler: a plugin that collects it for a page, and the reporter of a client."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Client, SchedulerPlugin
from distributed.scheduler import Scheduler
from tornado.ioloop import PeriodicCallback

from rephase.cluster.metrics import METRIC, BuildCollector, prometheus_missing
from rephase.progress import InWork, Progress, Rate
from rephase.text import one_line

LOOK_S = 2.0
SMOOTHED_S = 30.0
"""Seconds over which a rate is averaged: a batch of slices is done at once."""
HISTORY = 1800
"""Number of rates kept: one hour."""

_BUILDS = 20
_PLUGIN = "rephase-watching"
_HANDLER = "rephase_progress"


@dataclass
class Build:
    """A build as its client reports it: `report` has `corpus`, `last_failures` and `ended`."""

    report: dict[str, Any]
    progress: Progress


@dataclass(frozen=True)
class Observation:
    """What the scheduler knows of a build: the volumes that workers are building, and the number of workers."""

    in_work: list[InWork]
    num_workers: int


class BuildMonitor(SchedulerPlugin):  # type: ignore[misc]  # Dask has no types
    """Collects the progress of all builds; one per scheduler, with a bounded number of values."""

    idempotent = True
    name = _PLUGIN

    def __init__(self) -> None:
        self.builds: dict[str, Build] = {}
        self.history: deque[tuple[float, float]] = deque(maxlen=HISTORY)
        self.page: str | None = None
        self._scheduler: Scheduler | None = None
        self._collector: BuildCollector | None = None
        self._sampled: dict[str, float] = {}
        self._total = 0.0
        self._rate = Rate(SMOOTHED_S)

    async def start(self, scheduler: Scheduler) -> None:
        """Register the handler of clients' reports, start sampling the workers, and add the page."""
        self._scheduler = scheduler
        scheduler.handlers[_HANDLER] = self.update
        self._callback = PeriodicCallback(self.look, LOOK_S * 1000)
        self._callback.start()
        self._publish()
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
        if self._collector is not None:
            from prometheus_client import REGISTRY

            REGISTRY.unregister(self._collector)
            self._collector = None

    def _publish(self) -> None:
        """Add the builds and the sums of the workers to the scheduler's `/metrics`."""
        if prometheus_missing() is None:
            from prometheus_client import REGISTRY

            self._collector = BuildCollector(
                lambda: [(one.report["corpus"], one.progress, one.report["ended"]) for one in self.builds.values()],
                lambda: self.workers().values(),
            )
            REGISTRY.register(self._collector)

    def update(self, build: str, report: Mapping[str, Any], progress: Mapping[str, Any]) -> dict[str, Any]:
        """Store a client's report of its build; return the reason why it has no page, and what its workers are doing.

        The answer has `page`, None with a page, and the fields of `Observation`, `in_work` as JSON objects.
        """
        self.builds[build] = Build(dict(report), Progress.from_json(progress))
        while len(self.builds) > _BUILDS:
            self.builds.pop(next(iter(self.builds)))
        workers = self.workers()
        volumes = [volume for worker in workers.values() for volume in worker["in_work"] if volume["build"] == build]
        return {"page": self.page, "in_work": volumes, "num_workers": len(workers)}

    def workers(self) -> dict[str, dict[str, Any]]:
        """Return the counters of every worker that has some, with its memory in bytes and its name, by address."""
        return {
            address: {**state.metrics[METRIC], "memory": state.metrics.get("memory", 0), "name": str(state.name)}
            for address, state in (self._scheduler.workers.items() if self._scheduler else ())
            if METRIC in state.metrics
        }

    def look(self) -> None:
        """Append the rate of sampled slices over the last half minute to the history."""
        sampled = {address: float(worker["sampled"]) for address, worker in self.workers().items()}
        # a new worker counts from now on: its earlier slices were not sampled within this interval
        self._total += sum(max(value - self._sampled.get(address, value), 0.0) for address, value in sampled.items())
        self._sampled = sampled
        self._rate.add(time.monotonic(), self._total)
        rate = self._rate.per_second()
        if rate is not None:
            self.history.append((time.time(), rate))


class ProgressReporter:
    """Reports the progress of a build to the scheduler; its errors never fail the build.

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
        self._told = False
        self._silent = False
        try:
            client.register_plugin(BuildMonitor())
        except Exception as error:  # the scheduler lacks this package, or forbids pickled plugins
            self._give_up(f"the dashboard has no rephase page: the scheduler cannot run it ({one_line(error)})")

    def report(self, facts: Mapping[str, Any], progress: Progress) -> Observation | None:
        """Send the `report` of a `Build` and its progress; return what its workers are doing, if known."""
        if self._silent or self._client.status != "running":
            return None
        try:
            answer = self._client.sync(
                getattr(self._client.scheduler, _HANDLER),
                build=self._build,
                report=facts,
                progress=progress.to_json(),
                callback_timeout=5,
            )
        except Exception:  # a busy or lost scheduler, which `run_window` reports
            return None
        if not self._told and answer["page"]:
            self._say(answer["page"])
        self._told = True
        return Observation([InWork.of(one) for one in answer["in_work"]], answer["num_workers"])

    def _give_up(self, line: str) -> None:
        self._silent = True
        self._say(line)
