"""A SLURM cluster of one node on loopback for a test: slurmctld and slurmd with their own configuration.

Needs root and Debian's slurmctld, slurmd and slurm-client; jobs run as root, without cgroups and without munge.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")

_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
SlurmctldPort={ctld}
SlurmdPort={slurmd}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=5
OverTimeLimit=0
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=16000 Gres=gpu:a100:2 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Return why SLURM cannot run on this machine, None if it can."""
    missing = [name for name in PROGRAMS if _find(name) is None]
    if missing:
        return f"no {', '.join(missing)} here (Debian: slurmctld slurmd slurm-client)"
    return None if os.getuid() == 0 else "needs root"


_GRES = "Name=gpu Type=a100 File=/dev/zero\nName=gpu Type=a100 File=/dev/full\n"
"""Two simulated GPUs: a job gets one of them and CUDA_VISIBLE_DEVICES."""


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start SLURM; yield the environment variables with which its commands find it."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    ctld, slurmd = _free_ports(2)
    conf.write_text(_CONF.format(host=host, folder=folder, ctld=ctld, slurmd=slurmd))
    (folder / "gres.conf").write_text(_GRES)
    environment = {"SLURM_CONF": str(conf)}
    running: list[subprocess.Popen[bytes]] = []
    try:
        for name in ("slurmctld", "slurmd"):
            with (folder / f"{name}.out").open("wb") as out:
                command = [_find(name), "-D", "-f", conf]
                running.append(subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=out))
        _wait_until_idle(environment, running, folder)
        yield environment
    finally:
        _end_jobs(environment)
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(30)


def ask(environment: dict[str, str], *words: str) -> str:
    """Return the output of a SLURM command."""
    done = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def jobs(environment: dict[str, str]) -> list[str]:
    """Return the numbers of running jobs, oldest first."""
    return ask(environment, "squeue", "--noheader", "--format=%A", "--states=RUNNING", "--sort=i").split()


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _end_jobs(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 30
    ask(environment, "scancel", "--full", f"--user={os.getuid()}")
    while ask(environment, "squeue", "--noheader") and time.monotonic() < deadline:
        time.sleep(0.2)


def _wait_until_idle(environment: dict[str, str], running: list[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while (state := ask(environment, "sinfo", "--noheader", "--format=%T")) != "idle":
        if time.monotonic() > deadline or any(one.poll() is not None for one in running):
            logs = "\n".join(path.read_text()[-1500:] for path in sorted(folder.glob("slurm*.out")))
            raise RuntimeError(f"SLURM does not start here: {state}; {logs}")
        time.sleep(0.1)
