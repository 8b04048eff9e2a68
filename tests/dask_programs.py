"""Dask's own commands, `dask scheduler` and `dask worker`, as processes that may be killed.

They are forked from a process that has imported what they need, which costs a tenth of a new interpreter.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from build_process import descendants, kill

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["distributed.nanny", "distributed.cli.dask_worker", "rephase.builder.workers"])


@contextmanager
def dask_program(name: str, *words: str, log: Path, **environment: str) -> Iterator[ForkServerProcess]:
    """Run `dask scheduler` or `dask worker`; the process and its children are killed at the end."""
    variables = {"OMP_NUM_THREADS": "1", **os.environ, **environment}
    process = _FORKS.Process(target=_run, args=(name, words, log, variables))
    process.start()
    try:
        yield process
    finally:
        family = descendants(process.pid)
        process.kill()
        process.join()
        kill(family)


def _run(name: str, words: tuple[str, ...], log: Path, variables: dict[str, str]) -> None:
    import dask
    from distributed.cli import dask_scheduler, dask_worker

    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(variables)
    dask.config.refresh(paths=[variables["DASK_CONFIG"]] if "DASK_CONFIG" in variables else dask.config.paths)
    command = {"scheduler": dask_scheduler, "worker": dask_worker}[name].main
    command(list(words), prog_name=f"dask {name}", standalone_mode=False)


@contextmanager
def dask_scheduler(folder: Path, *words: str, **environment: str) -> Iterator[tuple[str, ForkServerProcess]]:
    """Run `dask scheduler` on a free port of loopback; yields its address and its process."""
    file = folder / "scheduler.json"
    more = ("--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    with dask_program("scheduler", *words, *more, log=folder / "scheduler.log", **environment) as process:
        deadline = time.monotonic() + 300
        while not (file.is_file() and file.read_text().endswith("}")):
            assert process.is_alive() and time.monotonic() < deadline, (folder / "scheduler.log").read_text()
            time.sleep(0.02)
        yield json.loads(file.read_text())["address"], process
