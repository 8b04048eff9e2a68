"""Another user of the machine, who tries to reach a Dask server or a page through each port; prints who answers.

Becomes somebody else if started as root. Without that it has no keys either, as any program of somebody else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import tempfile
import urllib.error
import urllib.request
import warnings

import cloudpickle  # noqa: F401 -- while the files of the environment may still be read
import distributed.protocol
from distributed import Security
from distributed import comm as comms
from distributed.core import send_recv


async def ask(address: str, keys: Security) -> None:
    async with asyncio.timeout(1):
        comm = await comms.connect(address, 1, **keys.get_connection_args("client"))
        sys.stdout.write(f"{address}: {await send_recv(comm, op='identity')}\n")


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    distributed.protocol.loads(distributed.protocol.dumps({}))
    other = Security.temporary()
    # modules are imported while they may be read: the folder of a checkout may be its owner's alone
    with socket.create_server(("127.0.0.1", 0)) as own:
        knock(str(own.getsockname()[1]), other)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        tempfile.tempdir = "/tmp"  # noqa: S108 -- TMPDIR may be its owner's alone
    for port in sys.argv[1:]:
        knock(port, other)


def knock(port: str, other: Security) -> None:
    """Ask one port as a Dask server, with and without keys, and as a page."""
    for address, keys in ((f"tcp://127.0.0.1:{port}", Security()), (f"tls://127.0.0.1:{port}", other)):
        try:
            asyncio.run(ask(address, keys))
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            assert not isinstance(error, ImportError | PermissionError), error
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
            sys.stdout.write(f"port {port}: a page of {len(page.read())} bytes\n")
    except urllib.error.HTTPError as error:
        sys.stdout.write(f"port {port}: {error.code}\n")
    except OSError:
        pass


if __name__ == "__main__":
    main()
