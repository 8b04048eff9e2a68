"""How fast slices are read for training: our loader, plain zarr, and an uncompressed HDF5 file of the same arrays."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from augment.bench.measure import BenchResult, Table, Value, describe_machine, rounded, seconds_per_call
from augment.bench.phantom import build_here, write_volumes
from augment.bench.rivals import Hdf5Slices, PlainZarrSlices, copy_to_hdf5
from augment.loader import KSpaceSlices


def bench_loader(
    num_volumes: int = 4,
    num_slices: int = 32,
    size: int = 256,
    workers: Sequence[int] = (0, 2),
    epochs: int = 3,
    folder: Path | None = None,
) -> BenchResult:
    """Read every slice of a generated corpus in one random order, after an epoch that warms up.

    Parameters
    ----------
    num_volumes, num_slices, size
        Of the corpus; `size` is height and width.
    workers
        Worker processes of the `DataLoader`, started by spawn.
    epochs
        Measured; the median counts.
    folder
        Where the temporary folder is made. The files are in the page cache all the same.
    """
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="phasegen-bench-", dir=folder) as temporary:
        root = Path(temporary) / "c.zarr"
        build_here(write_volumes(Path(temporary), num_volumes, num_slices, size), root)
        ours = KSpaceSlices(root)
        copy_to_hdf5(root, Path(temporary), ours.volumes)
        ways: dict[str, Dataset[Any]] = {
            "KSpaceSlices": ours,
            "plain zarr": PlainZarrSlices(root, ours.volumes, num_slices),
            "HDF5, uncompressed": Hdf5Slices(Path(temporary), ours.volumes, num_slices),
        }
        order = np.random.default_rng(0).permutation(len(ours)).tolist()
        slice_bytes = sum(part.nbytes for part in (ours[0][0], ours[0][2]))
        rows: list[tuple[Value, ...]] = []
        for count in workers:
            rows += _rows(_rates(ways, order, count, epochs), count, slice_bytes)
        stored = {
            "zarr": sum(path.stat().st_size for path in (root / "volumes").rglob("*") if path.is_file()),
            "HDF5": sum(path.stat().st_size for path in Path(temporary).glob("*.h5")),
        }
    columns = ("read through", "workers", "slices/s", "MB/s", "times HDF5")
    sizes: list[tuple[Value, ...]] = [
        (name, rounded(number / 1e6), rounded(number / stored["HDF5"])) for name, number in stored.items()
    ]
    tables = [
        Table("Reading slices in random order", columns, rows),
        Table("On disk", ("stored as", "MB", "times HDF5"), sizes),
    ]
    settings = {"volumes": num_volumes, "slices a volume": num_slices, "size": size, "epochs": epochs}
    notes = ["k-space and target of every slice; ours also checks checksums and gives the attributes; warm page cache"]
    return BenchResult("loader", machine, settings, tables, notes)


def _rows(rates: dict[str, float], count: int, slice_bytes: int) -> list[tuple[Value, ...]]:
    hdf5 = rates["HDF5, uncompressed"]
    return [
        (name, count, rounded(rate), rounded(rate * slice_bytes / 1e6), rounded(rate / hdf5))
        for name, rate in rates.items()
    ]


def _rates(ways: dict[str, Dataset[Any]], order: Sequence[int], num_workers: int, epochs: int) -> dict[str, float]:
    """Slices a second, median of the epochs, in which the ways take turns; the workers' start is left out."""
    loaders: dict[str, DataLoader[Any]] = {
        name: DataLoader(
            dataset,
            batch_size=None,
            sampler=list(order),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            multiprocessing_context="spawn" if num_workers else None,
        )
        for name, dataset in ways.items()
    }

    def read_all(loader: DataLoader[Any]) -> int:
        return sum(1 for _ in loader)

    calls = [partial(read_all, loader) for loader in loaders.values()]
    return {
        name: len(order) / seconds
        for name, seconds in zip(loaders, seconds_per_call(calls, budget_s=0.0, rounds=epochs), strict=True)
    }
