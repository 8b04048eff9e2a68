"""From the value of `--cluster` to a Dask client."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from distributed import Client, Security, SpecCluster
from distributed import comm as comms
from distributed.core import send_recv

from rephase.cluster.errors import ClusterError
from rephase.cluster.local import interrupts_held, local_shape, quiet, start_local
from rephase.cluster.slurm.start import check_jobqueue, leave_in_order, read_slurm, start_slurm
from rephase.cluster.ssh import check_asyncssh, read_ssh, start_ssh
from rephase.text import one_line

DASHBOARD_ADDRESS = "127.0.0.1:8787"
SCHEDULER_SCHEMES = ("tcp", "tls")

WORKERLESS_S = 120.0
"""The work is given up when there was no worker for so long."""
_CHECK_S = 2.0


@dataclass(frozen=True)
class Connection:
    """A client with workers.

    `dashboard` is the address of the scheduler's pages; `local` where we started it all on this machine.
    `workerless_s`: so long there may be no worker before the work is given up; a queue may take a day.
    `check` raises ClusterError where it is known before that none will come.
    """

    client: Client
    dashboard: str
    local: bool
    workerless_s: float = WORKERLESS_S
    check: Callable[[], None] = lambda: None

    def num_threads(self) -> int:
        """Count the tasks that the cluster runs at once; workers come and go."""
        return sum(self.client.nthreads().values())

    def num_workers(self) -> int:
        """Count the workers."""
        return len(self.client.nthreads())

    def memory_limit(self) -> int | None:
        """Bytes that the smallest worker may use, None where workers have no limit."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [int(worker["memory_limit"]) for worker in workers if worker["memory_limit"]]
        return min(limits) if limits else None


def check_spec(spec: str) -> None:
    """Check the value of `--cluster` without starting anything.

    Raises
    ------
    ClusterError
        If it is not one that this version understands.
    """
    scheme, _, rest = spec.partition(":")
    if spec == "local" or (scheme in SCHEDULER_SCHEMES and rest.startswith("//") and len(rest) > 2):
        return
    if scheme == "slurm" and rest:
        read_slurm(spec)
        check_jobqueue()
    elif scheme == "ssh" and rest:
        read_ssh(spec)
        check_asyncssh()
    else:
        raise ClusterError(
            f"--cluster {spec}: expected local, slurm:CONFIG.toml, ssh:HOST,HOST, tcp://HOST:PORT or tls://HOST:PORT"
        )


@contextmanager
def connect(
    spec: str = "local",
    *,
    num_workers: int | None = None,
    threads: int | None = None,
    memory_limit: int | None = None,
    dashboard_address: str = DASHBOARD_ADDRESS,
    timeout: float = 60.0,
    preload: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Connection]:
    """Start a cluster on this machine or join one that runs, and wait for its workers.

    Parameters
    ----------
    spec
        `"local"`, `"slurm:CONFIG"`, `"ssh:HOSTS"`, or the address of a running scheduler, `tcp://host:port` or
        `tls://host:port`.
    num_workers
        Of a local cluster and of each SSH host (default: one per GPU, else one per core); of SLURM, jobs at most; of a
        running scheduler, how many to wait for.
    threads, memory_limit
        Of each worker of a local cluster; bytes.
    dashboard_address
        `host:port` of a local cluster's pages; another port is taken where it is in use.
    timeout
        Seconds to wait for the scheduler, and then for the workers.
    preload
        Modules that the workers need: those of a local cluster share them.
    say
        Gets a line where that may take long.

    Raises
    ------
    ClusterError
        If the value is not understood, the scheduler does not answer or the workers do not come.
    """
    check_spec(spec)
    if spec.startswith("slurm:"):
        config = read_slurm(spec)
        with start_slurm(config, num_workers, dashboard_address) as cluster, _client(cluster) as client:
            for plugin in leave_in_order():
                client.register_plugin(plugin)
            say(f"submitted to SLURM; waiting for the first worker, {config.wait:g} s at most; Ctrl-C ends it")
            _wait_for_workers(client, 1, config.wait, spec, cluster.check)
            yield Connection(client, client.dashboard_link, False, config.wait, cluster.check)
        return
    if spec.startswith("ssh:"):
        started = start_ssh(read_ssh(spec), num_workers, memory_limit, dashboard_address)
        with started as (cluster, count), _client(cluster) as client:
            yield _ready(client, count, timeout, spec)
        return
    if spec != "local":
        with _join(spec, timeout) as client:
            yield _ready(client, num_workers or 1, timeout, spec)
        return
    shape = local_shape(num_workers, threads, memory_limit)
    with start_local(shape, dashboard_address, preload) as cluster, _client(cluster) as client:
        yield _ready(client, shape.num_workers, timeout, spec)


@contextmanager
def _client(cluster: SpecCluster) -> Iterator[Client]:
    with ExitStack() as stack:
        with interrupts_held():
            client = stack.enter_context(Client(cluster, set_as_default=False))
        yield client


@contextmanager
def _join(address: str, timeout: float) -> Iterator[Client]:
    with quiet():
        try:
            with ThreadPoolExecutor(1) as elsewhere:  # a notebook's own thread has a running loop
                kind = elsewhere.submit(asyncio.run, _ask_kind(address, timeout)).result()
            if kind != "Scheduler":
                raise ClusterError(f"--cluster {address}: a Dask {kind.lower()}; expected the scheduler's address")
            client = Client(address, timeout=timeout, set_as_default=False)
        except (OSError, ValueError, RuntimeError, TypeError) as error:  # TypeError: tls:// without certificates
            raise ClusterError(
                f"--cluster {address}: no answer within {timeout:g} s ({one_line(error)}); check that the scheduler "
                "runs and, for tls://, that distributed.comm.tls names the certificates"
            ) from None
        with client:
            yield client
        gc.collect()  # what Dask left of a lost scheduler says so when it is collected, and that is known by now


async def _ask_kind(address: str, timeout: float) -> str:
    """Ask what answers there before a client is made: a client waits forever for a server that says nothing."""
    async with asyncio.timeout(timeout + 1):
        comm = await comms.connect(address, timeout, **Security().get_connection_args("client"))
        try:
            identity = await send_recv(comm, op="identity")
        finally:
            comm.abort()
    return str(identity["type"])


def _ready(client: Client, num_workers: int, timeout: float, spec: str) -> Connection:
    _wait_for_workers(client, num_workers, timeout, spec)
    return Connection(client, client.dashboard_link, spec == "local")


def _wait_for_workers(
    client: Client, num_workers: int, timeout: float, spec: str, check: Callable[[], None] = lambda: None
) -> None:
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
            f"--cluster {spec}: {len(client.nthreads())} of {num_workers} workers came within {timeout:g} s; start "
            "workers, or ask for fewer with --workers"
        )
