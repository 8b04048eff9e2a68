"""How fast phase is sampled: every generator, at several sizes, the learned one with several numbers of evaluations."""

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
"""Network evaluations a slice in the PhaseGen paper (arXiv 2504.07560), which reports about 10 s a slice on its GPU."""

GPU_TILES = 4
"""Tiles of the volume that goes to a GPU as a build sends it."""

_COLUMNS = ("generator", "evaluations", "size", "ms/slice", "slices/s", "time / smooth", "paper's evaluations / ours")
_LANE_COLUMNS = ("generator", "evaluations", "size", "copies", "slices/s", "GPU busy (%)")


def bench_sampler(
    sizes: Sequence[int] = (128, 256),
    steps: Sequence[int] | None = None,
    checkpoint: Path | None = None,
    device: str = "cpu",
    budget_s: float = 1.5,
) -> BenchResult:
    """Measure every generator that is available.

    Parameters
    ----------
    sizes
        Height and width of the slices.
    steps
        Network evaluations a slice of the learned generator; the number that the weights are made for where None.
    checkpoint
        Weights; the shipped ones where None. Without any, only the baselines are measured.
    device
        "cpu" or "cuda".
    budget_s
        Seconds for each line of the table.

    Raises
    ------
    rephase.diffusion.checkpoint.CheckpointError
        The checkpoint cannot be used.
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
    settings = {"slices a call": num_slices, "threads": 1, "seconds a line": budget_s}
    tables, notes = [Table("Sampling phase", _COLUMNS, rows)], _notes(path)
    if device == "cuda" and path is not None:
        tables.append(_lane_table(generators[len(baselines) :], sizes, budget_s))
        notes.append(
            f"GPU busy: time between the first and the last kernel of a batch, by CUDA events, over the wall time of a "
            f"volume of {GPU_TILES} batches; kernels that wait for the program between the two count as busy"
        )
    return BenchResult("sampler", machine, settings, tables, notes)


def measure_lanes(
    lanes: Sequence[Submitter], magnitude: NDArray[np.float32], tile: int, budget_s: float
) -> list[tuple[float, float]]:
    """Send a volume along each submitter, in turn, tile by tile as a build does.

    Parameters
    ----------
    lanes
        The ways to the sampler and back.
    magnitude
        `(slice height width)`.
    tile
        Slices of a batch.
    budget_s
        Seconds for each submitter in all.

    Returns
    -------
    figures
        Of each submitter: slices per second of wall time, and the part of it in which a GPU was busy, 0 without one;
        those of the run of median length.
    """
    runs: list[list[tuple[float, float]]] = [[] for _ in lanes]

    def run(number: int) -> None:
        start = time.perf_counter()
        busy_s = _send(lanes[number], magnitude, tile)
        runs[number].append((time.perf_counter() - start, busy_s))

    with one_thread():
        seconds_per_call([partial(run, number) for number in range(len(lanes))], budget_s)
    middle = [sorted(timed[1:])[len(timed[1:]) // 2] for timed in runs]  # the first one warms up
    return [(len(magnitude) / wall_s, busy_s / wall_s) for wall_s, busy_s in middle]


def _send(submitter: Submitter, magnitude: NDArray[np.float32], tile: int) -> float:
    """Seconds of a GPU that a volume takes."""
    seconds: list[float] = []
    in_flight = InFlight(submitter, lambda part, phasor, device_s: seconds.append(device_s))
    keys = [SliceKey(0, "bench", 0, index) for index in range(len(magnitude))]
    for part in batches(len(magnitude), tile, tile):
        in_flight.send(part, magnitude, keys, Conditions())
    in_flight.drain()
    return sum(seconds)


def _lane_table(generators: Sequence[PhaseGenerator], sizes: Sequence[int], budget_s: float) -> Table:
    """The learned generator on a GPU: every batch waited for, and the next ones copied meanwhile."""
    rows: list[tuple[Value, ...]] = []
    for size in sizes:
        magnitude = make_magnitude(GPU_TILES * GPU_TILE, size)
        for generator in generators:
            ways: dict[str, Submitter] = {
                "one after another": InlineSubmitter(generator),
                "beside the work": make_submitter(generator),
            }
            figures = measure_lanes(list(ways.values()), magnitude, GPU_TILE, budget_s)
            rows += [
                (generator.name, generator.nfe, size, name, rounded(speed), rounded(100 * busy))
                for name, (speed, busy) in zip(ways, figures, strict=True)
            ]
    return Table("A volume as a build sends it to the GPU", _LANE_COLUMNS, rows)


def _measure(generators: Sequence[PhaseGenerator], size: int, num_slices: int, budget_s: float) -> list[float]:
    """Seconds a slice. The spacing is not told, so the network works on the slice's own matrix."""
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
        return ["no weights ship with this installation and --checkpoint names none: the learned generator is left out"]
    return [
        f"the PhaseGen paper takes {PAPER_EVALUATIONS:,} network evaluations a slice; the last column compares counts "
        "of evaluations only. Another network on another machine: times of the paper are not compared",
    ]
