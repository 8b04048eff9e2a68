"""Counters of a worker process: volumes, slices, bytes and seconds. Independent of Dask."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class _Volume:
    """A volume in work, in the thread that builds it."""

    build: str
    name: str
    done: int = 0
    num_slices: int = 0
    pixels: int = 0


class Counters:
    """Thread-safe counters. All only grow, except the volumes in progress."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._volumes: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()
        self._slices = 0
        self._sampled = 0
        self._device_s = 0.0
        self._in_work: dict[int, _Volume] = {}
        self._waiting = 0

    @contextmanager
    def working(self, build: str, name: str) -> Iterator[None]:
        """Count a volume of a build as being built by this thread."""
        with self._lock:
            self._in_work[threading.get_ident()] = _Volume(build, name)
        try:
            yield
        finally:
            with self._lock:
                del self._in_work[threading.get_ident()]

    def count_read(self, shape: tuple[int, int, int]) -> None:
        """Note the shape (slices, height, width) of the volume that this thread builds, or begins again."""
        with self._lock:
            volume = self._in_work.get(threading.get_ident())
            if volume is not None:
                volume.done, volume.num_slices, volume.pixels = 0, shape[0], math.prod(shape)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count one volume as waiting for the sampler."""
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    def count_sampled(self, num_slices: int, device_s: float = 0.0) -> None:
        """Count slices whose phase was sampled, and the seconds of GPU time for them (0 without a GPU)."""
        with self._lock:
            self._sampled += num_slices
            self._device_s += device_s
            volume = self._in_work.get(threading.get_ident())
            if volume is not None:
                volume.done += num_slices

    def count_volume(self, status: str, num_slices: int, seconds: Mapping[str, float], reason: str | None) -> None:
        """Count a finished volume.

        Parameters
        ----------
        status
            `built`, `skipped` or `failed`.
        num_slices
            Counted if it was built.
        seconds
            Seconds by stage.
        reason
            Reason of a failure.
        """
        with self._lock:
            self._volumes[status] += 1
            self._seconds.update(seconds)
            self._slices += num_slices if status == "built" else 0
            if reason is not None:
                self._failures[reason] += 1

    def snapshot(self) -> dict[str, Any]:
        """Return all counts as JSON values."""
        with self._lock:
            return {
                "slices": self._slices,
                "sampled": self._sampled,
                "device_s": self._device_s,
                "in_work": [asdict(volume) for volume in self._in_work.values()],
                "waiting": self._waiting,
                "volumes": dict(self._volumes),
                "failures": dict(self._failures),
                "seconds": dict(self._seconds),
            }


COUNTERS = Counters()
"""The counters of this process. Builds that share a worker share them."""
