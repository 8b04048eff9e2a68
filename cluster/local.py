"""A Dask cluster on this machine: one worker process per GPU, else one per core."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Nanny, Scheduler, SpecCluster
from distributed.deploy.cluster import Cluster
from distributed.system import MEMORY_LIMIT
from distributed.utils import get_mp_context

from rephase.cluster.errors import ClusterError

WORKER_ENVIRON = {
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Of every worker process, set before it starts.

A network allocates and frees tens of megabytes in every layer. Dask's own setting (MALLOC_TRIM_THRESHOLD_=65536) gives
them back to the system each time, which then clears every page anew: half of the time went there. The arithmetic's own
threads are one, since a worker per core leaves no core for others.
"""


def dask_environ() -> dict[str, str]:
    """Give the variables that Dask itself would start a worker with."""
    return {name: str(value) for name, value in dask.config.get("distributed.nanny.pre-spawn-environ").items()}


CPU_THREADS = 2
"""One thread computes while the other reads or writes."""
GPU_THREADS = 4
MEMORY_SHARE = 0.9
"""Of the machine's memory; the rest is for the client, the scheduler and the page cache."""
CLOSE_S, CLOSE_AT_ONCE_S = 30.0, 10.0
"""Workers get so long to stop, the latter after Ctrl-C."""
STRIKES = 2
"""So many workers may die under one task before it is given up: one beside other tasks, one alone."""


@dataclass(frozen=True)
class LocalShape:
    """Workers on this machine. `memory_limit` is in bytes per worker; `gpus` names the device of each, empty on CPU."""

    num_workers: int
    threads: int
    memory_limit: int
    gpus: tuple[str, ...] = ()


def visible_gpus() -> tuple[str, ...]:
    """Name the CUDA devices of this machine as `CUDA_VISIBLE_DEVICES` would."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in named.split(",") if name.strip()] or [str(i) for i in range(count)]
    return tuple(names[:count])


def local_shape(
    num_workers: int | None = None, threads: int | None = None, memory_limit: int | None = None
) -> LocalShape:
    """Decide how many workers this machine has, and what each may use.

    Parameters
    ----------
    num_workers
        One per GPU, else one per core, where None.
    threads
        Tasks at once in a worker: while one computes, others read and write.
    memory_limit
        Bytes per worker; an equal share of this machine's memory where None.
    """
    gpus = visible_gpus()
    count = num_workers or len(gpus) or CPU_COUNT
    return LocalShape(
        num_workers=count,
        threads=threads or (GPU_THREADS if gpus else CPU_THREADS),
        memory_limit=memory_limit or int(MEMORY_LIMIT * MEMORY_SHARE) // count,
        gpus=tuple(gpus[i % len(gpus)] for i in range(count)) if gpus else (),
    )


class NannyCluster(SpecCluster):  # type: ignore[misc]  # dask is not typed
    """Workers that their nannies start again, however long that takes.

    Dask looks once, 15 s after a worker was lost, whether there is one of its name, and closes the nanny for good where
    there is none: also where the worker came back, died again a moment ago, and is being started.
    """

    def _update_worker_status(self, op: str, msg: Any) -> None:  # noqa: ANN401
        Cluster._update_worker_status(self, op, msg)


@contextmanager
def start_local(shape: LocalShape, dashboard_address: str, preload: Sequence[str] = ()) -> Iterator[SpecCluster]:
    """Start workers on this machine and stop them at the end; every port is on loopback unless the address says else.

    Parameters
    ----------
    shape
        Number of workers and what each may use.
    dashboard_address
        `host:port` of the scheduler's pages.
    preload
        Modules that every worker needs. Linux imports them once, in a process from which all workers are forked and
        whose memory they share. They must start no thread and touch no GPU when they are imported.

    Raises
    ------
    ClusterError
        If no port can be opened.
    """
    forks = bool(preload) and sys.platform == "linux"  # on macOS a fork after system libraries were used may crash
    config = {
        "distributed.worker.multiprocessing-method": "forkserver" if forks else "spawn",
        "distributed.scheduler.allowed-failures": STRIKES - 2,  # `rephase.cluster.window` gives the last one, alone
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRON,
        "distributed.worker.profile.interval": "100ms",  # at Dask's 10 ms it takes a millisecond of every small volume
    }
    with dask.config.set(config), quiet(), ExitStack() as stack:
        if forks:
            get_mp_context().set_forkserver_preload(["distributed.nanny", *preload])  # after Dask has set its own list
        try:
            with interrupts_held(), _interrupts_blocked(), warnings.catch_warnings():
                # taken by someone else since free_address looked; Dask takes another port, and that one is shown
                warnings.filterwarnings("ignore", "(?s)Port .* is already in use", UserWarning)
                cluster = NannyCluster(
                    scheduler=_scheduler_spec(free_address(dashboard_address)),
                    workers=_worker_specs(shape, dict(os.environ) if forks else {}),
                    name="rephase",
                    silence_logs=logging.CRITICAL,
                )
                stack.callback(_close, cluster)
        except OSError as error:
            raise ClusterError(f"cannot start workers on this machine: {error}; free a port or use --cluster") from None
        yield cluster


def _close(cluster: SpecCluster) -> None:
    """Stop the workers, and kill those that do not stop, such as one that is being started again on a busy machine.

    Nothing is raised: what the work came to is known by now, and Ctrl-C must not be hidden.
    """
    interrupted = isinstance(sys.exception(), KeyboardInterrupt)
    try:
        cluster.close(timeout=CLOSE_AT_ONCE_S if interrupted else CLOSE_S)
    except Exception:  # Dask's own, of any kind
        for nanny in cluster.workers.values():
            nanny.auto_restart = False
            if nanny.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)


def free_address(address: str) -> str:
    """Give this `host:port` where the port is free, else port 0 of the host: the system then picks another."""
    host, _, port = address.rpartition(":")
    host = host or "127.0.0.1"
    if not port.isdigit() or int(port) > 65535:
        raise ClusterError(f"dashboard address {address!r}; expected HOST:PORT, for example 127.0.0.1:8787")
    try:
        with socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return f"{host}:{port}"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"{host}:0"
        raise ClusterError(f"dashboard address {address!r}: {error}; expected HOST:PORT of this machine") from None


def _scheduler_spec(dashboard_address: str) -> dict[str, Any]:
    options = {"host": "127.0.0.1", "port": 0, "dashboard": True, "dashboard_address": dashboard_address}
    return {"cls": Scheduler, "options": options}


def _worker_specs(shape: LocalShape, environment: Mapping[str, str]) -> dict[int, dict[str, Any]]:
    """Describe each worker; `environment` is what a worker has beside `CUDA_VISIBLE_DEVICES`.

    The process from which workers are forked keeps the environment of its own start, which may be long ago.
    """
    options: dict[str, Any] = {
        "host": "127.0.0.1",
        "nthreads": shape.threads,
        "memory_limit": shape.memory_limit,
        "silence_logs": logging.CRITICAL,
        "dashboard_address": "127.0.0.1:0",
    }
    pinned = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in shape.gpus] or [{}] * shape.num_workers
    return {
        i: {"cls": Nanny, "options": {**options, "name": i, "env": {**environment, **one}}}
        for i, one in enumerate(pinned)
    }


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Put Ctrl-C, and SIGTERM where it is handled, off to the end of the block.

    Dask cannot close a cluster or a client that is half started: it fails, or leaves processes behind. Blocking the
    signals would not do, since threads that were there before may receive them and Python then handles them here.
    """
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # the only one that is interrupted
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let threads and processes that are started inside never see Ctrl-C.

    A terminal sends it to the whole process group; the workers must leave the answer to the client. A signal mask is
    inherited by threads and by the processes they start, so workers that are started again are spared too.
    """
    _start_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker() -> None:
    """Start the process that looks after what processes share.

    Its first start would unblock the signal in the thread that starts workers. What it would say is what a worker that
    was killed left behind; it cleans that up.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore:resource_tracker:UserWarning")))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Dask's own log lines (lost workers, closed connections) off the terminal: the build reports them itself."""
    names = ("distributed", "tornado", "asyncio")
    inner = [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]  # with own levels
    loggers = [logging.getLogger(name) for name in (*names, *inner)]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
