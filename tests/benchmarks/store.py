"""Cost of checking every object: commits with and without checksum and read-back, in turn.

`python -m tests.benchmarks.store`
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from rephase.bench.measure import BenchResult, Table, Value, rounded
from rephase.bench.phantom import write_volumes
from rephase.builder.options import BuildOptions
from rephase.builder.preflight import open_corpus
from rephase.builder.resolve import resolve_build
from rephase.corpus.layout import ArrayLayout
from rephase.corpus.storage.local import LocalStorage
from rephase.corpus.store import CorpusStore
from rephase.diffusion.devices import one_thread
from rephase.manifests.parse import read_manifest
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.environment import environment_class, machine_facts
from rephase.pipeline.task import Task
from rephase.pipeline.worker import WorkerContext, open_worker
from tests.benchmarks.command_line import run_benchmark

_ON, _OFF = "with checks", "without"


class _Unchecked(CorpusStore):
    """A store that writes and flushes without checksum, decoding or read-back."""

    def _write(
        self, key: str, data: bytes, layout: ArrayLayout | None = None, values: NDArray[Any] | None = None
    ) -> str:
        self.storage.put(key, data)
        return "0" * 64


class _TimedStorage(LocalStorage):
    """A storage that sums the time of writing and flushing."""

    seconds = 0.0

    def put(self, key: str, data: bytes) -> None:
        start = time.perf_counter()
        super().put(key, data)
        self.seconds += time.perf_counter() - start


def bench_store(
    num_slices: int = 32,
    size: int = 256,
    rounds: int = 7,
    model_slices: int = 4,
    model_rounds: int = 3,
    folder: Path | None = None,
) -> BenchResult:
    """Commit a generated volume repeatedly, with and without the checks in turn; then build with the model likewise.

    Parameters
    ----------
    num_slices, size
        Of the volume; `size` is height and width.
    rounds
        Commits of each kind.
    model_slices, model_rounds
        Slices of the volume that is built with the model, and number of builds; no build for 0 slices.
    folder
        Parent of the temporary folder, whose disk is part of the measurement; the system's default if None.
    """
    machine = machine_facts()
    with tempfile.TemporaryDirectory(prefix="rephase-bench-", dir=folder) as temporary, one_thread():
        place = Path(temporary)
        smooth = _Builds(place / "smooth", BuildOptions(phase="smooth"), num_slices, size)
        tables = [_commit_table(smooth, rounds, num_slices)]
        modelled = resolve_build("", BuildOptions()).uses_model and model_slices > 0
        if modelled:
            learned = _Builds(place / "model", BuildOptions(), model_slices, size)
            tables.append(_build_table(learned, model_rounds, model_slices))
    settings = {"slices": num_slices, "size": size, "rounds": rounds, "slices with the model": model_slices}
    notes = [
        "checks: SHA-256 of every object, every chunk decoded and compared, every object read back from the disk",
        "writing: compressing, writing and flushing; medians, with and without in turn",
    ]
    if not modelled:
        notes.append("no build with the model: no weights are installed, or none was requested")
    return BenchResult("store", machine, settings, tables, notes)


class _Builds:
    """Repeated builds of one volume in this process."""

    def __init__(self, folder: Path, options: BuildOptions, num_slices: int, size: int) -> None:
        self._task = Task(next(iter(read_manifest(write_volumes(folder, 1, num_slices, size)))))
        root = str(folder / "corpus.zarr")
        build = resolve_build(root, options)
        recipe = build.recipe()
        store = open_corpus(root, recipe, overwrite=False)
        self._worker = open_worker(root, recipe, environment_class("cpu"), checkpoint=build.checkpoint)
        self.storage = _TimedStorage(root)
        attributes = store.attributes
        self._stores = {_ON: CorpusStore(self.storage, attributes), _OFF: _Unchecked(self.storage, attributes)}

    def build(self, kind: str) -> tuple[float, float, float]:
        """Build the volume; return seconds in all, of the commit, and of writing and flushing."""
        worker: WorkerContext = replace(self._worker, store=self._stores[kind])
        worker.store.discard(self._task.name)
        self.storage.seconds = 0.0
        start = time.perf_counter()
        outcome = build_volume(self._task, worker)
        seconds = time.perf_counter() - start
        if outcome.status != "built":
            raise RuntimeError(f"{outcome.name}: {outcome.status}: {outcome.message}")
        return seconds, outcome.seconds["commit"], self.storage.seconds

    def medians(self, rounds: int) -> dict[str, tuple[float, float, float]]:
        """Build with and without checks in turn, after one of each for warm-up; return the median seconds."""
        found: dict[str, list[tuple[float, float, float]]] = {_ON: [], _OFF: []}
        with _bar(2 * rounds + 2) as step:
            for number in range(rounds + 1):
                # the first of two finds the disk as the last pair left it, so they change places
                for kind in (_ON, _OFF) if number % 2 else (_OFF, _ON):
                    taken = self.build(kind)
                    if number:
                        found[kind].append(taken)
                    step()
        return {kind: tuple(map(median, zip(*times, strict=True))) for kind, times in found.items()}


@contextmanager
def _bar(total: int) -> Iterator[Callable[[], object]]:
    with tqdm(desc="committing", total=total, unit="volume", delay=1, disable=None) as bar:
        yield bar.update


def _commit_table(builds: _Builds, rounds: int, num_slices: int) -> Table:
    taken = builds.medians(rounds)
    (_, checked, _), (_, plain, flushed) = taken[_ON], taken[_OFF]
    columns = ("commit", "ms/slice", "of writing", "of write and flush alone")
    rows: list[tuple[Value, ...]] = [
        (name, rounded(1000 * seconds / num_slices), rounded(seconds / plain), rounded(seconds / flushed))
        for name, seconds in ((_ON, checked), (_OFF, plain), ("the checks", checked - plain), ("flush", flushed))
    ]
    return Table("Committing a volume", columns, rows)


def _build_table(builds: _Builds, rounds: int, num_slices: int) -> Table:
    taken = builds.medians(rounds)
    whole = taken[_ON][0]
    checks = taken[_ON][1] - taken[_OFF][1]
    columns = ("build with the model", "ms/slice", "commit (ms/slice)", "share of the build (%)")
    rows: list[tuple[Value, ...]] = [
        (kind, rounded(1000 * taken[kind][0] / num_slices), rounded(1000 * taken[kind][1] / num_slices), None)
        for kind in (_ON, _OFF)
    ]
    rows.append(("the checks", rounded(1000 * checks / num_slices), None, rounded(100 * checks / whole)))
    return Table("Building with the model", columns, rows)


if __name__ == "__main__":
    sys.exit(run_benchmark(bench_store))
