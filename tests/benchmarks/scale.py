"""Overhead per volume (Dask, the commit, memory of the client) and the plan of a long manifest.

`python -m tests.benchmarks.scale`; exit status 1 if a figure misses its target.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from numpy.typing import NDArray

from rephase.bench.measure import BenchResult, Table, Value, rounded
from rephase.bench.phantom import open_smooth_worker, write_long_manifest, write_volumes
from rephase.builder.status import read_status
from rephase.cluster.connect import ClusterRequest, connect
from rephase.cluster.window import run_window
from rephase.cluster.worker_state import ask_workers
from rephase.corpus.store import CorpusStore
from rephase.diffusion.devices import one_thread
from rephase.manifests.parse import read_manifest
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.environment import machine_facts
from rephase.pipeline.task import Outcome, Task
from tests.benchmarks.command_line import run_benchmark
from tests.benchmarks.rows import rows_table

TARGETS = {"dask_ms": 10.0, "commit_ms": 40.0, "growth_mb": 200.0, "plan_s": 60.0, "plan_mb": 1000.0}
"""Upper limit of each figure."""

_FILES = 16
_HERE = 200
_EMPTY = 2000
_LOOK_S = 0.25


@dataclass(frozen=True)
class Process:
    """Cost of a process: wall and CPU seconds, peak memory and its growth since the work started, in bytes."""

    wall_s: float
    cpu_s: float
    peak: int
    growth: int


def bench_scale(
    num_volumes: int = 10_000,
    num_slices: int = 8,
    size: int = 32,
    workers: int = 2,
    rows: int = 1_000_000,
    folder: Path | None = None,
) -> BenchResult:
    """Build many small volumes with smooth phase, and plan a long manifest.

    Parameters
    ----------
    num_volumes, num_slices, size
        Of the volumes; `size` is height and width.
    workers
        Worker processes.
    rows
        Of the manifest that is planned.
    folder
        Parent of the temporary folder; the system's default if None.
    """
    machine = machine_facts()
    with tempfile.TemporaryDirectory(prefix="rephase-scale-", dir=folder) as temporary:
        place = Path(temporary)
        manifest = write_rows(place, num_volumes, num_slices, size)
        commit_ms, work_ms, outcome = _commit_here(manifest, place / "here.zarr", min(num_volumes, _HERE))
        empty = _empty_tasks(manifest, outcome, workers, min(num_volumes, _EMPTY))
        built = _build(manifest, place / "built.zarr", workers)
        _check_built(place / "built.zarr", num_volumes)
        planned = _plan(place, rows)
        held = rows_table(place, tuple(max(rows // part, 1) for part in (100, 10)))
    cost = _cost_table(commit_ms, work_ms, empty, built, num_volumes)
    settings = {"volumes": num_volumes, "slices per volume": num_slices, "size": size, "workers": workers, "rows": rows}
    tables = [cost, _run_table(built, planned, num_volumes, num_slices), held]
    return BenchResult("scale", machine, settings, tables, _NOTES)


_NOTES = [
    "CPU time, which hardly depends on the load of the machine; Dask is measured with tasks without work",
    "growth: memory of client and scheduler (one process here) from the first volume to the peak",
    "the last table: one process per line reads as many receipts and writes their index, without a cluster",
]


def figures(result: BenchResult) -> dict[str, float]:
    """Return the figures that `TARGETS` limits."""
    cost, runs, _ = result.tables
    by_part = {row[0]: row[1] for row in cost.rows}
    build, plan = (dict(zip(runs.columns, row, strict=True)) for row in runs.rows)
    found: dict[str, Any] = {
        "dask_ms": by_part["Dask, all processes"],
        "commit_ms": by_part["commit to the store"],
        "growth_mb": build["growth (MB)"],
        "plan_s": plan["wall (s)"],
        "plan_mb": plan["peak memory (MB)"],
    }
    return {name: float(value) for name, value in found.items()}


def write_rows(folder: Path, num_volumes: int, num_slices: int, size: int) -> Path:
    """Write a few volumes and a manifest with many rows of them; return the manifest's path."""
    write_volumes(folder, min(_FILES, num_volumes), num_slices, size)
    manifest = folder / "many.csv"
    shape = (num_slices, size, size)
    write_long_manifest(manifest, ((f"m{i:07d}", f"v{i % _FILES:04d}.npy", *shape) for i in range(num_volumes)))
    return manifest


class _ClockedStore(CorpusStore):
    """A store that sums the CPU time of commits, including zarr's threads; nothing else may run meanwhile."""

    cpu_s = 0.0

    def commit_volume(
        self, name: str, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Commit and add the CPU time."""
        start = time.process_time()
        try:
            return super().commit_volume(name, arrays, attributes)
        finally:
            self.cpu_s += time.process_time() - start


def _commit_here(manifest: Path, root: Path, count: int) -> tuple[float, float, Outcome]:
    """Build volumes in this process; return CPU ms per commit and per volume, and the last outcome."""
    worker = open_smooth_worker(root)
    store = _ClockedStore(worker.store.storage, worker.store.attributes)
    worker = replace(worker, store=store)
    rows = read_manifest(manifest)
    with one_thread():
        build_volume(Task(rows[0]), worker)  # warm-up
        store.cpu_s, start = 0.0, time.process_time()
        for number in range(1, count):
            outcome = build_volume(Task(rows[number]), worker)
        work_s = time.process_time() - start
    timed = max(count - 1, 1)
    return 1000 * store.cpu_s / timed, 1000 * work_s / timed, outcome


def hand_back(outcome: Outcome, task: Task) -> Outcome:
    """Return an outcome of realistic size without any work."""
    return replace(outcome, name=task.name)


@dataclass(frozen=True)
class _Empty:
    """CPU ms and wall ms of a task without work."""

    client_ms: float
    workers_ms: float
    wall_ms: float


def _empty_tasks(manifest: Path, outcome: Outcome, workers: int, count: int) -> _Empty:
    rows = read_manifest(manifest)
    work = partial(hand_back, outcome)
    with connect("local", ClusterRequest(num_workers=workers, dashboard_address="127.0.0.1:0")) as connection:

        def go(first: int, last: int) -> None:
            tasks = (Task(rows[number]) for number in range(first, last))
            for _ in run_window(connection, work, tasks, lambda task: task.name):
                pass

        go(0, min(count, 8 * workers))
        there = sum(ask_workers(connection.client, time.process_time).values())
        here, start = time.process_time(), time.perf_counter()
        go(0, count)
        wall, here = time.perf_counter() - start, time.process_time() - here
        there = sum(ask_workers(connection.client, time.process_time).values()) - there
    return _Empty(1000 * here / count, 1000 * there / count, 1000 * wall / count)


def _build(manifest: Path, root: Path, workers: int) -> Process:
    words = ["build", str(manifest), str(root), "--phase", "smooth", "--workers", str(workers)]
    return watch_command([*words, "--dashboard-address", "127.0.0.1:0"], lambda: _has_children(root / "volumes"))


def _has_children(folder: Path) -> bool:
    return folder.is_dir() and next(folder.glob("*/zarr.json"), None) is not None


def _plan(folder: Path, rows: int) -> Process:
    manifest = folder / "long.csv"
    names = (f"vol-{i:07d}" for i in range(rows))
    write_long_manifest(manifest, ((name, f"sub/{name}.nii.gz", 20 + len(name) % 7, 256, 256) for name in names))
    return watch_command(["plan", str(manifest), str(folder / "none.zarr"), "--phase", "smooth"], lambda: True)


def watch_command(words: Sequence[str], working: Callable[[], bool]) -> Process:
    """Run `rephase` in a new process and record its memory.

    Parameters
    ----------
    words
        The command line.
    working
        Whether the work has started; growth counts from then on.

    Raises
    ------
    RuntimeError
        If the command fails.
    """
    start = time.perf_counter()
    command = [sys.executable, "-m", "rephase.cli", *words]
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        cpu_s, peak, first, top = _follow(process, working)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"rephase {words[0]}: exit status {process.returncode}: {said.read().decode()[-2000:]}")
    return Process(time.perf_counter() - start, cpu_s, peak, top - first)


def _follow(process: subprocess.Popen[bytes], working: Callable[[], bool]) -> tuple[float, int, int, int]:
    cpu_s, peak, first, top = 0.0, 0, 0, 0
    seen = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            times, memory = seen.cpu_times(), seen.memory_info().rss
        except psutil.Error:
            break
        cpu_s, peak = times.user + times.system, max(peak, memory)
        if first or working():
            first = first or memory
            top = max(top, memory)
        try:
            process.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
    return cpu_s, peak, first, top


def _check_built(root: Path, num_volumes: int) -> None:
    status = read_status(os.fspath(root))
    if status.num_committed != num_volumes:
        raise RuntimeError(f"{root}: {status.num_committed} of {num_volumes} volumes committed")


def _cost_table(commit_ms: float, work_ms: float, empty: _Empty, built: Process, num_volumes: int) -> Table:
    rows: list[tuple[Value, ...]] = [
        ("a volume in one process, no Dask", rounded(work_ms)),
        ("commit to the store", rounded(commit_ms)),
        ("Dask, all processes", rounded(empty.client_ms + empty.workers_ms)),
        ("Dask, client and scheduler", rounded(empty.client_ms)),
        ("Dask, workers", rounded(empty.workers_ms)),
        ("Dask, wall", rounded(empty.wall_ms)),
        ("client and scheduler of the build, start-up and index too", rounded(1000 * built.cpu_s / num_volumes)),
    ]
    return Table("CPU time per volume", ("part", "ms"), rows)


def _run_table(built: Process, planned: Process, num_volumes: int, num_slices: int) -> Table:
    columns = ("command", "wall (s)", "CPU (s)", "slices/s", "peak memory (MB)", "growth (MB)")
    rate = rounded(num_volumes * num_slices / built.wall_s)
    mega = [(rounded(one.peak / 1e6), rounded(one.growth / 1e6)) for one in (built, planned)]
    rows: list[tuple[Value, ...]] = [
        ("build", rounded(built.wall_s), rounded(built.cpu_s), rate, *mega[0]),
        ("plan of the long manifest", rounded(planned.wall_s), rounded(planned.cpu_s), None, mega[1][0], None),
    ]
    return Table("Client and scheduler", columns, rows)


def verdicts(result: BenchResult) -> dict[str, bool]:
    """Compare the figures of a result with `TARGETS`."""
    found = figures(result)
    return {
        f"{name}: {found[name]:.4g}, target at most {most:g}": found[name] <= most for name, most in TARGETS.items()
    }


if __name__ == "__main__":
    sys.exit(run_benchmark(bench_scale, verdicts))
