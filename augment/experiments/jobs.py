"""Run the trainings of an experiment that are not done yet, one process each."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from tqdm import tqdm

from rephase.errors import RequestError
from rephase.experiments.store import Job, Result, ResultStore


class Experiment(Protocol):
    """What an experiment does for one job; it is pickled once for each process, and may keep data there."""

    def run(self, job: Job, weights: Path, start: Path | None) -> Result:
        """Train and test one network.

        Parameters
        ----------
        job
            What to train on.
        weights
            Where to write the weights.
        start
            The weights to start from, None for random ones.
        """
        ...


def run_jobs(jobs: Sequence[Job], experiment: Experiment, store: ResultStore, workers: int) -> dict[Job, Result]:
    """Return the result of every job; those in the store are not run again.

    The results depend on neither the number of processes nor their order: each trains with one thread.

    Raises
    ------
    RequestError
        If a process was killed, such as for its memory; what is done is kept.
    """
    found = {job: result for job in jobs if (result := store.load(job)) is not None and store.weights(job).is_file()}
    waiting = [job for job in jobs if job not in found]
    with tqdm(total=len(jobs), initial=len(found), desc="training", unit="network", disable=None) as bar:
        if workers == 1 or len(waiting) <= 1:
            for job in waiting:
                bar.set_postfix_str(f"{job.label}, seed {job.seed}")
                found[job] = run_job(job, experiment, store)
                bar.update()
            return found
        with _pool(experiment, store, min(workers, len(waiting))) as pool:
            running: dict[Future[Result], Job] = {}
            while waiting or running:
                for job in [one for one in waiting if one.start is None or one.start in found]:
                    waiting.remove(job)
                    running[pool.submit(_run, job)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    try:
                        found[job] = future.result()
                    except BrokenProcessPool as error:
                        raise RequestError(
                            f"{job.label}, seed {job.seed}: its process was killed, as when memory is short; "
                            "expected it to end; use fewer --workers, and run the same command again to resume"
                        ) from error
                    bar.set_postfix_str(f"{job.label}, seed {job.seed}")
                    bar.update()
    return {job: found[job] for job in jobs}


def run_job(job: Job, experiment: Experiment, store: ResultStore) -> Result:
    """Run one job with one thread and save its result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begin = time.process_time()
        store.folder.mkdir(parents=True, exist_ok=True)
        start = None if job.start is None else store.weights(job.start)
        result = experiment.run(job, store.weights(job), start)
        result = replace(result, seconds=round(time.process_time() - begin, 1))
    finally:
        torch.set_num_threads(threads)
    store.save(job, result)
    return result


def default_workers(device: str) -> int:
    """Return the number of processes that the machine has room for: its cores, or one for a GPU."""
    return 1 if device == "cuda" else len(os.sched_getaffinity(0))


_STATE: list[tuple[Experiment, ResultStore]] = []
"""In a worker process: its experiment and store."""


@contextmanager
def _pool(experiment: Experiment, store: ResultStore, workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes; if the block raises, they are ended at once instead of awaited."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (experiment, store))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    pool.shutdown()


def _begin(experiment: Experiment, store: ResultStore) -> None:
    _STATE.append((experiment, store))


def _run(job: Job) -> Result:
    return run_job(job, *_STATE[0])
