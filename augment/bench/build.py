"""Speed of an end-to-end build (read, sample smooth phase, transform, commit) with one and more workers."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rephase.bench.measure import BenchResult, Table, Value, rounded
from rephase.bench.phantom import open_smooth_worker, write_volumes
from rephase.bench.plain import build_plainly
from rephase.builder.options import BuildOptions
from rephase.builder.run import build
from rephase.builder.run_state import read_run_states
from rephase.diffusion.devices import one_thread
from rephase.manifests.parse import read_manifest
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.environment import machine_facts
from rephase.pipeline.task import Task

_HERE = "this process, no cluster"


def bench_build(
    num_volumes: int = 16,
    num_slices: int = 24,
    size: int = 192,
    workers: Sequence[int] = (1, 2),
    folder: Path | None = None,
    rounds: int = 1,
) -> BenchResult:
    """Build generated volumes in a temporary folder: without a cluster, then with each number of workers.

    The upper bound of each number of workers, as many independent processes, is measured alternately with it.

    Parameters
    ----------
    num_volumes, num_slices, size
        Size of the build; `size` is height and width.
    workers
        Worker processes of the local cluster.
    folder
        Parent of the temporary folder, whose disk is part of the measurement; the system's default if None.
    rounds
        Repetitions, alternating between workers and plain processes; the median is reported.
    """
    machine = machine_facts()
    with tempfile.TemporaryDirectory(prefix="rephase-bench-", dir=folder) as temporary:
        manifest = write_volumes(Path(temporary), num_volumes, num_slices, size)
        write_volumes(Path(temporary) / "warm", 1, num_slices, size)
        _here(Path(temporary) / "warm" / "manifest.csv", Path(temporary) / "warm.zarr")
        runs = {_HERE: _here(manifest, Path(temporary) / "0.zarr")}
        plain: dict[int, list[float]] = {count: [] for count in workers}
        clustered: dict[int, list[_Timed]] = {count: [] for count in workers}
        for number in range(rounds):
            place = Path(temporary) / f"round-{number}"
            place.mkdir()
            for count in workers:
                plain[count].append(build_plainly(manifest, place, count))
                clustered[count].append(_on_cluster(manifest, place, count))
        middle = {count: sorted(timed, key=lambda one: one.work_s)[rounds // 2] for count, timed in clustered.items()}
        runs |= {f"{count} worker{'' if count == 1 else 's'}": timed for count, timed in middle.items()}
    total = num_volumes * num_slices
    sizes = {"volumes": num_volumes, "slices per volume": num_slices, "size": size}
    settings = {**sizes, "phase": "smooth", "rounds": rounds}
    works = {count: timed.work_s for count, timed in middle.items()}
    plain_s = {count: sorted(seconds)[rounds // 2] for count, seconds in plain.items()}
    tables = [_speed_table(runs, total), _scaling_table(works, plain_s, total), _stage_table(runs, total)]
    notes = [
        "work: from the first task to the last commit; all: including the start of the workers",
        "gain: throughput relative to the fewest processes",
    ]
    return BenchResult("build", machine, settings, tables, notes)


class _Timed:
    """One build: seconds of work, seconds with start-up, seconds by stage."""

    def __init__(self, work_s: float, all_s: float, stages: Counter[str]) -> None:
        self.work_s, self.all_s, self.stages = work_s, all_s, stages


def _here(manifest: Path, root: Path) -> _Timed:
    begin = time.perf_counter()
    worker = open_smooth_worker(root)
    start = time.perf_counter()
    stages: Counter[str] = Counter()
    with one_thread():
        for row in read_manifest(manifest):
            outcome = build_volume(Task(row), worker)
            if outcome.status != "built":
                raise RuntimeError(f"{outcome.name}: {outcome.status}: {outcome.message}")
            stages.update(outcome.seconds)
    end = time.perf_counter()
    return _Timed(end - start, end - begin, stages)


def _on_cluster(manifest: Path, folder: Path, count: int) -> _Timed:
    root = str(folder / f"{count}.zarr")
    options = BuildOptions(phase="smooth", workers=count, dashboard_address="127.0.0.1:0")
    begin = time.perf_counter()
    summary = build(read_manifest(manifest), root, options, say=lambda _: None, progress=False)
    end = time.perf_counter()
    if summary.exit_status:
        raise RuntimeError("\n".join(summary.lines()))
    return _Timed(summary.seconds, end - begin, read_run_states(root)[-1].stage_seconds)


def _speed_table(runs: dict[str, _Timed], total: int) -> Table:
    columns = ("workers", "work (s)", "all (s)", "slices/s", "speed-up")
    first = runs[_HERE].work_s
    rows: list[tuple[Value, ...]] = [
        (name, rounded(run.work_s), rounded(run.all_s), rounded(total / run.work_s), rounded(first / run.work_s))
        for name, run in runs.items()
    ]
    return Table("Building", columns, rows)


def _scaling_table(works: dict[int, float], plain: dict[int, float], total: int) -> Table:
    columns = (
        "processes",
        "Dask's workers (slices/s)",
        "plain (slices/s)",
        "Dask / plain",
        "Dask, gain",
        "plain, gain",
    )
    first = min(works)
    rows: list[tuple[Value, ...]] = [
        (
            count,
            *map(rounded, (total / works[count], total / plain[count], plain[count] / works[count])),
            *map(rounded, (works[first] / works[count], plain[first] / plain[count])),
        )
        for count in works
    ]
    return Table("Throughput by processes, and its upper bound: as many plain processes", columns, rows)


def _stage_table(runs: dict[str, _Timed], total: int) -> Table:
    """Tabulate the stages of all runs; a stage missing from a run counts as 0 s."""
    stages = dict.fromkeys(stage for run in runs.values() for stage in run.stages)
    columns = ("stage", *(f"{name} (ms/slice)" for name in runs))
    rows: list[tuple[Value, ...]] = [
        (stage, *(rounded(1000 * run.stages[stage] / total) for run in runs.values())) for stage in stages
    ]
    return Table("Stages, summed over workers and their threads", columns, rows)
