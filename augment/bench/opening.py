"""Cost of opening a large corpus, and memory of loader workers; each measured in new processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from torch.utils.data import DataLoader, Dataset, get_worker_info

from rephase.bench.arrays import write_large_index
from rephase.bench.measure import Table, Value, rounded
from rephase.data.kspace_slices import KSpaceSlices

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


def opening_table(root: Path, num_volumes: int) -> Table:
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


def memory_table(root: Path, num_workers: int, epochs: int = 3) -> Table:
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
