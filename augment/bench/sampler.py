"""Speed of sampling phase: every generator at several sizes, the learned one with several numbers of evaluations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.bench.measure import BenchResult, Table, Value, rounded, seconds_per_call
from rephase.bench.phantom import make_magnitude
from rephase.diffusion.devices import one_thread
from rephase.diffusion.generators import Conditions, PhaseGenerator, SliceKey
from rephase.diffusion.learned import GPU_TILE
from rephase.diffusion.phases import baseline_phases
from rephase.diffusion.registry import make_generator
from rephase.diffusion.shipped import default_checkpoint
from rephase.pipeline.environment import machine_facts
from rephase.pipeline.gpu import InFlight, InlineSubmitter, Submitter, make_submitter
from rephase.pipeline.sampling import batches

PAPER_EVALUATIONS = 1000
"""Network evaluations per slice in the PhaseGen paper (arXiv 2504.07560), which reports about 10 s per slice."""

GPU_TILES = 4
"""Tiles of the volume that is sent to the GPU as in a build."""

_COLUMNS = ("generator", "evaluations", "size", "ms/slice", "slices/s", "time / smooth", "paper's evaluations / ours")
_GPU_COLUMNS = ("generator", "evaluations", "size", "copies", "slices/s", "GPU busy (%)")


def bench_sampler(
    sizes: Sequence[int] = (128, 256),
    steps: Sequence[int] | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    budget_s: float = 1.5,
) -> BenchResult:
    """Measure every available generator.

    Parameters
    ----------
    sizes
        Height and width of the slices.
    steps
        Network evaluations per slice of the learned generator; those of the checkpoint if None.
    checkpoint
        Weights; the shipped ones if None. Without weights, only the baselines are measured.
    device
        "cpu" or "cuda".
    budget_s
        Seconds per line of the table.

    Raises
    ------
    rephase.diffusion.checkpoint.CheckpointError
        If the checkpoint cannot be used.
    """
    machine = machine_facts(device)
    path = checkpoint or default_checkpoint()
    baselines = [make_generator(name) for name in baseline_phases()]
    generators = list(baselines)
    if path is not None:
        generators += [make_generator("diffusion", path, count, device) for count in steps or (None,)]
    num_slices = GPU_TILE if device == "cuda" else 1
    rows: list[tuple[Value, ...]] = []
    for size in sizes:
        found = _measure(generators, size, num_slices, budget_s)
        smooth = next(t for generator, t in zip(generators, found, strict=True) if generator.name == "smooth")
        rows += [_row(generator, size, t, smooth) for generator, t in zip(generators, found, strict=True)]
    settings = {"slices per call": num_slices, "threads": 1, "seconds per line": budget_s}
    tables, notes = [Table("Sampling phase", _COLUMNS, rows)], _notes(path)
    if device == "cuda" and path is not None:
        tables.append(_gpu_table(generators[len(baselines) :], sizes, budget_s))
        notes.append(
            f"GPU busy: time between the first and the last kernel of a batch, by CUDA events, over the wall time of a "
            f"volume of {GPU_TILES} batches; kernels that wait for the program between the two count as busy"
        )
    return BenchResult("sampler", machine, settings, tables, notes)


def measure_submitters(
    submitters: Sequence[Submitter], magnitude: NDArray[np.float32], tile: int, budget_s: float
) -> list[tuple[float, float]]:
    """Measure the submitters alternately on one volume, tile by tile as in a build.

    Parameters
    ----------
    submitters
        Submitters that pass the tiles to the sampler.
    magnitude
        `(slice height width)`.
    tile
        Slices per batch.
    budget_s
        Seconds per submitter in all.

    Returns
    -------
    figures
        Per submitter: slices per second of wall time, and the fraction of it in which the GPU was busy, 0 without one;
        of the run of median duration.
    """
    runs: list[list[tuple[float, float]]] = [[] for _ in submitters]

    def run(number: int) -> None:
        start = time.perf_counter()
        busy_s = _send(submitters[number], magnitude, tile)
        runs[number].append((time.perf_counter() - start, busy_s))

    with one_thread():
        seconds_per_call([partial(run, number) for number in range(len(submitters))], budget_s)
    middle = [sorted(timed[1:])[len(timed[1:]) // 2] for timed in runs]  # the first one warms up
    return [(len(magnitude) / wall_s, busy_s / wall_s) for wall_s, busy_s in middle]


def _send(submitter: Submitter, magnitude: NDArray[np.float32], tile: int) -> float:
    """Send a volume and return its GPU seconds."""
    seconds: list[float] = []
    in_flight = InFlight(submitter, lambda part, phasor, device_s: seconds.append(device_s))
    keys = [SliceKey(0, "bench", 0, index) for index in range(len(magnitude))]
    for part in batches(len(magnitude), tile, tile):
        in_flight.send(part, magnitude, keys, Conditions())
    in_flight.drain()
    return sum(seconds)


def _gpu_table(generators: Sequence[PhaseGenerator], sizes: Sequence[int], budget_s: float) -> Table:
    """Measure the learned generator on a GPU with and without overlapping copies and computation."""
    rows: list[tuple[Value, ...]] = []
    for size in sizes:
        magnitude = make_magnitude(GPU_TILES * GPU_TILE, size)
        for generator in generators:
            submitters: dict[str, Submitter] = {
                "in turn": InlineSubmitter(generator),
                "overlapped": make_submitter(generator),
            }
            figures = measure_submitters(list(submitters.values()), magnitude, GPU_TILE, budget_s)
            rows += [
                (generator.name, generator.nfe, size, name, rounded(speed), rounded(100 * busy))
                for name, (speed, busy) in zip(submitters, figures, strict=True)
            ]
    return Table("A volume sent to the GPU as in a build", _GPU_COLUMNS, rows)


def _measure(generators: Sequence[PhaseGenerator], size: int, num_slices: int, budget_s: float) -> list[float]:
    """Return seconds per slice. Without a spacing, the network works on the matrix of the slice."""
    magnitude = torch.from_numpy(make_magnitude(num_slices, size))
    keys = [SliceKey(0, "bench", 0, index) for index in range(num_slices)]
    calls = [partial(generator.sample_phase, magnitude, keys, Conditions()) for generator in generators]
    with one_thread():
        return [seconds / num_slices for seconds in seconds_per_call(calls, budget_s)]


def _row(generator: PhaseGenerator, size: int, seconds: float, smooth: float) -> tuple[Value, ...]:
    evaluations = PAPER_EVALUATIONS / generator.nfe if generator.nfe else None
    figures = (rounded(1000 * seconds), rounded(1 / seconds), rounded(seconds / smooth))
    return generator.name, generator.nfe, size, *figures, evaluations


def _notes(path: Path | None) -> list[str]:
    if path is None:
        return ["this installation has no weights and --checkpoint names none: the learned generator was not measured"]
    return [
        f"the PhaseGen paper uses {PAPER_EVALUATIONS:,} network evaluations per slice; the last column compares "
        "counts, not times: the paper has another network and another machine",
    ]
