"""How fast phase is sampled: every generator, at several sizes, the learned one with several numbers of evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from augment.bench.measure import BenchResult, Table, Value, describe_machine, one_thread, rounded, seconds_per_call
from augment.bench.phantom import make_magnitude
from diffusion.baselines import BASELINES
from diffusion.checkpoint import default_checkpoint
from diffusion.generators import Conditions, PhaseGenerator, SliceKey
from diffusion.learned import GPU_TILE
from diffusion.select import make_generator

PAPER_EVALUATIONS = 1000
"""Network evaluations a slice in the PhaseGen paper (arXiv 2504.07560), which reports about 10 s a slice on its GPU."""

_COLUMNS = ("generator", "evaluations", "size", "ms/slice", "slices/s", "time / smooth", "paper's evaluations / ours")


def bench_sampler(
    sizes: Sequence[int] = (128, 256),
    steps: Sequence[int] = (1, 2, 4, 8),
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
        Network evaluations a slice of the learned generator.
    checkpoint
        Weights; the shipped ones where None. Without any, only the baselines are measured.
    device
        "cpu" or "cuda".
    budget_s
        Seconds for each line of the table.

    Raises
    ------
    diffusion.checkpoint.CheckpointError
        The checkpoint cannot be used.
    """
    machine = describe_machine(device)
    path = checkpoint or default_checkpoint()
    generators: list[PhaseGenerator] = [make_generator(name) for name in BASELINES]
    if path is not None:
        generators += [make_generator("diffusion", path, count, device) for count in steps]
    num_slices = GPU_TILE if device == "cuda" else 1
    rows: list[tuple[Value, ...]] = []
    for size in sizes:
        found = _measure(generators, size, num_slices, budget_s)
        smooth = next(t for generator, t in zip(generators, found, strict=True) if generator.name == "smooth")
        rows += [_row(generator, size, t, smooth) for generator, t in zip(generators, found, strict=True)]
    settings = {"slices a call": num_slices, "threads": 1, "seconds a line": budget_s}
    return BenchResult("sampler", machine, settings, [Table("Sampling phase", _COLUMNS, rows)], _notes(path))


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
