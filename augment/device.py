"""The GPU under a generator: how long it was busy, and how many slices of a call fit into its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from augment.errors import VolumeError


@dataclass
class Busy:
    """The time of a GPU between two events; of none on CPU."""

    events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    @property
    def seconds(self) -> float:
        """Waits for the later event; 0 on CPU."""
        if self.events is None:
            return 0.0
        start, end = self.events
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


@contextmanager
def device_clock(device: torch.device | str | None) -> Iterator[Busy]:
    """Take the time between the first and the last kernel of a block by CUDA events; on CPU it stays 0.

    The device works behind the program's back, so the program's own clock would count waiting as work. The block
    itself waits for nothing: only reading the time does. Events belong to the current stream of the device.
    """
    if device is None or torch.device(device).type != "cuda":
        yield Busy()
        return
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    yield Busy((start, end))
    end.record()


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


def explain_out_of_memory(where: str, generator: Any, sample: Callable[[int], object]) -> VolumeError:  # noqa: ANN401
    """Say which tile would fit a volume whose tile did not. The tile itself stays as it is: another gives other bytes.

    Parameters
    ----------
    where
        Names the volume.
    generator
        Its `tile` is how many slices it gives the network at once; nobody else may use it meanwhile.
    sample
        Samples that many slices of the volume.
    """
    tile = int(getattr(generator, "tile", 1))

    def call(slices: int) -> object:
        generator.tile = slices
        return sample(slices)

    try:
        fits = fitting_tile(tile, call)
    finally:
        if tile > 1:
            generator.tile = tile
        free_cache()
    found = f"{where}: the GPU ran out of memory with tiles of {tile} slices"
    if fits:
        return VolumeError(
            "too_large", f"{found}; tiles of {fits} would fit, and give other bytes; use a GPU with more memory"
        )
    return VolumeError("too_large", f"{found}; not even one slice fits; use a GPU with more memory")


def free_cache() -> None:
    """Give back memory of the GPU that nothing uses."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
