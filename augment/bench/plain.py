"""The ceiling of a build: the same volumes by processes that know nothing of each other, without Dask."""

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
"""A process that is not ready by then never will be."""

_STOP_S = 30.0


def build_plainly(manifest: Path, folder: Path, count: int) -> float:
    """Build a manifest's volumes in this many processes at once, each into a corpus of its own.

    Parameters
    ----------
    manifest
        Its rows are dealt out in turn; one volume more is built by every process before the clock starts.
    folder
        Where the corpora are made.
    count
        Processes.

    Returns
    -------
    seconds
        From the moment when all are ready until the last one is done.

    Raises
    ------
    RuntimeError
        If a process fails.
    """
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(count + 1), context.Queue()
    processes = [
        context.Process(target=_work, args=(manifest, folder / f"plain-{i}-of-{count}.zarr", i, count, barrier, told))
        for i in range(count)
    ]
    for process in processes:
        process.start()
    try:
        barrier.wait(_READY_S)
        start = time.perf_counter()
        barrier.wait()
        seconds = time.perf_counter() - start
        faults = [fault for _ in processes if (fault := told.get()) is not None]
    except BrokenBarrierError:
        raise RuntimeError("a process that builds without a cluster failed; see its message above") from None
    finally:
        for process in processes:
            process.join(_STOP_S)
            process.kill()
    if faults:
        raise RuntimeError(faults[0])
    return seconds


def _work(manifest: Path, root: Path, first: int, step: int, barrier: Barrier, told: Queue[str | None]) -> None:
    try:
        rows, worker = read_manifest(manifest), open_smooth_worker(root)
        with one_thread():
            build_volume(Task(rows[0], replica=1), worker)
            barrier.wait(_READY_S)
            outcomes = [build_volume(Task(row), worker) for row in rows[first::step]]
        told.put(next((f"{one.name}: {one.message}" for one in outcomes if one.status != "built"), None))
        barrier.wait()
    except BaseException:
        barrier.abort()  # or the others would wait for ever
        raise
