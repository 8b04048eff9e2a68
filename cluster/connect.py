"""Connect to the cluster of `--cluster`: return a Dask client with workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from distributed import Client, SpecCluster

from rephase.cluster.errors import ClusterError
from rephase.cluster.interrupts import interrupts_held
from rephase.cluster.kinds import find_cluster

DASHBOARD_ADDRESS = "127.0.0.1:8787"

WORKERLESS_S = 120.0
"""Seconds without any worker after which a build is aborted."""
_CHECK_S = 2.0


@dataclass(frozen=True)
class ClusterRequest:
    """Settings for starting a cluster.

    Attributes
    ----------
    num_workers
        Workers of a local cluster and per SSH host (default: one per GPU, else one per core); largest number of SLURM
        jobs; for a running scheduler, the number of workers to wait for.
    threads, memory_limit
        Threads and bytes per worker of a local cluster.
    dashboard_address
        `host:port` of the scheduler's pages; if the port is in use, another one is used.
    timeout
        Seconds to wait for the scheduler, and then for the workers.
    preload
        Modules that the workers need; local workers share their memory.
    say
        Called with a line before a long wait.
    """

    num_workers: int | None = None
    threads: int | None = None
    memory_limit: int | None = None
    dashboard_address: str = DASHBOARD_ADDRESS
    timeout: float = 60.0
    preload: Sequence[str] = ()
    say: Callable[[str], None] = lambda _: None


@dataclass(frozen=True)
class Connection:
    """A client with workers.

    Attributes
    ----------
    client
        Connected to the scheduler.
    local
        Whether scheduler and workers were started on this machine.
    workerless_s
        Seconds without any worker after which a build is aborted; a batch queue may take a day.
    check
        Raises ClusterError once it is known that no worker will start.
    token
        Token of the scheduler's pages; empty if they ask for none.
    """

    client: Client
    local: bool = False
    workerless_s: float = WORKERLESS_S
    check: Callable[[], None] = lambda: None
    token: str = field(default="", repr=False)

    @property
    def dashboard(self) -> str:
        """Address of the scheduler's pages, with their token."""
        return f"{self.client.dashboard_link}{f'?token={self.token}' if self.token else ''}"

    def num_threads(self) -> int:
        """Return the number of tasks that the cluster can currently run at once."""
        return sum(self.client.nthreads().values())

    def num_workers(self) -> int:
        """Return the current number of workers."""
        return len(self.client.nthreads())

    def memory_limit(self) -> int | None:
        """Return the bytes that the smallest worker may use, None if no worker has a limit."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [int(worker["memory_limit"]) for worker in workers if worker["memory_limit"]]
        return min(limits) if limits else None


def check_spec(spec: str) -> None:
    """Check the value of `--cluster` without starting a process; raise ClusterError if it is invalid."""
    find_cluster(spec)


@contextmanager
def connect(spec: str = "local", request: ClusterRequest | None = None) -> Iterator[Connection]:
    """Start a cluster or join a running one, and wait for its workers.

    Parameters
    ----------
    spec
        Value of `--cluster`, in a form of the table `rephase.cluster.kinds.CLUSTERS`.
    request
        Settings for starting the cluster.

    Raises
    ------
    ClusterError
        If the value has no known form, the scheduler does not answer, or no workers start.
    """
    with find_cluster(spec).connect(spec, request or ClusterRequest()) as connection:
        yield connection


@contextmanager
def open_client(cluster: SpecCluster) -> Iterator[Client]:
    """Open a client of a cluster that this process has started, and close it at the end."""
    with ExitStack() as stack:
        with interrupts_held():
            client = stack.enter_context(Client(cluster, set_as_default=False))
        yield client


def wait_for_workers(
    client: Client, num_workers: int, timeout: float, spec: str, check: Callable[[], None] = lambda: None
) -> None:
    """Wait until a cluster has this many workers.

    Raises
    ------
    ClusterError
        After `timeout` seconds, or as soon as `check` raises it.
    """
    end = time.monotonic() + timeout
    while True:
        check()
        try:
            client.wait_for_workers(num_workers, timeout=min(max(end - time.monotonic(), 0.01), _CHECK_S))
            return
        except TimeoutError:
            if time.monotonic() < end:
                continue
        raise ClusterError(
            f"--cluster {spec}: {len(client.nthreads())} of {num_workers} workers came within {timeout:g} s; expected "
            "all of them; start workers, or request fewer with --workers"
        )
