"""Memory of a worker: the largest volume it accepts, and a lock so that small volumes share it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rephase.scanner.acquisition import parse_acquisition

if TYPE_CHECKING:
    from rephase.pipeline.recipe import Recipe

PROCESS_BYTES = 500 * 2**20
"""Memory of a worker without a volume: interpreter, torch, the model."""

VOLUME_FACTOR = 11
"""Peak memory of a build per byte of its float32 magnitude: image, phase, k-space, the shard and its copy."""

_PER_COIL = 5
"""The same for every coil whose k-space is stored: k-space, and most of the shard and its copy."""


def volume_factor(recipe: Recipe) -> int:
    """Return the peak memory of a build by a recipe, per byte of the float32 magnitude."""
    coils = recipe.num_coils if recipe.storage != "image+maps" else 0
    more = parse_acquisition(recipe.acquisition or "full").oversampling
    return VOLUME_FACTOR + _PER_COIL * (coils * more + (more - 1))


@dataclass(frozen=True)
class MemoryLimits:
    """Limits on the float32 magnitude of one volume, in bytes; None for no limit.

    `shared` applies while other tasks of the worker run, `exclusive` while no other task runs.
    """

    shared: int | None = None
    exclusive: int | None = None


def magnitude_limits(memory_limit: int | None, threads: int, factor: int = VOLUME_FACTOR) -> MemoryLimits:
    """Compute the largest volume that a worker accepts.

    Parameters
    ----------
    memory_limit
        Bytes of the worker, None for no limit.
    threads
        Tasks that the worker runs at once.
    factor
        `volume_factor` of the recipe.
    """
    if memory_limit is None:
        return MemoryLimits()
    exclusive = max(memory_limit - PROCESS_BYTES, memory_limit // 4) // factor
    return MemoryLimits(exclusive // threads, exclusive)


class AdmissionLock:
    """Shared/exclusive lock. A waiting exclusive holder blocks new shared ones, so it is never starved."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders = 0
        self._exclusive_waiting = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Acquire the lock for a `with` block, shared with other holders."""
        with self._changed:
            self._changed.wait_for(lambda: self._exclusive_waiting == 0)
            self._holders += 1
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Acquire the lock exclusively: wait until every other holder has released it, and block new ones."""
        with self._changed:
            self._exclusive_waiting += 1
            self._changed.wait_for(lambda: self._holders == 0)
            self._holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._exclusive_waiting -= 1
            self._release()

    def _release(self) -> None:
        with self._changed:
            self._holders -= 1
            self._changed.notify_all()
