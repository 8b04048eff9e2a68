"""Workers on this machine: one process per GPU, else one per core."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import spawn, util
from pathlib import Path
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Security, SpecCluster
from distributed.deploy.cluster import Cluster
from distributed.system import MEMORY_LIMIT
from distributed.utils import get_mp_context

from rephase.cluster.access import TOKEN, GatedNanny, GatedScheduler, dashboard_token, run_security
from rephase.cluster.connect import ClusterRequest, Connection, open_client, wait_for_workers
from rephase.cluster.errors import ClusterError
from rephase.cluster.interrupts import interrupts_blocked, interrupts_held, quiet
from rephase.startup import safe_environment
from rephase.text import one_line

WORKER_ENVIRON = {
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Variables of every worker process, set before it starts.

A network allocates and frees tens of megabytes in every layer. With Dask's own setting (MALLOC_TRIM_THRESHOLD_=65536)
the C library returns them to the system each time, which then clears every page again: that took 50 % of the time.
Arithmetic uses one thread, since one worker per core already occupies all cores.
"""


def dask_environ() -> dict[str, str]:
    """Return the variables with which Dask itself would start a worker."""
    return {name: str(value) for name, value in dask.config.get("distributed.nanny.pre-spawn-environ").items()}


CPU_THREADS = 2
"""Threads of a worker: one computes while the other reads or writes."""
GPU_THREADS = 4
MEMORY_SHARE = 0.9
"""Share of the machine's memory for workers; the rest is for the client, the scheduler and the page cache."""
CLOSE_S, CLOSE_AT_ONCE_S = 30.0, 10.0
"""Seconds that workers have to stop; the latter after Ctrl-C."""
_ADDRESS = {"protocol": "tls://", "host": "127.0.0.1", "port": 0}
_PREPARE, _FLAGS = spawn.get_preparation_data, util._args_from_interpreter_flags  # type: ignore[attr-defined]
_PACKAGE = Path(__file__).absolute().parents[1]
STRIKES = 2
"""Number of workers that one task may kill before it fails: one among other tasks, one on its own."""


@dataclass(frozen=True)
class LocalShape:
    """Workers on one machine.

    Attributes
    ----------
    num_workers
        Worker processes.
    threads
        Threads of each: tasks that it runs at once.
    memory_limit
        Bytes per worker.
    gpus
        The CUDA device of each worker, by number, UUID or MIG name; empty without GPUs.
    """

    num_workers: int
    threads: int
    memory_limit: int
    gpus: tuple[str, ...] = ()


def visible_gpus() -> tuple[str, ...]:
    """Return the CUDA devices that this process sees, as named in `CUDA_VISIBLE_DEVICES`."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in named.split(",") if name.strip()] or [str(i) for i in range(count)]
    return tuple(names[:count])


def local_shape(
    num_workers: int | None = None, threads: int | None = None, memory_limit: int | None = None
) -> LocalShape:
    """Compute the number of workers of this machine, and the resources of each.

    Parameters
    ----------
    num_workers
        Default: one per GPU, else one per core.
    threads
        Tasks that a worker runs at once: while one computes, others read and write.
    memory_limit
        Bytes per worker. Default: an equal share of this machine's memory.
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
    """A cluster whose nannies restart their workers, without a time limit.

    Dask checks once, 15 s after it lost a worker, whether one of that name exists, and if not closes its nanny
    permanently, even if the worker came back, died again a moment ago and is restarting.

    `token` is that of its web pages.
    """

    token = ""

    def _update_worker_status(self, op: str, msg: Any) -> None:  # noqa: ANN401
        Cluster._update_worker_status(self, op, msg)


def check(spec: str) -> None:
    """Accept any value: `local` has no settings."""


def job_script(spec: str) -> None:
    """Return None, as without a batch system."""


@contextmanager
def connect(spec: str, request: ClusterRequest) -> Iterator[Connection]:
    """Start workers on this machine, and wait for them; raises ClusterError."""
    shape = local_shape(request.num_workers, request.threads, request.memory_limit)
    with start_local(shape, request.dashboard_address, request.preload) as cluster, open_client(cluster) as client:
        wait_for_workers(client, shape.num_workers, request.timeout, spec)
        yield Connection(client, local=True, token=cluster.token)


@contextmanager
def start_local(shape: LocalShape, dashboard_address: str, preload: Sequence[str] = ()) -> Iterator[SpecCluster]:
    """Start a scheduler and workers on this machine; stop them at the end.

    All ports are on loopback, unless `dashboard_address` has another host, and need the keys of this cluster, its web
    pages its token: see `rephase.cluster.access`.

    Parameters
    ----------
    shape
        Number of workers and their resources.
    dashboard_address
        `host:port` of the scheduler's pages.
    preload
        Modules that every worker needs. On Linux they are imported once, in a process from which all workers are forked
        and whose memory they share. Importing them must start no thread and no CUDA context.

    Raises
    ------
    ClusterError
        If no port can be opened.
    """
    forks = bool(preload) and sys.platform == "linux"  # on macOS, system libraries may crash after a fork
    token, security = dashboard_token(), run_security()
    config = {
        TOKEN: token,
        "distributed.worker.multiprocessing-method": "forkserver" if forks else "spawn",
        "distributed.scheduler.allowed-failures": STRIKES - 2,  # `rephase.cluster.window` makes the last attempt, alone
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRON,
        "distributed.worker.profile.interval": "100ms",  # at Dask's 10 ms it takes a millisecond of every small volume
    }
    with dask.config.set(config), quiet(), _imports_confined(), ExitStack() as stack:
        if forks:
            # after Dask has set its own list
            get_mp_context().set_forkserver_preload(["rephase.cluster.access", *preload])
        try:
            with interrupts_held(), interrupts_blocked(), warnings.catch_warnings():
                # another program may take the port after free_address; Dask then takes another port, which is shown
                warnings.filterwarnings("ignore", "(?s)Port .* is already in use", UserWarning)
                cluster = NannyCluster(
                    scheduler=_scheduler_spec(free_address(dashboard_address), security),
                    workers=_worker_specs(shape, security, dict(os.environ) if forks else {}),
                    security=security,
                    name="rephase",
                    silence_logs=logging.CRITICAL,
                )
                stack.callback(_close, cluster)
                cluster.token = token
        except (OSError, RuntimeError) as error:
            raise ClusterError(
                f"--cluster local: cannot start workers ({one_line(first_cause(error))}); expected free ports on this "
                "machine, and space for temporary files; free some or use another --cluster"
            ) from None
        yield cluster


@contextmanager
def _imports_confined() -> Iterator[None]:
    """Start workers that import neither the user's script nor anything in the working folder.

    `multiprocessing` imports the main module of the program in every process that it starts, so that functions of it
    can be unpickled. Tasks of workers are functions of importable modules, so they do not need it; and a script
    that builds outside of `if __name__ == "__main__":` would start a build in each of its workers. Its helpers are
    `python -c`, which looks for modules in the working folder first, and an interactive program does, too.
    """

    def prepare(name: str) -> dict[str, Any]:
        data: dict[str, Any] = _PREPARE(name)
        if name.startswith(("Dask Worker process", "ignore")):  # the latter is the process from which they are forked
            data = {key: value for key, value in data.items() if not key.startswith("init_main_from")}
            data["sys_path"] = [entry for entry in sys.path if entry]
            if _PACKAGE.name == __name__.partition(".")[0]:  # found through the working folder, perhaps
                data["sys_path"].append(str(_PACKAGE.parent))
        return data

    before = {name: os.environ.get(name) for name in safe_environment()}
    spawn.get_preparation_data = prepare
    util._args_from_interpreter_flags = lambda: [*_FLAGS(), "-P"]  # type: ignore[attr-defined]
    os.environ.update(safe_environment())
    try:
        yield
    finally:
        spawn.get_preparation_data = _PREPARE
        util._args_from_interpreter_flags = _FLAGS  # type: ignore[attr-defined]
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def first_cause(error: BaseException) -> BaseException:
    """Return the first error of a chain: Dask's own only say that something did not start."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _close(cluster: SpecCluster) -> None:
    """Stop the workers, and kill those that do not stop in time, such as one that is restarting on a busy machine.

    Errors are suppressed: the results are complete, and a pending KeyboardInterrupt must not be hidden.
    """
    interrupted = isinstance(sys.exception(), KeyboardInterrupt)
    try:
        cluster.close(timeout=CLOSE_AT_ONCE_S if interrupted else CLOSE_S)
    except Exception:  # Dask raises errors of many kinds
        for nanny in cluster.workers.values():
            nanny.auto_restart = False
            if nanny.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)


def free_address(address: str) -> str:
    """Return `host:port` if the port is free, else port 0 of the host, for which the system picks a free one.

    Raises
    ------
    ClusterError
        If it is not an address of this machine.
    """
    host, _, port = address.rpartition(":")
    host = host or "127.0.0.1"
    if not port.isdigit() or int(port) > 65535:
        raise ClusterError(f"--dashboard-address {address}: expected HOST:PORT, for example 127.0.0.1:8787")
    try:
        with socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return f"{host}:{port}"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"{host}:0"
        raise ClusterError(f"--dashboard-address {address}: {error}; expected HOST:PORT of this machine") from None


def _scheduler_spec(dashboard_address: str, security: Security) -> dict[str, Any]:
    options = {"security": security, "dashboard": True, "dashboard_address": dashboard_address}
    return {"cls": GatedScheduler, "options": {**_ADDRESS, **options}}


def _worker_specs(shape: LocalShape, security: Security, environment: Mapping[str, str]) -> dict[int, dict[str, Any]]:
    """Describe each worker; `environment` contains the variables other than `CUDA_VISIBLE_DEVICES`.

    Forked workers need the complete environment: the process that they are forked from keeps that of its start.
    """
    options: dict[str, Any] = {
        **_ADDRESS,
        "security": security,
        "nthreads": shape.threads,
        "memory_limit": shape.memory_limit,
        "silence_logs": logging.CRITICAL,
        "dashboard_address": "127.0.0.1:0",
    }
    pinned = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in shape.gpus] or [{}] * shape.num_workers
    return {
        i: {"cls": GatedNanny, "options": {**options, "name": i, "env": {**environment, **one}}}
        for i, one in enumerate(pinned)
    }
