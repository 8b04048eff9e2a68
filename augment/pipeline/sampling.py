"""The phase of one volume: sampled batch by batch under the sampling lock, or measured."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.generators import Conditions, PhaseGenerator, SliceKey, WholeVolume
from rephase.diffusion.seen import Facts
from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.pipeline.gpu import InFlight, explain_out_of_memory, make_submitter
from rephase.pipeline.kspace import real_phasor
from rephase.pipeline.pixel_audit import acquired_share
from rephase.pipeline.recipe import ALGORITHM
from rephase.pipeline.task import Task
from rephase.pipeline.worker import WorkerContext
from rephase.readers.volume import Volume
from rephase.sequences import assume_sequence, dephasing_time_ms


def sample_phasor(
    task: Task,
    volume: Volume,
    magnitude: NDArray[np.float32],
    worker: WorkerContext,
    seconds: dict[str, float],
    acquired: tuple[float, float] | None,
) -> NDArray[np.complex64]:
    """Return the phasors of a volume: sampled under the lock, or measured; complex64 `(slice height width)`.

    The lock is released once the last batch is submitted, so that a GPU receives the next volume before it is done.

    Raises
    ------
    VolumeError
        If the measured phase is missing, or the GPU has too little memory.
    """
    conditions = conditions_of(volume, worker.recipe.algorithm, magnitude, acquired)
    generator = worker.generator_for(conditions.sequence)
    if generator is None:
        return _own_phasor(task, volume, seconds)
    exam = exam_of(task.row, worker.recipe.share_field_by)
    seed, volume_id = worker.recipe.seed, task.row.volume_id
    keys = [SliceKey(seed, volume_id, task.replica, index, exam) for index in range(len(magnitude))]
    phasor = np.empty(magnitude.shape, dtype=np.complex64)

    def take(part: slice, sampled: NDArray[np.complex64], device_s: float) -> None:
        phasor[part] = sampled
        worker.counters.count_sampled(len(sampled), device_s)

    in_flight = InFlight(make_submitter(generator), take)
    parts = batches(len(magnitude), worker.batch_size, worker.recipe.tile.slices)
    with _sampling_lock(worker, seconds):
        with timed(seconds, "sample"):
            failed = _send(in_flight, parts, magnitude, keys, conditions)
        if failed is not None:
            raise _out_of_memory(task, generator, magnitude[failed], keys[failed], conditions)
    with timed(seconds, "sample"):
        in_flight.drain()
    return phasor


CONTIGUOUS_MM = 12.0
"""Largest distance of slices through which a phase is coherent."""
_VERTICAL_T = 0.4
"""Magnets below this field strength are permanent, with a vertical field."""


def conditions_of(
    volume: Volume,
    algorithm: int = ALGORITHM,
    magnitude: NDArray[np.float32] | None = None,
    acquired: tuple[float, float] | Literal["measure"] | None = "measure",
) -> Conditions:
    """Return the conditions of a volume for a generator; infer an unknown family from contrast and echo time.

    Parameters
    ----------
    volume
        The volume.
    algorithm
        Version of the recipe's algorithm.
    magnitude
        Its magnitude as the generator will get it; if given, phase is coherent through contiguous slices,
        and its noise has the band of the acquired k-space.
    acquired
        Share of k-space along height and width that was acquired, if it is known already; None: all.
    """
    slice_mm, *in_plane = volume.spacing_mm
    spacing_mm = (in_plane[0], in_plane[1])
    if algorithm < 8:  # earlier versions treated every echo as a gradient echo
        return Conditions(spacing_mm, volume.te_ms or None, volume.field_t, slice_mm, gaussian_noise=True)
    sequence = volume.sequence or assume_sequence(volume.contrast, volume.te_ms)
    dephasing_ms = dephasing_time_ms(sequence, volume.te_ms)
    whole = None
    if magnitude is None or algorithm < 12:
        acquired = None
    elif acquired == "measure":
        acquired = acquired_share(magnitude)
    if magnitude is not None and algorithm >= 10 and len(magnitude) > 1 and slice_mm <= CONTIGUOUS_MM:
        whole = WholeVolume(torch.from_numpy(magnitude), volume.spacing_mm, main_field_of(volume))
    return Conditions(spacing_mm, dephasing_ms, volume.field_t, slice_mm, sequence, whole, algorithm < 11, acquired)


def exam_of(row: ManifestRow, column: str | None) -> str | None:
    """Return the exam of a row: its value in a manifest column; None if it has none, so that it shares nothing."""
    if column is None:
        return None
    return dict(row.extra).get(column) or getattr(row, column, None) or None


def facts_of(volume: Volume, conditions: Conditions, anatomy: str | None) -> Facts:
    """Return the facts of a volume by which it is compared with what weights have seen."""
    slice_mm, height_mm, width_mm = volume.spacing_mm
    in_plane = math.sqrt(height_mm * width_mm)
    return Facts(conditions.sequence, anatomy, volume.field_t, conditions.dephasing_ms, in_plane, slice_mm)


def main_field_of(volume: Volume) -> tuple[float, float, float] | None:
    """Return the direction of the main field along (slice, height, width), a unit vector; None if unknown.

    It is along the body of a patient who lies in a bore, and from front to back in the vertical field of a magnet below
    0.4 T.
    """
    if "orientation" in volume.acquisition:  # assumed by the reader
        return None
    axis = 1 if volume.field_t is not None and volume.field_t < _VERTICAL_T else 2
    steps = np.array(volume.affine)[:3, :3]
    components = steps[axis] / np.linalg.norm(steps, axis=0)
    slice_, height, width = (components / np.linalg.norm(components)).tolist()
    return slice_, height, width


def batches(num_slices: int, batch_size: int | None, tile_slices: int) -> Iterator[slice]:
    """Yield the parts of a volume for each call of the generator: complete tiles, so `batch_size` changes no result.

    `batch_size` is rounded up to complete tiles; None uses a default that limits the memory of a call.
    """
    requested = batch_size or max(16, tile_slices)
    step = -(-requested // tile_slices) * tile_slices
    for start in range(0, num_slices, step):
        yield slice(start, min(start + step, num_slices))


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time of a block to the time of its stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def _own_phasor(task: Task, volume: Volume, seconds: dict[str, float]) -> NDArray[np.complex64]:
    if volume.phase is None:
        raise VolumeError(
            "mismatch",
            f"{task.where}: its row has no phase; --phase real expects a phase or kspace column; add one or "
            "choose another --phase",
        )
    with timed(seconds, "sample"):
        return real_phasor(volume.phase)


@contextmanager
def _sampling_lock(worker: WorkerContext, seconds: dict[str, float]) -> Iterator[None]:
    """Acquire the sampling lock for a `with` block; waiting does not count towards the time limit."""
    with timed(seconds, "waiting"), worker.counters.waiting():
        if not worker.sampling.acquire(blocking=False):
            with worker.watchdog.paused():
                worker.sampling.acquire()
    try:
        yield
    finally:
        worker.sampling.release()


def _send(
    in_flight: InFlight,
    parts: Iterator[slice],
    magnitude: NDArray[np.float32],
    keys: Sequence[SliceKey],
    conditions: Conditions,
) -> slice | None:
    """Submit every part; return the one that ran out of memory, None if none did.

    The error must be released before a smaller tile is tried: its traceback keeps the tensors of the failed call alive.
    """
    for part in parts:
        try:
            in_flight.send(part, magnitude, keys, conditions)
        except torch.OutOfMemoryError:
            return part
    return None


def _out_of_memory(
    task: Task,
    generator: PhaseGenerator,
    magnitude: NDArray[np.float32],
    keys: Sequence[SliceKey],
    conditions: Conditions,
) -> VolumeError:
    slices = torch.from_numpy(magnitude.copy())
    return explain_out_of_memory(
        task.where, generator, lambda count: generator.sample_phase(slices[:count], keys[:count], conditions)
    )
