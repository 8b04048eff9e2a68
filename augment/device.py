"""The GPU under a generator: how long it was busy, and how many slices of a call fit into its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass
class Busy:
    """Seconds of a GPU, 0 on CPU."""

    seconds: float = 0.0


@contextmanager
def device_clock(device: torch.device | str | None) -> Iterator[Busy]:
    """Take the time between the first and the last kernel of a block by CUDA events; on CPU it stays 0.

    The device works behind the program's back, so the program's own clock would count waiting as work.
    """
    busy = Busy()
    if device is None or torch.device(device).type != "cuda":
        yield busy
        return
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    yield busy
    end.record()
    end.synchronize()
    busy.seconds = start.elapsed_time(end) / 1000


def fitting_tile(tile: int, call: Callable[[int], object]) -> int:
    """Find how many slices a call may have without running out of memory, by halving; 0 where not even one fits.

    Parameters
    ----------
    tile
        Slices of the call that did not fit.
    call
        Does the work of that many slices.
    """
    while tile > 1:
        tile //= 2
        free_cache()
        try:
            call(tile)
        except torch.OutOfMemoryError:
            continue
        return tile
    return 0


def free_cache() -> None:
    """Give back memory of the GPU that nothing uses."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
