"""Memory of the client per volume of a corpus, measured without building the volumes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import psutil

from rephase.bench.measure import Table, Value, rounded
from rephase.bench.phantom import open_smooth_worker, write_long_manifest, write_volumes
from rephase.corpus.index import INDEX_KEY
from rephase.corpus.index_writer import IndexBuilder
from rephase.corpus.storage.local import LocalStorage
from rephase.corpus.store import CorpusStore
from rephase.manifests.parse import read_manifest
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.task import Task, TaskList, task_list

_COLUMNS = ("volumes", "manifest (MB)", "rows (MB)", "writing the index (MB)", "CPU (s)", "index (MB)")


def rows_table(folder: Path, counts: tuple[int, ...]) -> Table:
    """Measure the growth of memory by step, in a new process for each number of volumes."""
    rows: list[tuple[Value, ...]] = []
    for count in counts:
        words = [sys.executable, "-m", "tests.benchmarks.rows", str(folder), str(count)]
        done = subprocess.run(words, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"a process ended with {done.returncode}: {done.stderr.decode()[-1000:]}")
        rows.append((count, *map(rounded, json.loads(done.stdout))))
    return Table("Growth of the client by the volumes of a corpus", _COLUMNS, rows)


class _ManyNames(LocalStorage):
    """A storage in which every volume appears as committed."""

    def __init__(self, root: str, work: TaskList) -> None:
        super().__init__(root)
        self._work = work

    def children_with(self, prefix: str, name: str) -> list[str]:
        return sorted(self._work.names())


def hold_rows(folder: Path, count: int) -> tuple[float, float, float, float, float]:
    """Process the receipts of a number of volumes as a client does.

    Returns
    -------
    manifest, rows, writing, seconds, index
        MB that this process grew by with the manifest, with the rows, and at most while it wrote the index; CPU time;
        MB of the index.
    """
    root = str(folder / f"rows-{count}.zarr")
    place = folder / f"rows-{count}"
    worker = open_smooth_worker(Path(root))
    outcome = build_volume(Task(read_manifest(write_volumes(place, 1, 1, 16))[0]), worker)
    if outcome.receipt is None:
        raise RuntimeError(f"{outcome.name}: {outcome.status}: {outcome.message}")
    write_long_manifest(place / "long.csv", ((f"vol-{i:07d}", f"sub/{i:07d}.npy", 1, 16, 16) for i in range(count)))
    start, memory = time.process_time(), [_memory()]
    work = task_list(read_manifest(place / "long.csv"), 1, retry_failed=False)
    memory.append(_memory())
    storage = _ManyNames(root, work)
    builder = IndexBuilder(CorpusStore(storage, worker.store.attributes))
    for name in work.names():
        builder.add(name, outcome.receipt)
    memory.append(_memory())
    builder.write(work.order())
    memory.append(max(_peak(), memory[-1]))
    grown = [(after - before) / 1e6 for before, after in pairwise(memory)]
    index = (Path(root) / INDEX_KEY).stat().st_size / 1e6
    return grown[0], grown[1], grown[2], time.process_time() - start, index


def _memory() -> int:
    return int(psutil.Process().memory_info().rss)


def _peak() -> int:
    """Return the peak memory of this process; `getrusage` may report that of its parent."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(hold_rows(Path(sys.argv[1]), int(sys.argv[2]))))
