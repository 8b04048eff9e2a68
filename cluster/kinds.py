"""The table of clusters that `--cluster` accepts. To add one, write a `ClusterModule` and add its row.

Imports no heavy module: the command line generates its help from the table.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import socket
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from rephase.cluster.errors import ClusterError
from rephase.text import install_hint

if TYPE_CHECKING:
    from rephase.cluster.connect import ClusterRequest, Connection


class ClusterModule(Protocol):
    """The functions of a kind's module."""

    def check(self, spec: str) -> None:
        """Check a value of `--cluster` without starting a process; raise ClusterError if it is invalid."""

    def connect(self, spec: str, request: ClusterRequest) -> AbstractContextManager[Connection]:
        """Start or join the cluster, wait for its workers, and leave or stop it at the end.

        Raises
        ------
        ClusterError
            If it does not start or answer, or no workers start.
        """

    def job_script(self, spec: str) -> str | None:
        """Return the job script for a batch system, shown by `rephase plan`; None without a batch system."""


@dataclass(frozen=True)
class ClusterKind:
    """A row of the table.

    Attributes
    ----------
    module
        Has the functions of `ClusterModule`.
    forms
        Forms of `--cluster`: `NAME:` and further text, or the name alone.
    help
        One line on where the workers run.
    extra, packages
        The optional extra of this distribution that the kind needs, and the packages that must then be installed.
    """

    module: str
    forms: tuple[str, ...]
    help: str
    extra: str = ""
    packages: tuple[str, ...] = ()


CLUSTERS: dict[str, ClusterKind] = {
    "local": ClusterKind("rephase.cluster.local", ("local",), "this machine: one worker per GPU, else one per core"),
    "slurm": ClusterKind(
        "rephase.cluster.slurm.start",
        ("slurm:CONFIG.toml",),
        "SLURM jobs that this program submits",
        extra="slurm",
        packages=("dask_jobqueue",),
    ),
    "ssh": ClusterKind(
        "rephase.cluster.ssh",
        ("ssh:HOST,HOST", "ssh:CONFIG.toml"),
        "machines that SSH reaches: one worker per GPU, else one per core",
        extra="ssh",
        packages=("asyncssh",),
    ),
    "tcp": ClusterKind("rephase.cluster.scheduler", ("tcp://HOST:PORT",), "the workers of a running Dask scheduler"),
    "tls": ClusterKind("rephase.cluster.scheduler", ("tls://HOST:PORT",), "the same, encrypted and authenticated"),
}
"""Kinds of clusters by the text before the first colon of `--cluster`."""


def find_cluster(spec: str) -> ClusterModule:
    """Return the module for a value of `--cluster`, after checking the value.

    Raises
    ------
    ClusterError
        If no kind has this form, a package that it needs is not installed, or the rest of the value is wrong.
    """
    name, colon, rest = spec.partition(":")
    kind = CLUSTERS.get(name)
    if kind is None or not (rest if ":" in kind.forms[0] else not colon):
        forms = [form for one in CLUSTERS.values() for form in one.forms]
        raise ClusterError(f"--cluster {spec}: unknown; expected {', '.join(forms[:-1])} or {forms[-1]}")
    for package in kind.packages:
        if not _is_installed(package):
            raise ClusterError(
                f"--cluster {spec}: {package} is not installed; expected it for {name}; {install_hint(kind.extra)}"
            )
    module = cast("ClusterModule", importlib.import_module(kind.module))
    module.check(spec)
    return module


def is_open(spec: str) -> bool:
    """Check whether a value of `--cluster` means plain TCP on an interface that other machines reach.

    Such a connection is neither encrypted nor authenticated: whoever reaches the scheduler runs code as its user.
    """
    if not spec.startswith("tcp://"):
        return False
    host = spec.removeprefix("tcp://").rpartition(":")[0].strip("[]") or spec.removeprefix("tcp://")
    try:
        found = {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):  # cannot be reached either, which `connect` reports
        return True
    return not all(ipaddress.ip_address(address).is_loopback for address in found)


def check_access(spec: str, insecure: bool) -> None:
    """Refuse plain TCP to another machine, unless the user accepts it; raises ClusterError."""
    if is_open(spec) and not insecure:
        raise ClusterError(
            f"--cluster {spec}: plain TCP, so anyone who reaches this scheduler can run code as its user; expected "
            "tls://HOST:PORT (see TLS in cluster/README.md), or a scheduler on loopback through 'ssh -L'; accept it "
            "with --insecure in a network that you trust"
        )


def _is_installed(package: str) -> bool:
    """Check without importing it: dask-jobqueue changes the handler of Ctrl-C when it is imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # its import is blocked
        return False
