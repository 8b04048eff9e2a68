"""Dask's own commands, `dask scheduler` and `dask worker`, as processes that may be killed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from build_process import descendants, kill
from forks import fork


@contextmanager
def dask_program(name: str, *words: str, log: Path, **environment: str) -> Iterator[ForkServerProcess]:
    """Run `dask scheduler` or `dask worker`; the process and its children are killed at the end."""
    process = fork(_run, name, words, output=log, **{"OMP_NUM_THREADS": "1", **environment})
    try:
        yield process
    finally:
        family = descendants(process.pid)
        process.kill()
        process.join()
        kill(family)


def _run(name: str, words: tuple[str, ...]) -> None:
    import dask
    from distributed.cli import dask_scheduler, dask_worker

    # as when it is imported: the variables of this process have just been set
    dask.config.refresh(paths=[os.environ["DASK_CONFIG"]] if "DASK_CONFIG" in os.environ else dask.config.paths)
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
            assert process.is_alive() and time.monotonic() < deadline, (folder / "scheduler.err").read_text()
            time.sleep(0.02)
        yield json.loads(file.read_text())["address"], process
