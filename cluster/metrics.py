"""Publish the counters of a worker: with its heartbeat to the scheduler, and for Prometheus on its `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distributed import Client, WorkerPlugin
from distributed.worker import Worker

from rephase.counters import COUNTERS
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
    """The counters as Prometheus metrics."""

    def describe(self) -> list[Any]:
        """Return no metrics, so that registering does not collect them."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield every metric."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        now = COUNTERS.snapshot()
        for name, what, value in (
            ("slices", "Slices of committed volumes.", now["slices"]),
            ("sampled_slices", "Slices with sampled phase.", now["sampled"]),
            ("gpu_busy_seconds", "Busy time of the GPU, from CUDA events.", now["device_s"]),
        ):
            yield CounterMetricFamily(f"rephase_{name}", what, value=value)
        for name, what, label, values in (
            ("volumes", "Finished volumes by status.", "status", now["volumes"]),
            ("stage_seconds", "Seconds of work by stage, over all threads.", "stage", now["seconds"]),
            ("failures", "Failed volumes by reason.", "reason", now["failures"]),
        ):
            family = CounterMetricFamily(f"rephase_{name}", what, labels=[label])
            for key, value in sorted(values.items()):
                family.add_metric([key], value)
            yield family
        yield GaugeMetricFamily("rephase_volumes_in_work", "Volumes being built.", value=now["in_work"])
        yield GaugeMetricFamily("rephase_volumes_waiting", "Volumes waiting for the sampler.", value=now["waiting"])
