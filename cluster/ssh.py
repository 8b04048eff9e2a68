"""Workers on other machines, started through SSH; the scheduler runs here."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Security, SpecCluster
from distributed.deploy.ssh import Worker

from rephase.cluster.access import TOKEN, GatedScheduler, dashboard_token, run_config, run_security
from rephase.cluster.connect import ClusterRequest, Connection, open_client, wait_for_workers
from rephase.cluster.errors import ClusterError
from rephase.cluster.interrupts import interrupts_held
from rephase.cluster.local import STRIKES, WORKER_ENVIRON, NannyCluster, first_cause, free_address
from rephase.config import Whole, read_config
from rephase.text import one_line

_ASK = "import json; from rephase.cluster.local import local_shape; print(json.dumps(vars(local_shape(%s))))"
_ANSWER_S = 120.0
_START = (
    "import os, sys; os.environ['DASK_INTERNAL_INHERIT_CONFIG'] = sys.stdin.readline().strip(); "
    "from distributed.cli.dask_spec import main; main()"
)
"""Starts a worker with the settings that come over its standard input."""


@dataclass(frozen=True)
class SshConfig:
    """The machines that `ssh:CONFIG.toml` starts workers on; the keys of the file. `ssh:A,B` sets only `hosts`."""

    hosts: tuple[str, ...]
    """`[USER@]HOST[:PORT]` of each machine; further settings of SSH come from `~/.ssh/config`."""
    python: str = ""
    """Python of the workers; the path of this process's own if empty."""
    workers: Whole = 0
    """Worker processes per host; one per GPU, else one per core, where 0."""
    scheduler_host: str = ""
    """Address of this machine for the hosts."""
    keys: tuple[str, ...] = ()
    """Private keys; the usual ones if empty."""
    known_hosts: str = ""
    """File of host keys; the usual one if empty."""

    def __post_init__(self) -> None:
        """Check the hosts."""
        if not self.hosts:
            raise ClusterError("no hosts; expected ssh:HOST,HOST or a file with hosts = [...]")
        for host in self.hosts:
            split_host(host)


def split_host(text: str) -> dict[str, Any]:
    """Split `[USER@]HOST[:PORT]` into the arguments `host`, `username` and `port` of asyncssh."""
    user, _, rest = text.rpartition("@")
    host, _, port = rest.partition(":")
    if not host or host.startswith("-") or any(letter.isspace() for letter in text) or (port and not port.isdigit()):
        raise ClusterError(f"host {text!r}; expected [USER@]HOST[:PORT]")
    found: dict[str, Any] = {"host": host}
    return found | ({"username": user} if user else {}) | ({"port": int(port)} if port else {})


def read_ssh(spec: str) -> SshConfig:
    """Read `ssh:HOST,HOST` or `ssh:FILE.toml`; raises ClusterError."""
    rest = spec.removeprefix("ssh:")
    if rest.endswith(".toml"):
        return read_config(rest, SshConfig, ClusterError)
    try:
        return SshConfig(tuple(host.strip() for host in rest.split(",") if host.strip()))
    except ClusterError as error:
        raise ClusterError(f"--cluster {spec}: {error}") from None


def check(spec: str) -> None:
    """Check the hosts or the file; raises ClusterError."""
    read_ssh(spec)


def job_script(spec: str) -> None:
    """Return None, as without a batch system."""


@contextmanager
def connect(spec: str, request: ClusterRequest) -> Iterator[Connection]:
    """Start a scheduler on this machine and workers on the hosts, and wait for them; raises ClusterError."""
    with start_ssh(read_ssh(spec), request) as (cluster, num_workers), open_client(cluster) as client:
        wait_for_workers(client, num_workers, request.timeout, spec)
        yield Connection(client, token=cluster.token)


class SshWorker(Worker):  # type: ignore[misc]  # Dask has no types
    """A nanny on another machine with the keys of the run.

    Dask itself writes the settings into the command line, which every user of that machine can read. Here they come
    over the encrypted connection, and no file has them.
    """

    def __init__(self, *arguments: Any, settings: str, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self._settings = settings

    async def start(self) -> None:
        """Start the nanny, and wait until it has a worker."""
        import asyncssh

        self.connection = await asyncssh.connect(self.address, **self.connect_options)
        spec = json.dumps({self.kwargs["name"]: {"cls": self.worker_class, "opts": self.kwargs}})
        python = self.remote_python or sys.executable
        words = shlex.join(["-P", "-c", _START, self.scheduler, "--spec", spec])
        self.proc = await self.connection.create_process(f"{shlex.quote(python)} {words}")
        self.proc.stdin.write(f"{self._settings}\n")
        last = ""
        while "worker at" not in last:
            line = await self.proc.stderr.readline()
            if not line:
                raise RuntimeError(f"{self.address}: {last or 'no message'}")
            last = line.strip() or last
        await super(Worker, self).start()


def connect_options(config: SshConfig, host: str) -> dict[str, Any]:
    """Return the arguments of `asyncssh.connect` besides the host."""
    options = {key: value for key, value in split_host(host).items() if key != "host"}
    if config.keys:
        options["client_keys"] = list(config.keys)
    if config.known_hosts:
        options["known_hosts"] = config.known_hosts
    return options


def ask_hosts(config: SshConfig, num_workers: int | None = None) -> dict[str, dict[str, Any]]:
    """Return the `LocalShape` of every host: its number of workers, and the GPU of each.

    Raises
    ------
    ClusterError
        If a host cannot be reached or lacks this package.
    """

    async def ask_all() -> list[dict[str, Any]]:
        return await asyncio.gather(*(_ask(config, host, num_workers) for host in config.hosts))

    return dict(zip(config.hosts, asyncio.run(ask_all()), strict=True))


async def _ask(config: SshConfig, host: str, num_workers: int | None) -> dict[str, Any]:
    import asyncssh

    python = config.python or sys.executable
    command = f"{shlex.quote(python)} -P -c {shlex.quote(_ASK % (num_workers or config.workers or None))}"
    try:
        async with asyncio.timeout(_ANSWER_S):
            async with asyncssh.connect(split_host(host)["host"], **connect_options(config, host)) as connection:
                done = await connection.run(command)
    except (OSError, asyncssh.Error, TimeoutError) as error:
        raise ClusterError(
            f"--cluster ssh: {host}: {error or 'no answer'}; expected 'ssh {host}' to log in without a prompt"
        ) from None
    if done.exit_status:
        last = (str(done.stderr or "").strip().splitlines() or ["no message"])[-1]
        raise ClusterError(
            f"--cluster ssh: {host}: {python} cannot run this package ({last}); expected the same version; install it, "
            "or set `python` in ssh:CONFIG.toml"
        )
    answer: dict[str, Any] = json.loads(str(done.stdout).strip().splitlines()[-1])
    return answer


def worker_specs(
    config: SshConfig, shapes: dict[str, dict[str, Any]], memory_limit: int | None, settings: str
) -> dict[str, dict[str, Any]]:
    """Describe each worker process for `SpecCluster`, with its GPU pinned; `settings` are Dask's, serialized."""
    specs = {}
    for host, shape in shapes.items():
        for number in range(shape["num_workers"]):
            gpus = shape["gpus"]
            options = {
                "nthreads": shape["threads"],
                "memory_limit": memory_limit or shape["memory_limit"],
                "name": f"{host}-{number}",
                "env": {"CUDA_VISIBLE_DEVICES": gpus[number]} if gpus else {},
                "dashboard_address": "127.0.0.1:0",
            }
            specs[f"{host}-{number}"] = {
                "cls": SshWorker,
                "options": {
                    "address": split_host(host)["host"],
                    "connect_options": connect_options(config, host),
                    "kwargs": options,
                    "worker_class": "rephase.cluster.access.GatedNanny",
                    "settings": settings,
                    "remote_python": config.python or None,
                },
            }
    return specs


@contextmanager
def start_ssh(config: SshConfig, request: ClusterRequest) -> Iterator[tuple[SpecCluster, int]]:
    """Start a scheduler on this machine and workers on the hosts; yields the cluster and its number of workers.

    Raises
    ------
    ClusterError
        If a host cannot be used.
    """
    shapes = ask_hosts(config, request.num_workers)
    token, security = dashboard_token(), run_security()
    settings = {
        "distributed.scheduler.allowed-failures": STRIKES - 2,
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRON,
        TOKEN: token,
    }
    with dask.config.set(settings):
        with dask.config.set(run_config(security, token)):
            specs = worker_specs(config, shapes, request.memory_limit, dask.config.serialize(dask.config.global_config))
        try:
            with interrupts_held():
                cluster = NannyCluster(
                    scheduler={"cls": GatedScheduler, "options": _scheduler_options(config, request, security)},
                    workers=specs,
                    security=security,
                    name="rephase-ssh",
                    silence_logs=logging.CRITICAL,
                )
                cluster.token = token
        except Exception as error:
            raise ClusterError(
                f"--cluster ssh: workers did not start ({one_line(first_cause(error))}); expected hosts that reach "
                "this machine; set `scheduler_host` in ssh:CONFIG.toml if they know it by another address"
            ) from None
        try:
            yield cluster, len(specs)
        finally:
            with interrupts_held():
                cluster.close(timeout=30)


def _scheduler_options(config: SshConfig, request: ClusterRequest, security: Security) -> dict[str, Any]:
    """Return the options of a scheduler that all hosts reach, and that only accepts the keys of this run."""
    options = {
        "protocol": "tls://",
        "port": 0,
        "security": security,
        "dashboard": True,
        "dashboard_address": free_address(request.dashboard_address),
    }
    return {**options, "host": config.scheduler_host} if config.scheduler_host else options
