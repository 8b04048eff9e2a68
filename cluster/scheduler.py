"""A Dask scheduler that is already running, by its address."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from distributed import Client, Security
from distributed import comm as comms
from distributed.core import send_recv

from rephase.cluster.connect import ClusterRequest, Connection, wait_for_workers
from rephase.cluster.errors import ClusterError
from rephase.cluster.interrupts import quiet
from rephase.text import one_line


def check(spec: str) -> None:
    """Check the form of an address; raises ClusterError."""
    scheme, _, rest = spec.partition(":")
    if not rest.startswith("//") or len(rest) == 2:
        raise ClusterError(f"--cluster {spec}: no address; expected {scheme}://HOST:PORT")


def job_script(spec: str) -> None:
    """Return None, as without a batch system."""


@contextmanager
def connect(spec: str, request: ClusterRequest) -> Iterator[Connection]:
    """Join a running scheduler, and wait for its workers; raises ClusterError."""
    with quiet():
        try:
            with ThreadPoolExecutor(1) as thread:  # a notebook's own thread has a running event loop
                kind = thread.submit(asyncio.run, _identify(spec, request.timeout)).result()
            client = Client(spec, timeout=request.timeout, set_as_default=False) if kind == "Scheduler" else None
        except (OSError, ValueError, RuntimeError, TypeError) as error:  # TypeError: tls:// without certificates
            raise ClusterError(
                f"--cluster {spec}: no answer within {request.timeout:g} s ({one_line(error)}); expected a running "
                "scheduler and, for tls://, certificates named by distributed.comm.tls; start it or correct the address"
            ) from None
        if client is None:
            raise ClusterError(f"--cluster {spec}: is a Dask {kind.lower()}; expected the scheduler's address")
        with client:
            wait_for_workers(client, request.num_workers or 1, request.timeout, spec)
            yield Connection(client)
        gc.collect()  # while Dask is quiet: its objects of a lost scheduler log when they are collected


async def _identify(address: str, timeout: float) -> str:
    """Return the type of the server at an address. A client would wait forever for a server that never answers."""
    async with asyncio.timeout(timeout + 1):
        comm = await comms.connect(address, timeout, **Security().get_connection_args("client"))
        try:
            identity = await send_recv(comm, op="identity")
        finally:
            comm.abort()
    return str(identity["type"]).removeprefix("Gated")  # the classes of `rephase.cluster.access`
