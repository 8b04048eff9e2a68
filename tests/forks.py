"""Processes of a test's own, forked from one that has imported what they need: a tenth of a new interpreter's cost.

They end without the interpreter's own shutdown, and SIGINT may be blocked in them: what tests those starts `python`.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["distributed.nanny", "distributed.cli.dask_worker", "rephase.builder.workers"])


def fork(function: Callable[..., object], *arguments: Any, output: Path, **environment: str) -> ForkServerProcess:
    """Start a function of an importable module in a new process, with this environment and more variables.

    What it prints goes to `output`, and to `output` with the suffix `.err`.
    """
    process = FORKS.Process(target=_run, args=(function, arguments, output, {**os.environ, **environment}))
    process.start()
    return process


def _run(
    function: Callable[..., object], arguments: tuple[Any, ...], output: Path, environment: dict[str, str]
) -> None:
    for number, path in ((1, output), (2, output.with_suffix(".err"))):
        with path.open("ab") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -c code arguments` to its end."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        process = fork(_execute, code, arguments, output=output)
        process.join()
        said = [path.read_text(encoding="utf-8") for path in (output, output.with_suffix(".err"))]
    return subprocess.CompletedProcess(arguments, process.exitcode, *said)


def _execute(code: str, arguments: Sequence[str]) -> None:
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<test>", "exec"), {"__name__": "__main__"})  # noqa: S102 - the test's own


def run_command(*words: str) -> None:
    """Run a `rephase` command and end with its exit status; to be given to `fork`."""
    from rephase.cli import main

    sys.exit(main(words))
