"""SLURM jobs for the time of one run: watched in SLURM's own queue, and submitted again where they end early.

Dask and dask-jobqueue take a job for alive until they see a worker of it leave. One that is cancelled while it waits,
that dies before its worker comes, or that has several workers would never be replaced.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Any

from distributed import Status
from distributed.deploy.cluster import Cluster

from rephase.cluster.errors import ClusterError
from rephase.cluster.slurm.jobqueue import SLURMCluster, SLURMJob

LOOK_S = 5.0
"""SLURM's queue is asked so often."""
_SHORT_S = 120.0
"""A job whose worker was there for less came for nothing: its node is broken, or it was preempted at once."""
_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 600.0
_PATIENCE = 3
"""Jobs of such a kind in a row that are replaced at once, and jobs without any worker after which that is said."""


class _Job(SLURMJob):  # type: ignore[misc]  # Dask has no types
    async def close(self) -> None:
        """Cancel it, and say so: Dask looks at its end whether all have been closed."""
        await super().close()
        self.status = Status.closed


class Jobs(SLURMCluster):  # type: ignore[misc]
    """Jobs of one worker process each, of the job's name, or of several, named `JOB-NUMBER`.

    Options are those of SLURMCluster.
    """

    job_cls = _Job

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        self._fixed = 0
        self._came: dict[str, float] = {}
        self._ended: set[str] = set()
        self._resume = 0.0
        self._num_short = 0
        self._num_barren = 0
        self._trouble = self._refusal = ""
        self._keeper: asyncio.Task[None] | None = None
        super().__init__(**options)

    def begin(self, minimum: int, maximum: int) -> None:
        """Submit the first jobs, and look after them from now on.

        Raises
        ------
        ClusterError
            If SLURM does not take them.
        """
        self._fixed = maximum if minimum >= maximum else 0
        self.scale(jobs=max(minimum, 1))
        self.sync(self._correct_state)
        if any(job.job_id is None for job in self.workers.values()):
            raise ClusterError(f"--cluster slurm: SLURM does not take the job: {self._refusal}")
        if not self._fixed:
            # a job in the queue is given up after a minute with too little to do, not after three seconds: its place
            # in the queue is worth something
            self.adapt(
                minimum_jobs=minimum, maximum_jobs=maximum, interval="5s", wait_count=12, worker_key=self._group_key()
            )
        self.sync(self._start_keeper)

    def check(self) -> None:
        """Raise ClusterError where job after job ends and no worker is there."""
        if self._trouble and not self.scheduler_info["workers"]:
            raise ClusterError(f"--cluster slurm: {self._trouble}")

    def _group_key(self) -> Any:  # noqa: ANN401
        return job_of_worker if "group" in self.new_spec else None

    def _job_name(self, worker: str) -> str:
        return worker.rpartition("-")[0] if "group" in self.new_spec else worker

    async def _start_keeper(self) -> None:
        self._keeper = asyncio.create_task(self._keep())

    async def _close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        try:
            await super()._close()
        finally:
            for key in ("key", "cert", "ca_file"):  # dask-jobqueue leaves them to the garbage collector
                if (file := getattr(self, f"_job_{key}", None)) is not None:
                    file.close()

    async def _correct_state_internal(self) -> None:
        """Submit and cancel; a job that SLURM refuses counts as one that has ended."""
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
                self._came.setdefault(self._job_name(str(worker["name"])), time.monotonic())
            self._num_barren, self._trouble = 0, ""
        Cluster._update_worker_status(self, op, msg)  # not SpecCluster's, which cancels jobs by a guess

    async def _keep(self) -> None:
        while self.status == Status.running:
            await asyncio.sleep(LOOK_S)
            ended = await self._find_ended()
            if ended:
                await self._take_ended(ended)
            if self._ended and time.monotonic() >= self._resume:
                await self._replace()

    async def _find_ended(self) -> list[str]:
        """Name the jobs that are neither in SLURM's queue nor have a worker; none where SLURM does not answer now."""
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

    async def _take_ended(self, ended: list[str]) -> None:
        now = time.monotonic()
        came = [self._came.pop(name, None) for name in ended]
        is_short = any(moment is None or now - moment < _SHORT_S for moment in came)
        self._num_short = self._num_short + 1 if is_short else 0
        self._resume = now + pause_s(self._num_short)
        self._num_barren += came.count(None)
        self._ended.update(ended)
        if self._num_barren >= _PATIENCE:
            job_id = self.workers[ended[-1]].job_id
            why = self._refusal if job_id is None else await self._tell(job_id)
            self._trouble = f"{self._num_barren} jobs in a row ended before a worker came, the last: {why}"

    async def _replace(self) -> None:
        """Forget the jobs that have ended; `adapt` submits others where there is work for them."""
        for name in self._ended:
            if (job := self.workers.pop(name, None)) is not None:
                job.status = Status.closed
            self.worker_spec.pop(name, None)
            self._i += 1  # a new name: the scheduler may not know yet that a worker on a dead node is gone
        self._ended.clear()
        if self._fixed:
            self.scale(jobs=self._fixed)
            await self._correct_state()

    async def _tell(self, job_id: str) -> str:
        """Say how a job ended, as far as SLURM still knows."""
        try:
            facts = str(await self.job_cls._call(["scontrol", "show", "job", "--oneliner", job_id]))
        except (RuntimeError, OSError):
            return f"job {job_id}, of which SLURM does not know any more"
        state, code, output = (_fact(facts, name) for name in ("JobState", "ExitCode", "StdErr"))
        output = output.replace("%J", job_id).replace("%j", job_id)  # SLURM fills in %A only
        return f"job {job_id}, {state}, exit code {code}; its output is {output}{_last_line(output)}"


def pause_s(num_short: int) -> float:
    """Say how long to wait before jobs are replaced when so many in a row have come for nothing, in seconds."""
    return 0.0 if num_short < _PATIENCE else min(_PAUSE_S * 2.0 ** min(num_short - _PATIENCE, 10), _LONGEST_PAUSE_S)


def job_of_worker(worker: Any) -> str:  # noqa: ANN401
    """Name the job of a worker that is one of several: they are only given back together."""
    return str(worker.name).rpartition("-")[0]


def _refusal(error: Exception) -> str:
    """What sbatch said, of all that dask-jobqueue tells."""
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
