"""Overlap of I/O and sampling: a build whose sampling takes a known time.

`python -m tests.benchmarks.overlap`; exit status 1 if sampling takes less than `TARGET` of the wall time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rephase.bench.measure import BenchResult, Table, Value, rounded
from rephase.bench.phantom import write_volumes
from rephase.builder.options import BuildOptions
from rephase.builder.resolve import ResolvedBuild, resolve_build
from rephase.builder.run import run_tasks
from rephase.builder.run_state import read_run_states
from rephase.builder.workers import WorkerSetup, prepare_worker, prepare_workers
from rephase.cluster.connect import Connection
from rephase.cluster.worker_state import install_state
from rephase.corpus.lease import Lease
from rephase.corpus.store import CorpusStore
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.manifests.parse import read_manifest
from rephase.pipeline.environment import machine_facts
from rephase.pipeline.task import task_list
from rephase.pipeline.worker import WorkerContext
from tests.benchmarks.command_line import run_benchmark

TARGET = 0.95
"""Minimum fraction of the wall time for sampling."""

_OTHER = ("lookup", "read", "prepare", "kspace", "commit")


class Sleeper:
    """A generator that holds the sampling lock for a known time without using a core."""

    name = "sleeper"
    nfe = 0
    families = licence = seen = None
    tile = 1
    weights_sha256 = None
    device = torch.device("cpu")

    def __init__(self, seconds_per_slice: float) -> None:
        self._seconds_per_slice = seconds_per_slice

    def sample_phase(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        """Wait, then return zero phase."""
        time.sleep(self._seconds_per_slice * len(magnitude))
        return torch.ones(magnitude.shape, dtype=torch.complex64)


def bench_overlap(
    volumes_per_worker: int = 40,
    num_slices: int = 8,
    size: int = 128,
    seconds: float = 1.0,
    workers: Sequence[int] = (1, 2),
    folder: Path | None = None,
) -> BenchResult:
    """Build volumes whose sampling is a wait, with each number of workers.

    Parameters
    ----------
    volumes_per_worker, num_slices, size
        Size of the build; `size` is height and width.
    seconds
        Sampling time per volume.
    workers
        Numbers of worker processes.
    folder
        Parent of the temporary folder; the system's default if None.
    """
    machine = machine_facts()
    rows: list[tuple[Value, ...]] = []
    with tempfile.TemporaryDirectory(prefix="rephase-overlap-", dir=folder) as temporary:
        for count in workers:
            place = Path(temporary) / str(count)
            manifest = write_volumes(place, volumes_per_worker * count, num_slices, size)
            rows.append(_row(manifest, str(place / "c.zarr"), count, volumes_per_worker, seconds, num_slices))
    settings = {"slices per volume": num_slices, "size": size, "sampling (s per volume)": seconds}
    return BenchResult("overlap", machine, settings, [Table("Overlap", _COLUMNS, rows)], _NOTES)


_COLUMNS = (
    "workers", "volumes", "requested (s)", "sampling (s)", "other stages (s)", "wall (s)", "sampling / wall",
    "without overlap",
)  # fmt: skip
_NOTES = [
    "sums per worker: requested waits; sampling, while its lock is held (a busy machine wakes late); other stages; "
    "wall: from the first task to the last commit",
    "without overlap: sampling / (sampling + other stages), the fraction if nothing overlapped",
]


def verdicts(result: BenchResult) -> dict[str, bool]:
    """Compare the fraction of the wall time for sampling with `TARGET`, for each number of workers."""
    place = _COLUMNS.index("sampling / wall")
    shares = {row[0]: float(row[place] or 0) for row in result.tables[0].rows}
    return {f"workers {n}: {share:.3f}, target at least {TARGET:g}": share >= TARGET for n, share in shares.items()}


def _row(
    manifest: Path, root: str, count: int, volumes_per_worker: int, seconds: float, num_slices: int
) -> tuple[Value, ...]:
    options = BuildOptions(phase="zero", workers=count, dashboard_address="127.0.0.1:0")
    work = task_list(read_manifest(manifest), 1, retry_failed=False)
    with Lease(root) as lease:
        prepare = partial(_prepare, seconds / num_slices)
        summary = run_tasks(work, resolve_build(root, options), lease, lambda _: None, progress=False, prepare=prepare)
    if summary.exit_status:
        raise RuntimeError("\n".join(summary.lines()))
    stages = read_run_states(root)[-1].stage_seconds
    other = sum(stages[stage] for stage in _OTHER) / count
    sampling = stages["sample"] / count
    figures = (
        seconds * volumes_per_worker,
        sampling,
        other,
        summary.seconds,
        sampling / summary.seconds,
        sampling / (sampling + other),
    )
    return count, work.num_volumes, *map(rounded, figures)


def _prepare(
    seconds_per_slice: float, connection: Connection, build: ResolvedBuild, token: str
) -> tuple[WorkerSetup, CorpusStore]:
    setup, store = prepare_workers(connection, build, token)
    sleeping = replace(setup, state=f"{setup.state}-asleep")
    install_state(connection.client, sleeping.state, prepare_sleeper, (setup, seconds_per_slice))
    return sleeping, store


def prepare_sleeper(setup: WorkerSetup, seconds_per_slice: float) -> WorkerContext:
    """Prepare a worker process with the sleeper as its generator."""
    return replace(prepare_worker(setup), generator=Sleeper(seconds_per_slice))


if __name__ == "__main__":
    sys.exit(run_benchmark(bench_overlap, verdicts))
