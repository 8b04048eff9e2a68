"""Publish the counters of a worker: with its heartbeat to the scheduler, and for Prometheus on its `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from distributed import Client, WorkerPlugin
from distributed.worker import Worker

from rephase.counters import COUNTERS, Counters
from rephase.progress import Progress
from rephase.text import install_hint

METRIC = "rephase"
"""Name of the counters among a worker's metrics on the scheduler."""

_PLUGIN = "rephase-metrics"


def metrics_plugin() -> WorkerPlugin:
    """Return a plugin that publishes `rephase.counters.COUNTERS` of every worker process.

    It remains on a cluster that this build has only joined. So its class is local and is pickled by value: a worker
    without this package that joins later, for other work, must not fail.
    """

    class Publish(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
        def setup(self, worker: Worker) -> None:
            try:
                from rephase.cluster.metrics import METRIC, publish, snapshot
            except ImportError:
                return
            worker.metrics[METRIC] = snapshot
            publish()

    return Publish()


def install_metrics(client: Client) -> None:
    """Publish the counters of all workers, also of those that join later, in the heartbeat and on `/metrics`."""
    client.register_plugin(metrics_plugin(), name=_PLUGIN)


def prometheus_missing() -> str | None:
    """Return the reason why `/metrics` has no counters in this environment, as one line; None if it has them."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        return f"no rephase counters on /metrics: prometheus-client is not installed; {install_hint('metrics')}"
    return None


def snapshot(worker: Worker) -> dict[str, Any]:
    """Return the counters of this process, for the heartbeat."""
    return COUNTERS.snapshot()


def publish() -> None:
    """Register the counters with Prometheus's registry, once per process; do nothing if it is not installed."""
    if prometheus_missing() is not None:
        return
    from prometheus_client import REGISTRY

    if not getattr(publish, "done", False):
        publish.done = True  # type: ignore[attr-defined]
        REGISTRY.register(Collector())


class Collector:
    """The counters of a worker as Prometheus metrics."""

    def describe(self) -> list[Any]:
        """Return no metrics, so that registering does not collect them."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield every metric."""
        yield from worker_metrics("rephase", COUNTERS.snapshot())


class BuildCollector:
    """The builds that report to a scheduler, and the sums of its workers' counters, as Prometheus metrics.

    Parameters
    ----------
    builds
        Returns corpus, progress and state ("" while it runs) of every build.
    workers
        Returns the counters of every worker.
    """

    def __init__(
        self,
        builds: Callable[[], Iterable[tuple[str, Progress, str]]],
        workers: Callable[[], Iterable[Mapping[str, Any]]],
    ) -> None:
        self._builds, self._workers = builds, workers

    def describe(self) -> list[Any]:
        """Return no metrics, so that registering does not collect them."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield every metric."""
        from prometheus_client.core import GaugeMetricFamily

        builds = {build[0]: build for build in self._builds()}.values()  # the latest of each corpus
        for name, what, values in _BUILD_METRICS:
            family = GaugeMetricFamily(f"rephase_build_{name}", what, labels=["corpus"])
            for corpus, progress, ended in builds:
                value = values(progress, ended)
                if value is not None:
                    family.add_metric([corpus], value)
            yield family
        volumes = GaugeMetricFamily(
            "rephase_build_volumes", "Volumes of a build by status.", labels=["corpus", "status"]
        )
        for corpus, progress, _ in builds:
            for status in ("built", "skipped", "failed", "not_retried"):
                volumes.add_metric([corpus, status], getattr(progress, status))
            volumes.add_metric([corpus, "left"], progress.num_left)
        yield volumes
        workers = list(self._workers())
        yield GaugeMetricFamily("rephase_cluster_workers", "Workers that count.", value=len(workers))
        yield from worker_metrics("rephase_cluster", sum_counters(workers))


_BUILD_METRICS: tuple[tuple[str, str, Callable[[Progress, str], float | None]], ...] = (
    ("running", "Whether a build is running.", lambda _, ended: float(not ended)),
    ("work_ratio", "Share of the work done: slices weighted by their pixels.", lambda progress, _: progress.share),
    ("slices", "Slices of the volumes built.", lambda progress, _: progress.num_slices),
    ("slices_per_second", "Slices per second over the last minute.", lambda progress, _: progress.slices_per_s),
    (
        "seconds_left",
        "Estimate of the remaining time.",
        lambda progress, ended: None if ended else progress.seconds_left,
    ),
)


def sum_counters(workers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of several workers' `rephase.counters.Counters.snapshot`."""
    total: dict[str, Any] = Counters().snapshot()
    for worker in workers:
        for name, value in total.items():
            if isinstance(value, dict):
                for key, count in worker[name].items():
                    value[key] = value.get(key, 0) + count
            elif isinstance(value, list):  # a tuple once it has been sent
                value.extend(worker[name])
            else:
                total[name] = value + worker[name]
    return total


def worker_metrics(prefix: str, now: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the metrics of a snapshot of counters."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, what, value in (
        ("slices", "Slices of committed volumes.", now["slices"]),
        ("sampled_slices", "Slices with sampled phase.", now["sampled"]),
        ("gpu_busy_seconds", "Busy time of the GPU, from CUDA events.", now["device_s"]),
    ):
        yield CounterMetricFamily(f"{prefix}_{name}", what, value=value)
    for name, what, label, values in (
        ("volumes", "Finished volumes by status.", "status", now["volumes"]),
        ("stage_seconds", "Seconds of work by stage, over all threads.", "stage", now["seconds"]),
        ("failures", "Failed volumes by reason.", "reason", now["failures"]),
    ):
        family = CounterMetricFamily(f"{prefix}_{name}", what, labels=[label])
        for key, value in sorted(values.items()):
            family.add_metric([key], value)
        yield family
    yield GaugeMetricFamily(f"{prefix}_volumes_in_work", "Volumes being built.", value=len(now["in_work"]))
    yield GaugeMetricFamily(f"{prefix}_volumes_waiting", "Volumes waiting for the sampler.", value=now["waiting"])
