"""From the value of `--cluster` to a Dask client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from distributed import Client

from cluster.errors import ClusterError
from cluster.local import interrupts_held, local_shape, start_local

DASHBOARD_ADDRESS = "127.0.0.1:8787"
SCHEDULER_SCHEMES = ("tcp", "tls")
LATER_SCHEMES = ("slurm", "ssh")


@dataclass(frozen=True)
class Connection:
    """A client with workers. `dashboard` is the address of the scheduler's pages; `local` where we started it all."""

    client: Client
    dashboard: str
    local: bool

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
    scheme, separator, rest = spec.partition(":")
    if spec == "local" or (scheme in SCHEDULER_SCHEMES and rest.startswith("//") and len(rest) > 2):
        return
    if scheme in LATER_SCHEMES and separator:
        raise ClusterError(
            f"--cluster {spec}: {scheme} is not yet supported by this version; start a Dask scheduler there yourself "
            "and give its address, tcp://HOST:PORT"
        )
    raise ClusterError(f"--cluster {spec}: expected local, tcp://HOST:PORT or tls://HOST:PORT")


@contextmanager
def connect(
    spec: str = "local",
    *,
    num_workers: int | None = None,
    threads: int | None = None,
    memory_limit: int | None = None,
    dashboard_address: str = DASHBOARD_ADDRESS,
    timeout: float = 60.0,
) -> Iterator[Connection]:
    """Start a cluster on this machine or join one that runs, and wait for its workers.

    Parameters
    ----------
    spec
        `"local"`, or the address of a running scheduler, `tcp://host:port` or `tls://host:port`.
    num_workers
        Of a local cluster (default: one per GPU, else one per core); of a running one, how many to wait for.
    threads, memory_limit
        Of each worker of a local cluster; bytes.
    dashboard_address
        `host:port` of a local cluster's pages; another port is taken where it is in use.
    timeout
        Seconds to wait for the scheduler, and then for the workers.

    Raises
    ------
    ClusterError
        If the value is not understood, the scheduler does not answer or the workers do not come.
    """
    check_spec(spec)
    if spec != "local":
        with _join(spec, timeout) as client:
            yield _ready(client, num_workers or 1, timeout, spec)
        return
    shape = local_shape(num_workers, threads, memory_limit)
    with start_local(shape, dashboard_address) as cluster, ExitStack() as stack:
        with interrupts_held():
            client = stack.enter_context(Client(cluster, set_as_default=False))
        yield _ready(client, shape.num_workers, timeout, spec)


@contextmanager
def _join(address: str, timeout: float) -> Iterator[Client]:
    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError, RuntimeError, TypeError) as error:  # TypeError: tls:// without certificates
        raise ClusterError(
            f"--cluster {address}: no answer within {timeout:g} s ({_first_line(error)}); check that the scheduler "
            "runs and, for tls://, that distributed.comm.tls names the certificates"
        ) from None
    with client:
        yield client


def _ready(client: Client, num_workers: int, timeout: float, spec: str) -> Connection:
    try:
        client.wait_for_workers(num_workers, timeout=timeout)
    except TimeoutError:
        raise ClusterError(
            f"--cluster {spec}: {len(client.nthreads())} of {num_workers} workers came within {timeout:g} s; start "
            "workers, or ask for fewer with --workers"
        ) from None
    return Connection(client, client.dashboard_link, spec == "local")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
