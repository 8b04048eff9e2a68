"""`rephase build` as a separate process: started, observed, killed and cleaned up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

PROJECT = Path(__file__).parent.parent
QUIET = ("--phase", "smooth", "--dashboard-address", "127.0.0.1:0")


@contextmanager
def running(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start `rephase` in a new process group; all of its processes are killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rephase.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=PROJECT,
        env={**os.environ, **environment},
    )
    family: list[psutil.Process] = []
    try:
        yield process
    finally:
        if process.poll() is None:
            family = descendants(process.pid)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kill(family)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def build_arguments(manifest: Path, root: Path, num_workers: int = 2) -> tuple[str, ...]:
    return ("build", str(manifest), str(root), *QUIET, "--workers", str(num_workers))


def wait_for_objects(root: Path, pattern: str, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until the corpus has this many objects: a moment of the build that does not depend on the machine."""
    wait_until(lambda: len(list(root.glob(pattern))) >= count, process)


def wait_until(condition, process: subprocess.Popen[str] | None = None, timeout: float = 300.0) -> None:
    """Poll a condition; fail after the timeout, or if the process that it depends on ends."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"not within {timeout:g} s"
        time.sleep(0.003)


def descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Worker processes of a build on this machine: all are forked from one process, which its client started."""
    forkers = [child for child in descendants(process.pid) if "forkserver" in command_of(child)]
    return [child for child in forkers if child.ppid() != process.pid]


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(processes: list[psutil.Process]) -> None:
    for one in processes:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue


def assert_gone(processes: list[psutil.Process], timeout: float = 120.0) -> None:
    """Fail if one of these still runs."""
    _, alive = psutil.wait_procs(processes, timeout=timeout)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE], "a process was left behind"
