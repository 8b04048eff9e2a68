"""Memory of a worker as room that its tasks share: small volumes side by side, a large one alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PROCESS_BYTES = 500 * 2**20
"""Of a worker before it holds a volume: interpreter, torch, the model."""

VOLUME_FACTOR = 11
"""Peak memory of a volume's work per byte of its float32 magnitude: image, phase, k-space, the shard and its copy."""


@dataclass(frozen=True)
class Limits:
    """Bytes of float32 magnitude: what one of several tasks may take, and what one alone may take. None: no limit."""

    shared: int | None = None
    alone: int | None = None


def magnitude_limits(memory_limit: int | None, threads: int, volume_limit: int | None = None) -> Limits:
    """Derive how large a volume a worker takes.

    Parameters
    ----------
    memory_limit
        Bytes of the worker, None for no limit.
    threads
        Its tasks at once.
    volume_limit
        What the user set for one volume.
    """
    if memory_limit is None:
        return Limits(volume_limit, volume_limit)
    alone = max(memory_limit - PROCESS_BYTES, memory_limit // 4) // VOLUME_FACTOR
    if volume_limit is not None:
        alone = min(alone, volume_limit)
    return Limits(min(alone, max(memory_limit - PROCESS_BYTES, memory_limit // 4) // VOLUME_FACTOR // threads), alone)


class Room:
    """Lets any number of tasks in, or one alone. A task that waits to be alone keeps newcomers out, so it gets in."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone_wanted = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Work beside others."""
        with self._changed:
            self._changed.wait_for(lambda: self._alone_wanted == 0)
            self._inside += 1
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Work when everyone else has left, and let nobody in meanwhile."""
        with self._changed:
            self._alone_wanted += 1
            self._changed.wait_for(lambda: self._inside == 0)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._alone_wanted -= 1
            self._leave()

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()
