"""The upper bound of a build: the same volumes in independent processes, without Dask."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue
from threading import BrokenBarrierError

from rephase.bench.phantom import open_smooth_worker
from rephase.diffusion.devices import one_thread
from rephase.manifests.parse import read_manifest
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.task import Task

_READY_S = 600.0
"""Time limit for the start of a process."""

_STOP_S = 30.0


def build_plainly(manifest: Path, folder: Path, count: int) -> float:
    """Build a manifest's volumes in independent processes, each into its own corpus.

    Parameters
    ----------
    manifest
        Its rows are distributed round-robin; every process first builds one volume that is not timed.
    folder
        Parent of the corpora.
    count
        Number of processes.

    Returns
    -------
    seconds
        Time from when all are ready until the last one ends.

    Raises
    ------
    RuntimeError
        If a process fails.
    """
    context = multiprocessing.get_context("spawn")
    barrier, errors = context.Barrier(count + 1), context.Queue()
    processes = [
        context.Process(target=_work, args=(manifest, folder / f"plain-{i}-of-{count}.zarr", i, count, barrier, errors))
        for i in range(count)
    ]
    for process in processes:
        process.start()
    try:
        barrier.wait(_READY_S)
        start = time.perf_counter()
        barrier.wait()
        seconds = time.perf_counter() - start
        found = [error for _ in processes if (error := errors.get()) is not None]
    except BrokenBarrierError:
        raise RuntimeError("a process without a cluster failed; see its message above") from None
    finally:
        for process in processes:
            process.join(_STOP_S)
            process.kill()
    if found:
        raise RuntimeError(found[0])
    return seconds


def _work(manifest: Path, root: Path, first: int, step: int, barrier: Barrier, errors: Queue[str | None]) -> None:
    try:
        rows, worker = read_manifest(manifest), open_smooth_worker(root)
        with one_thread():
            build_volume(Task(rows[0], replica=1), worker)
            barrier.wait(_READY_S)
            outcomes = [build_volume(Task(row), worker) for row in rows[first::step]]
        errors.put(next((f"{one.name}: {one.message}" for one in outcomes if one.status != "built"), None))
        barrier.wait()
    except BaseException:
        barrier.abort()  # the others wait at it
        raise
