"""Speed of reading slices for training: KSpaceSlices and KSpaceStream, plain zarr, fastMRI's data set."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm import tqdm

from rephase.bench.measure import BenchResult, Table, Value, rounded
from rephase.bench.phantom import drop_from_cache, write_arrays, write_large_index
from rephase.bench.rivals import PlainZarrSlices, copy_to_hdf5, fastmri_slices
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.stream import KSpaceStream
from rephase.pipeline.environment import machine_facts

_PLAIN, _GZIP = "fastMRI, uncompressed", "fastMRI, gzip"

# In a new process, whose peak memory is not that of earlier work. VmHWM: getrusage may report the parent's peak.
_OPEN = """
import re, sys, time
import rephase.data.kspace_slices
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
before = peak()
start, busy = time.perf_counter(), time.process_time()
slices = rephase.data.kspace_slices.KSpaceSlices(sys.argv[1])
taken = time.perf_counter() - start, time.process_time() - busy
print(*taken, peak() - before, len(slices))
"""


def bench_loader(
    num_volumes: int = 2,
    num_slices: int = 12,
    size: int = 320,
    workers: Sequence[int] = (0, 1, 2),
    epochs: int = 3,
    folder: Path | None = None,
    coils: Sequence[int] = (0, 8),
    index_volumes: int = 100_000,
) -> BenchResult:
    """Measure reading every slice of generated corpora in random order, alternating between readers for stable ratios.

    Parameters
    ----------
    num_volumes, num_slices, size
        Size of the corpora; `size` is height and width.
    workers
        Worker processes of the `DataLoader`, started by spawn.
    epochs
        Number measured, after one for warm-up; the median is reported. First with the page cache dropped, then without.
    folder
        Parent of the temporary folder, whose disk is part of the measurement; the system's default if None.
    coils
        One corpus for each number of coils; 0 for a single coil without an axis.
    index_volumes
        Volumes of the simulated index that is opened.
    """
    machine = machine_facts()
    rows: list[tuple[Value, ...]] = []
    sizes: list[tuple[Value, ...]] = []
    which = ""
    with tempfile.TemporaryDirectory(prefix="rephase-bench-", dir=folder) as temporary:
        with tqdm(total=len(coils) * len(workers), desc="loader", unit="case", disable=None) as bar:
            for count in coils:
                case = _Case(Path(temporary), num_volumes, num_slices, size, count)
                sizes += case.stored()
                which = case.which
                for number in workers:
                    rows += case.measure(number, epochs)
                    bar.update()
        memory = _memory_table(Path(temporary) / f"c{coils[0]}.zarr", max(1, *workers))
        binding = _binding_table([Path(temporary) / f"c{count}.zarr" for count in coils], epochs)
        opening = _opening_table(Path(temporary) / "large.zarr", index_volumes)
    columns = ("coils", "workers", "page cache", "read through", "slices/s", "MB/s", f"times {_PLAIN}", "CPU ms/slice")
    tables = [
        Table("Reading slices in random order", columns, rows),
        Table("On disk", ("coils", "stored as", "MB", "times HDF5"), sizes),
        memory,
        binding,
        opening,
    ]
    settings = {"volumes": num_volumes, "slices per volume": num_slices, "size": size, "epochs": epochs}
    notes = [
        f"fastMRI: {which}; KSpaceSlices and KSpaceStream also verify checksums",
        "cold: the files were dropped from the page cache before each epoch (posix_fadvise); the disk may cache them",
        "CPU ms/slice: of this process, without workers; hardly depends on the load of the machine",
    ]
    return BenchResult("loader", machine, settings, tables, notes)


class _Case:
    """One corpus, its copies, and all readers of them."""

    def __init__(self, folder: Path, num_volumes: int, num_slices: int, size: int, coils: int) -> None:
        root = folder / f"c{coils}.zarr"
        write_arrays(root, num_volumes, num_slices, size, coils)
        ours = KSpaceSlices(root)
        names, target = ours.volumes, "reconstruction_rss" if coils else "reconstruction_esc"
        self.coils = coils
        self.folders = {"zarr": root / "volumes", "HDF5": folder / f"h{coils}", "HDF5, gzip": folder / f"g{coils}"}
        copy_to_hdf5(root, self.folders["HDF5"], names)
        copy_to_hdf5(root, self.folders["HDF5, gzip"], names, "gzip")
        plain, self.which = fastmri_slices(self.folders["HDF5"], names, num_slices, target)
        self.readers: dict[str, Dataset[Any]] = {
            "KSpaceSlices": ours,
            "KSpaceStream": KSpaceStream(ours),
            "plain zarr": PlainZarrSlices(root, names, num_slices, target),
            _PLAIN: plain,
            _GZIP: fastmri_slices(self.folders["HDF5, gzip"], names, num_slices, target)[0],
        }
        self.order = np.random.default_rng(0).permutation(len(ours)).tolist()
        self.slice_bytes = sum(part.nbytes for part in (ours[0][0], ours[0][2]))

    def stored(self) -> list[tuple[Value, ...]]:
        """Return the rows of the sizes on disk."""
        found = {name: sum(path.stat().st_size for path in self._files(name)) for name in self.folders}
        return [(self.coils, name, rounded(size / 1e6), rounded(size / found["HDF5"])) for name, size in found.items()]

    def measure(self, num_workers: int, epochs: int) -> list[tuple[Value, ...]]:
        """Measure all readers with one number of workers, cold and warm; return the rows."""
        loaders = {name: self._loader(dataset, num_workers) for name, dataset in self.readers.items()}
        for loader in loaders.values():
            _read_all(loader)
        rows: list[tuple[Value, ...]] = []
        for cold in (True, False):
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in loaders}
            for _ in range(epochs):
                for name, loader in loaders.items():
                    if cold:
                        drop_from_cache(path for place in self.folders for path in self._files(place))
                    taken[name].append(_read_all(loader))
            rows += self._rows(num_workers, cold, taken)
        return rows

    def _rows(
        self, num_workers: int, cold: bool, taken: dict[str, list[tuple[float, float]]]
    ) -> list[tuple[Value, ...]]:
        middle = {name: sorted(wall for wall, _ in times)[len(times) // 2] for name, times in taken.items()}
        cpu = {name: sorted(busy for _, busy in times)[len(times) // 2] for name, times in taken.items()}
        count = len(self.order)
        return [
            (
                self.coils, num_workers, "cold" if cold else "warm", name, rounded(count / seconds),
                rounded(count / seconds * self.slice_bytes / 1e6), rounded(middle[_PLAIN] / seconds),
                None if num_workers else rounded(cpu[name] / count * 1000),
            )
            for name, seconds in middle.items()
        ]  # fmt: skip

    def _loader(self, dataset: Dataset[Any], num_workers: int) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=None if isinstance(dataset, KSpaceStream) else list(self.order),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            multiprocessing_context="spawn" if num_workers else None,
        )

    def _files(self, place: str) -> list[Path]:
        return [path for path in self.folders[place].rglob("*") if path.is_file()]


def _read_all(loader: DataLoader[Any]) -> tuple[float, float]:
    """Return wall and CPU seconds of one epoch of this process; the workers have started."""
    start, busy = time.perf_counter(), time.process_time()
    for _ in loader:
        pass
    return time.perf_counter() - start, time.process_time() - busy


def _binding_table(roots: Sequence[Path], epochs: int) -> Table:
    """Measure a first epoch in random order in this process, and the part of it that reads and compares receipts."""
    rows: list[tuple[Value, ...]] = []
    for root in roots:
        parts = []
        for _ in range(max(epochs, 3)):
            slices = KSpaceSlices(root)
            order = np.random.default_rng(0).permutation(len(slices)).tolist()
            start = time.perf_counter()
            for volume in range(len(slices.volumes)):
                slices.bind(volume)
            bound = time.perf_counter()
            for number in order:
                slices[number]
            parts.append((bound - start, time.perf_counter() - start))
        reading, epoch = sorted(parts, key=lambda pair: pair[0] / pair[1])[len(parts) // 2]
        rows.append(
            (root.name, len(slices.volumes), len(slices), *map(rounded, (reading, epoch, 100 * reading / epoch)))
        )
    columns = ("corpus", "volumes", "slices", "binding (s)", "first epoch (s)", "binding (% of the epoch)")
    return Table("Binding to the receipts", columns, rows)


def _opening_table(root: Path, num_volumes: int) -> Table:
    """Measure time and memory to open a simulated index, whose arrays do not exist."""
    write_large_index(root, num_volumes)
    done = subprocess.run([sys.executable, "-c", _OPEN, str(root)], capture_output=True, text=True, check=True)  # noqa: S603
    seconds, busy, megabytes, num_slices = map(float, done.stdout.split())
    index = (root / "index/zarr.json").stat().st_size / 1e6
    row: tuple[Value, ...] = (
        num_volumes, int(num_slices), rounded(index), rounded(seconds), rounded(busy), rounded(megabytes)
    )  # fmt: skip
    columns = ("volumes", "slices", "index (MB)", "open (s)", "CPU (s)", "peak memory (MiB)")
    return Table("Opening a large corpus", columns, [row])


class _Watched(Dataset[Any]):
    """Slices replaced by the private memory of the worker that read them."""

    def __init__(self, slices: KSpaceSlices) -> None:
        self.slices = slices

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> tuple[int, float, float]:
        """Read and drop one slice; return the worker, its MiB and the time."""
        self.slices[index]
        worker = get_worker_info()
        used = float(psutil.Process().memory_full_info().uss) / 2**20
        return 0 if worker is None else worker.id, used, time.time()


class _Ready:
    """Worker initialiser that records when the worker has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, number: int) -> None:
        (self.folder / f"{number}.ready").write_text(repr(time.time()))


def _memory_table(root: Path, num_workers: int, epochs: int = 3) -> Table:
    """Measure the memory of each worker after each epoch, and the time to the first slice after their start."""
    slices = KSpaceSlices(root)
    loader = DataLoader(
        _Watched(slices),
        batch_size=None,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=True,
        multiprocessing_context="spawn",
        worker_init_fn=_Ready(root.parent),
    )
    rows: list[tuple[Value, ...]] = []
    for epoch in range(epochs):
        memory: dict[int, float] = {}
        first: float | None = None
        for worker, used, when in loader:
            memory[worker] = used
            if not epoch and first is None:
                ready = min(float(path.read_text()) for path in root.parent.glob("*.ready"))
                first = rounded(when - ready)
        rows += [(epoch + 1, worker, rounded(used), first) for worker, used in sorted(memory.items())]
    columns = ("epoch", "worker", "own memory (MiB)", "first slice after the start of the workers (s)")
    return Table("Memory of a worker", columns, rows)
