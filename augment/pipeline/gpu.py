"""Submit batches to the sampler and fetch the results; on a GPU, copies overlap with sampling.

The program runs ahead of a GPU: while one batch is sampled, the magnitude of the next is copied to the GPU, and the
phase of the previous one back, in three streams (PyTorch, "CUDA semantics": work of one stream runs in order, that of
two streams in any order; copies from and to pinned memory do not block the program). Dependencies:

    copy to the GPU (own stream)  ->  sample (current stream)  ->  copy back (own stream)  ->  the program reads
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.generators import Conditions, PhaseGenerator, SliceKey
from rephase.errors import VolumeError


@dataclass
class Busy:
    """GPU time between two events in seconds; 0 on CPU."""

    events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    @property
    def seconds(self) -> float:
        """Wait for the later event and return the time in seconds; 0 on CPU."""
        if self.events is None:
            return 0.0
        start, end = self.events
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


@contextmanager
def device_clock(device: torch.device | str | None) -> Iterator[Busy]:
    """Measure the time between the first and the last kernel of a block with CUDA events; 0 on CPU.

    The device works asynchronously, so wall time would include waiting. Only reading the time
    waits. Events belong to the current stream of the device.
    """
    if device is None or torch.device(device).type != "cuda":
        yield Busy()
        return
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    yield Busy((start, end))
    end.record()


def fitting_tile(tile: int, call: Callable[[int], object]) -> int:
    """Find, by bisection, the number of slices that a call can process without running out of memory; 0 if none fits.

    Parameters
    ----------
    tile
        Number of slices of the call that failed.
    call
        Processes that many slices.
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


def explain_out_of_memory(where: str, generator: PhaseGenerator, sample: Callable[[int], object]) -> VolumeError:
    """Return the error of a volume that does not fit into GPU memory, naming a tile size that fits.

    The tile size is not changed automatically: the bytes depend on it.

    Parameters
    ----------
    where
        Names the volume.
    generator
        Its `tile` is the number of slices per network call; no other thread may use it meanwhile.
    sample
        Samples that many slices of the volume.
    """
    tile = generator.tile

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
    """Release unused memory of the GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


Pending: TypeAlias = Callable[[], tuple[NDArray[np.complex64], float]]
"""Waits for the phasors of a batch; returns them and the seconds of GPU sampling, 0 without one."""
Take: TypeAlias = Callable[[slice, NDArray[np.complex64], float], None]


class Submitter(Protocol):
    """Submits batches to a generator. `ahead` is the number of batches in flight after submission."""

    ahead: int

    def send(self, magnitude: NDArray[np.float32], keys: Sequence[SliceKey], conditions: Conditions) -> Pending:
        """Submit a batch `(slice height width)`; no other thread may use the generator during the call."""
        ...


class InlineSubmitter:
    """Completes every batch before `send` returns: for a CPU, and as the reference for the bytes of a GPU."""

    ahead = 0

    def __init__(self, generator: PhaseGenerator) -> None:
        self.generator = generator

    def send(self, magnitude: NDArray[np.float32], keys: Sequence[SliceKey], conditions: Conditions) -> Pending:
        """Submit part of a volume; see `Submitter`."""
        with device_clock(self.generator.device) as busy:
            phasor = self.generator.sample_phase(torch.from_numpy(magnitude.copy()), keys, conditions)
        return lambda: (phasor.numpy(), busy.seconds)


class CudaSubmitter:
    """Submits to a CUDA device: `send` only queues the work of a batch."""

    ahead = 1

    def __init__(self, generator: PhaseGenerator, device: torch.device) -> None:
        self.generator, self.device = generator, device
        self.upload, self.download = _copy_streams(device)

    def send(self, magnitude: NDArray[np.float32], keys: Sequence[SliceKey], conditions: Conditions) -> Pending:
        """Submit part of a volume; see `Submitter`."""
        staged = torch.empty(magnitude.shape, dtype=torch.float32, pin_memory=True)
        np.copyto(staged.numpy(), magnitude)
        with torch.cuda.device(self.device):
            compute = torch.cuda.current_stream()
            with torch.cuda.stream(self.upload):
                slices = staged.to(self.device, non_blocking=True)  # keeps `staged` until the copy is done
            compute.wait_stream(self.upload)
            slices.record_stream(compute)  # its memory belongs to the stream `upload`, which is unaware of the sampling
            with device_clock(self.device) as busy:
                phasor = self.generator.sample_phase(slices, keys, conditions)
            self.download.wait_stream(compute)
            phasor.record_stream(self.download)
            landed = torch.empty(phasor.shape, dtype=phasor.dtype, pin_memory=True)
            with torch.cuda.stream(self.download):
                landed.copy_(phasor, non_blocking=True)
                done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                done.record()

        def wait() -> tuple[NDArray[np.complex64], float]:
            done.synchronize()
            return landed.numpy(), busy.seconds

        return wait


class InFlight:
    """The batches of one volume that were submitted and not yet returned; they return in the order of submission.

    Parameters
    ----------
    submitter
        Submitter of the generator.
    take
        Called with the part of the volume, its phasors and the seconds of the GPU when a batch is done.
    """

    def __init__(self, submitter: Submitter, take: Take) -> None:
        self._submitter, self._take = submitter, take
        self._pending: deque[tuple[slice, Pending]] = deque()

    def send(
        self, part: slice, magnitude: NDArray[np.float32], keys: Sequence[SliceKey], conditions: Conditions
    ) -> None:
        """Submit that part of a volume, then wait until at most `ahead` batches are in flight."""
        self._pending.append((part, self._submitter.send(magnitude[part], keys[part], conditions)))
        self._drain(self._submitter.ahead)

    def drain(self) -> None:
        """Wait for all remaining batches."""
        self._drain(0)

    def _drain(self, left: int) -> None:
        while len(self._pending) > left:
            part, pending = self._pending.popleft()
            self._take(part, *pending())


def make_submitter(generator: PhaseGenerator) -> Submitter:
    """Return the submitter for this generator's device."""
    device = torch.device(generator.device)
    return CudaSubmitter(generator, device) if device.type == "cuda" else InlineSubmitter(generator)


@cache
def _copy_streams(device: torch.device) -> tuple[torch.cuda.Stream, torch.cuda.Stream]:
    """Return the process's streams, one per direction: memory of one stream is not reused by another."""
    upload, download = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
    return upload, download
