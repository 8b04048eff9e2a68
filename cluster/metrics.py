"""Brings a worker's counters to the scheduler, with its heartbeat, and to Prometheus, on its own `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distributed import Client, WorkerPlugin
from distributed.worker import Worker

from rephase.counters import COUNTERS
from rephase.text import install_hint

METRIC = "rephase"
"""Under this name the scheduler has a worker's counters."""

_PLUGIN = "rephase-metrics"


def metrics_plugin() -> WorkerPlugin:
    """Make a plugin that publishes `rephase.counters.COUNTERS` of every worker process.

    It stays on a cluster that was there before, so its class travels by value: a worker without this package that joins
    later for someone else's work must not fail over it.
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
    """Let the workers publish what they do, in the heartbeat and on `/metrics`; those too that join later."""
    client.register_plugin(metrics_plugin(), name=_PLUGIN)


def prometheus_missing() -> str | None:
    """Say in one line that there are no counters for Prometheus in this environment; None where there are."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        return f"no rephase counters on /metrics: prometheus-client is not installed; {install_hint('metrics')}"
    return None


def snapshot(worker: Worker) -> dict[str, Any]:
    """Give the counters of this process, for the heartbeat."""
    return COUNTERS.snapshot()


def publish() -> None:
    """Register the counters with Prometheus's registry, once in a process; nothing where it is not installed."""
    if prometheus_missing() is not None:
        return
    from prometheus_client import REGISTRY

    if not getattr(publish, "done", False):
        publish.done = True  # type: ignore[attr-defined]
        REGISTRY.register(Collector())


class Collector:
    """Gives the counters in Prometheus's terms."""

    def describe(self) -> list[Any]:
        """Give nothing, so that registering does not collect."""
        return []

    def collect(self) -> Iterator[Any]:
        """Give every metric."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        now = COUNTERS.snapshot()
        for name, what, value in (
            ("slices", "Slices of committed volumes.", now["slices"]),
            ("sampled_slices", "Slices that were given phase.", now["sampled"]),
            ("gpu_busy_seconds", "Seconds of the GPU, from CUDA events.", now["device_s"]),
        ):
            yield CounterMetricFamily(f"rephase_{name}", what, value=value)
        for name, what, label, values in (
            ("volumes", "Volumes by how they ended.", "status", now["volumes"]),
            ("stage_seconds", "Seconds of work by stage.", "stage", now["seconds"]),
            ("failures", "Failed volumes by reason.", "reason", now["failures"]),
        ):
            family = CounterMetricFamily(f"rephase_{name}", what, labels=[label])
            for key, value in sorted(values.items()):
                family.add_metric([key], value)
            yield family
        yield GaugeMetricFamily("rephase_volumes_in_work", "Volumes in work.", value=now["in_work"])
        yield GaugeMetricFamily("rephase_volumes_waiting", "Volumes that wait for the sampler.", value=now["waiting"])
