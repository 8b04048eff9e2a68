"""Cost per slice of the C library's memory settings: Dask's defaults for its workers against those of rephase.

`python -m tests.benchmarks.allocator`
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from rephase.bench.measure import BenchResult, Table, Value, rounded
from rephase.bench.phantom import make_magnitude
from rephase.cluster.local import WORKER_ENVIRON, dask_environ
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.registry import make_generator
from rephase.diffusion.shipped import default_checkpoint
from rephase.errors import RequestError
from rephase.pipeline.environment import machine_facts
from tests.benchmarks.command_line import run_benchmark

_MALLOC = "MALLOC_"


def bench_allocator(size: int = 256, slices: int = 4, rounds: int = 2, checkpoint: Path | None = None) -> BenchResult:
    """Sample slices on one CPU thread, in processes with each setting in turn.

    Parameters
    ----------
    size, slices
        Height and width; slices that each process samples after one that warms it up.
    rounds
        Processes of each setting; the one with the least time counts.
    checkpoint
        Weights; the shipped ones where None.

    Raises
    ------
    RequestError
        If there are no weights.
    """
    path = checkpoint or default_checkpoint()
    if path is None:
        raise RequestError(
            "no weights ship with this installation; expected some to sample with; name them with --checkpoint"
        )
    machine = machine_facts()
    settings = {"Dask's default": dask_environ(), "ours": WORKER_ENVIRON}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in settings}
    for _ in range(rounds):
        for name, environ in settings.items():
            found[name].append(_measure(environ, path, size, slices))
    rows: list[tuple[Value, ...]] = [
        (name, _say(settings[name]), *map(rounded, min(times, key=sum))) for name, times in found.items()
    ]
    table = Table("CPU time per slice", ("setting", "environment", "user (s)", "system (s)"), rows)
    return BenchResult("allocator", machine, {"size": size, "slices": slices, "rounds": rounds}, [table], _NOTES)


_NOTES = ["every process computes with one thread; CPU time hardly depends on the load of the machine"]


def _say(environ: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in environ.items() if name.startswith(_MALLOC))


def _measure(environ: Mapping[str, str], checkpoint: Path, size: int, slices: int) -> tuple[float, float]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(_MALLOC)}
    code = "import sys, tests.benchmarks.allocator as one; one.print_sample(*sys.argv[1:])"
    words = [sys.executable, "-c", code, str(checkpoint), str(size), str(slices)]
    done = subprocess.run(words, env={**plain, **environ}, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a process that samples ended with {done.returncode}: {done.stderr.decode()[-1000:]}")
    user, system = json.loads(done.stdout)
    return user, system


def sample_here(checkpoint: Path, size: int, slices: int) -> tuple[float, float]:
    """Return user and system seconds per slice in this process."""
    torch.set_num_threads(1)
    generator = make_generator("diffusion", checkpoint, None, "cpu")
    magnitude = torch.from_numpy(make_magnitude(slices + 1, size))
    before = resource.getrusage(resource.RUSAGE_SELF)
    for number in range(slices + 1):
        if number == 1:  # the first one warms up
            before = resource.getrusage(resource.RUSAGE_SELF)
        generator.sample_phase(magnitude[number : number + 1], [SliceKey(0, "bench", 0, number)], Conditions())
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime - before.ru_utime) / slices, (after.ru_stime - before.ru_stime) / slices


def print_sample(checkpoint: str, size: str, slices: str) -> None:
    """Print what `sample_here` returns, as JSON."""
    sys.stdout.write(json.dumps(sample_here(Path(checkpoint), int(size), int(slices))))


if __name__ == "__main__":
    sys.exit(run_benchmark(bench_allocator))
