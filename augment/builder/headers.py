"""Sizes of volumes that the manifest does not state, read from headers in a child process while a build runs.

A file that hangs or crashes its reader costs the build its estimate of the remaining time, nothing else.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict

from rephase.manifests.record import ManifestRow
from rephase.pipeline.task import TaskList
from rephase.text import is_url

MOST_HEADERS = 256

_MAIN = "from rephase.builder.headers import read_sizes; read_sizes()"


class HeaderSizes:
    """Reads the headers of at most 256 local volumes of unstated size, spread over the tasks, in the background.

    Parameters
    ----------
    tasks
        The tasks of the run.
    """

    def __init__(self, tasks: TaskList) -> None:
        self._found: deque[tuple[int, float]] = deque()
        self._child: subprocess.Popen[bytes] | None = None
        unknown = [position for position, pixels in enumerate(tasks.pixels) if math.isnan(pixels)]
        chosen = set(unknown[:: -(-len(unknown) // MOST_HEADERS)]) if unknown else set()
        rows = [(position, task.row) for position, task in enumerate(tasks.tasks()) if position in chosen]
        rows = [(position, row) for position, row in rows if not is_url(row.path)]
        if rows:
            # the paths of this process, so that the child finds the same package
            environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            self._child = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _MAIN],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environ,
            )
            threading.Thread(target=self._talk, args=(rows,), name="sizes of volumes", daemon=True).start()

    def take(self) -> Iterator[tuple[int, float]]:
        """Yield the positions and pixels of the volumes read since the last call."""
        while self._found:
            yield self._found.popleft()

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _talk(self, rows: Sequence[tuple[int, ManifestRow]]) -> None:
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None  # noqa: S101
        with child.stdout, suppress(OSError):  # killed at the end of the build
            with child.stdin:
                child.stdin.write(json.dumps([[position, asdict(row)] for position, row in rows]).encode())
            for line in child.stdout:
                with suppress(ValueError):
                    position, pixels = line.split()
                    self._found.append((int(position), float(pixels)))


def read_sizes() -> None:
    """Read pairs of position and row from standard input; write position and pixels of each, if its header is read."""
    from rephase.readers.registry import describe_row

    os.nice(10)  # the workers come first
    for position, row in json.load(sys.stdin):
        with suppress(Exception):  # the build reports the error
            extra = tuple((name, value) for name, value in row.pop("extra"))
            sys.stdout.write(f"{position} {math.prod(describe_row(ManifestRow(**row, extra=extra)))}\n")
            sys.stdout.flush()
