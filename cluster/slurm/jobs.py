"""SLURM jobs of one run: watched in SLURM's own queue, and replaced if they end early.

Dask and dask-jobqueue consider a job alive until one of its workers leaves. A job that is cancelled while it waits,
that dies before its worker starts, or that has several workers would never be replaced.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from distributed import Status
from distributed.deploy.cluster import Cluster

from rephase.cluster.errors import ClusterError

_ctrl_c = signal.getsignal(signal.SIGINT)
try:  # dask-jobqueue sets a handler that would end a build with SystemExit
    from dask_jobqueue.slurm import SLURMCluster, SLURMJob
finally:
    signal.signal(signal.SIGINT, _ctrl_c)

LOOK_S = 5.0
"""Seconds between two polls of SLURM's queue."""
_SHORT_S = 120.0
"""Seconds; a job whose worker lived for less is a short job: its node is broken, or it was preempted at once."""
_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 600.0
_MOST_FAILED = 3
"""Consecutive short jobs that delay replacements; consecutive jobs without any worker that abort a build."""


class Job(SLURMJob):  # type: ignore[misc]  # Dask has no types
    """A job with its workers."""

    async def close(self) -> None:
        """Cancel the job, and set its status, which Dask checks when the cluster closes."""
        await super().close()
        self.status = Status.closed


class Jobs(SLURMCluster):  # type: ignore[misc]
    """Jobs of one worker process, which has the job's name, or of several, named `JOB-NUMBER`.

    Options are those of SLURMCluster. `token` is that of the scheduler's web pages.
    """

    job_cls = Job
    token = ""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        self._fixed = 0
        self._first_seen: dict[str, float] = {}
        self._ended: set[str] = set()
        self._resume = 0.0
        self._num_short = 0
        self._num_without_worker = 0
        self._problem = self._refusal = ""
        self._watcher: asyncio.Task[None] | None = None
        super().__init__(**options)

    def submit(self, minimum: int, maximum: int) -> None:
        """Submit the first jobs, and start watching them.

        Raises
        ------
        ClusterError
            If SLURM does not accept them.
        """
        self._fixed = maximum if minimum >= maximum else 0
        self.scale(jobs=max(minimum, 1))
        self.sync(self._correct_state)
        if any(job.job_id is None for job in self.workers.values()):
            raise ClusterError(
                f"--cluster slurm: SLURM refused the job: {self._refusal}; expected a valid job; correct the file"
            )
        if not self._fixed:
            # a queued job is cancelled after a minute with too little work, not after Dask's three seconds: its place
            # in the queue is valuable
            self.adapt(
                minimum_jobs=minimum, maximum_jobs=maximum, interval="5s", wait_count=12, worker_key=self._group_key()
            )
        self.sync(self._start_watcher)

    def check(self) -> None:
        """Raise ClusterError if several consecutive jobs ended without a worker and none is running."""
        if self._problem and not self.scheduler_info["workers"]:
            raise ClusterError(f"--cluster slurm: {self._problem}")

    def _group_key(self) -> Any:  # noqa: ANN401
        return job_of_worker if "group" in self.new_spec else None

    def _job_name(self, worker: str) -> str:
        return worker.rpartition("-")[0] if "group" in self.new_spec else worker

    async def _start_watcher(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        try:
            await super()._close()
        finally:
            for key in ("key", "cert", "ca_file"):  # dask-jobqueue leaves these files to the garbage collector
                if (file := getattr(self, f"_job_{key}", None)) is not None:
                    file.close()

    async def _correct_state_internal(self) -> None:
        """Submit and cancel jobs; a job that SLURM refuses counts as ended."""
        try:
            await super()._correct_state_internal()
        except (RuntimeError, OSError, ValueError) as error:
            self._refusal = _refusal(error)
            for job in self.workers.values():
                if job.job_id is None:
                    job.status = Status.failed

    def _update_worker_status(self, op: str, msg: Any) -> None:  # noqa: ANN401
        if op == "add":
            for worker in msg["workers"].values():
                self._first_seen.setdefault(self._job_name(str(worker["name"])), time.monotonic())
            self._num_without_worker, self._problem = 0, ""
        Cluster._update_worker_status(self, op, msg)  # SpecCluster's would cancel a job when one worker is late

    async def _watch(self) -> None:
        while self.status == Status.running:
            await asyncio.sleep(LOOK_S)
            ended = await self._find_ended()
            if ended:
                await self._count_ended(ended)
            if self._ended and time.monotonic() >= self._resume:
                await self._replace()

    async def _find_ended(self) -> list[str]:
        """Return the jobs that are not in SLURM's queue and have no worker; none if SLURM does not answer now."""
        known = dict(self.workers)
        try:
            text = await self.job_cls._call(["squeue", "--noheader", "--format=%A", f"--user={os.getuid()}"])
        except (RuntimeError, OSError):
            return []
        queued = set(str(text).split())
        here = {self._job_name(str(worker["name"])) for worker in self.scheduler_info["workers"].values()}
        return [
            name
            for name, job in known.items()
            if name in self.worker_spec and name not in here | self._ended and job.job_id not in queued
        ]

    async def _count_ended(self, ended: list[str]) -> None:
        now = time.monotonic()
        came = [self._first_seen.pop(name, None) for name in ended]
        is_short = any(moment is None or now - moment < _SHORT_S for moment in came)
        self._num_short = self._num_short + 1 if is_short else 0
        self._resume = now + pause_s(self._num_short)
        self._num_without_worker += came.count(None)
        self._ended.update(ended)
        if self._num_without_worker >= _MOST_FAILED:
            job_id = self.workers[ended[-1]].job_id
            why = self._refusal if job_id is None else await self._describe_end(job_id)
            self._problem = f"{self._num_without_worker} jobs in a row ended before a worker came, the last: {why}"

    async def _replace(self) -> None:
        """Remove the jobs that have ended; `adapt` submits others if tasks are waiting."""
        for name in self._ended:
            if (job := self.workers.pop(name, None)) is not None:
                job.status = Status.closed
            self.worker_spec.pop(name, None)
            self._i += 1  # a new name, since the scheduler may not have noticed yet that the old worker is gone
        self._ended.clear()
        if self._fixed:
            self.scale(jobs=self._fixed)
            await self._correct_state()

    async def _describe_end(self, job_id: str) -> str:
        """Describe how a job ended, as far as SLURM still has a record."""
        try:
            facts = str(await self.job_cls._call(["scontrol", "show", "job", "--oneliner", job_id]))
        except (RuntimeError, OSError):
            return f"job {job_id}, which SLURM no longer lists"
        state, code, output = (_fact(facts, name) for name in ("JobState", "ExitCode", "StdErr"))
        output = output.replace("%J", job_id).replace("%j", job_id)  # SLURM fills in %A only
        return f"job {job_id}, {state}, exit code {code}; its output is {output}{_last_line(output)}"


def pause_s(num_short: int) -> float:
    """Return the seconds to wait before jobs are replaced, after this many short jobs in a row."""
    return (
        0.0 if num_short < _MOST_FAILED else min(_PAUSE_S * 2.0 ** min(num_short - _MOST_FAILED, 10), _LONGEST_PAUSE_S)
    )


def job_of_worker(worker: Any) -> str:  # noqa: ANN401
    """Return the job of a worker that is one of several, which can only be released together."""
    return str(worker.name).rpartition("-")[0]


def _refusal(error: Exception) -> str:
    """Extract the output of sbatch from dask-jobqueue's long message."""
    said = re.findall(r"^sbatch: error: (.+)$", str(error), re.MULTILINE)
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "; ".join(said) or (lines[-1] if lines else type(error).__name__)


def _fact(facts: str, name: str) -> str:
    found = re.search(rf"\b{name}=(\S+)", facts)
    return found.group(1) if found else "unknown"


def _last_line(path: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((f", which ends: {line.strip()[:300]}" for line in reversed(lines) if line.strip()), "")
