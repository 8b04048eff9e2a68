"""Generated volumes and corpora for benchmarks: an ellipse with texture, surrounded by air; reproducible."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.builder.options import BuildOptions
from rephase.builder.preflight import open_corpus
from rephase.builder.resolve import make_recipe
from rephase.corpus.index import REQUIRED_COLUMNS, index_document, index_row
from rephase.corpus.index_writer import write_index
from rephase.corpus.layout import ArrayLayout
from rephase.corpus.store import CorpusStore
from rephase.diffusion.fourier import fft2c
from rephase.facts import FACTS, receipt_facts
from rephase.pipeline.environment import environment_class
from rephase.pipeline.worker import WorkerContext, open_worker

_ROOT: dict[str, Any] = {"recipe": {}, "recipe_hash": "0" * 64, "checkpoint_hash": None, "seed": 0}


def make_magnitude(num_slices: int, size: int, seed: int = 0) -> NDArray[np.float32]:
    """Return a magnitude volume `(slice size size)`, 0 to about 4,000 as a scanner stores it."""
    random = np.random.default_rng(seed)
    position = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    inside = (position[:, None] / 0.85) ** 2 + (position / 0.65) ** 2 < 1
    texture = random.normal(1.0, 0.1, (num_slices, size, size)).astype(np.float32)
    shading = 1 + 0.3 * np.cos(3 * position[:, None] + 2 * position)
    noise = random.rayleigh(5.0, texture.shape)
    magnitude: NDArray[np.float32] = np.round(2000 * texture * shading * inside + noise).astype(np.float32)
    return magnitude


def write_volumes(folder: Path, num_volumes: int, num_slices: int, size: int) -> Path:
    """Write `.npy` volumes and their manifest into a folder; return the manifest's path."""
    manifest = folder / "manifest.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["volume_id", "path", "num_slices", "height", "width"])
        for number in range(num_volumes):
            name = f"v{number:04d}.npy"
            np.save(folder / name, make_magnitude(num_slices, size, number))
            writer.writerow([f"v{number:04d}", name, num_slices, size, size])
    return manifest


def write_long_manifest(path: Path, rows: Iterable[tuple[str, str, int, int, int]]) -> None:
    """Write a manifest from rows of name, path, slices, height and width, without checks."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["volume_id", "path", "num_slices", "height", "width"])
        writer.writerows(rows)


def open_smooth_worker(root: Path) -> WorkerContext:
    """Create a corpus with smooth phase, and return the context for building it in this process."""
    recipe = make_recipe(BuildOptions(phase="smooth"))
    open_corpus(str(root), recipe, overwrite=False)
    return open_worker(str(root), recipe, environment_class("cpu"))


def write_arrays(root: Path, num_volumes: int, num_slices: int, size: int, coils: int) -> None:
    """Write a corpus of phantoms with noise and smooth phase; `coils` 0 is a single coil without an axis."""
    store = CorpusStore.create(root, _ROOT)
    names = [f"v{number:04d}" for number in range(num_volumes)]
    for number, name in enumerate(names):
        arrays = make_arrays(num_slices, size, coils, number)
        store.commit_volume(name, arrays, receipt_of(arrays))
    write_index(store, names)


def make_arrays(num_slices: int, size: int, coils: int, seed: int) -> dict[str, NDArray[Any]]:
    """Return k-space and target of one volume."""
    position = np.linspace(-1, 1, size, dtype=np.float32)
    phase = np.exp(1j * (2 * position[:, None] + position**2)).astype(np.complex64)
    image = make_magnitude(num_slices, size, seed) / 2048 * phase
    name = "reconstruction_rss" if coils else "reconstruction_esc"
    if coils:
        angles = 2 * np.pi * np.arange(coils, dtype=np.float32) / coils
        centre = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, :, None, None]
        distance = (position[:, None] - centre[:, 0]) ** 2 + (position - centre[:, 1]) ** 2
        image = image[:, None] * np.exp(-distance / 2 + 1j * angles[:, None, None])
    kspace = fft2c(torch.from_numpy(image.astype(np.complex64))).numpy()
    target = np.sqrt((np.abs(image) ** 2).sum(axis=1)) if coils else np.abs(image)
    return {"kspace": kspace + np.complex64(0), name: target.astype(np.float32)}


def receipt_of(arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the receipt of a volume with these arrays."""
    kspace, target = arrays.values()
    size = [int(kspace.shape[-2]), int(kspace.shape[-1]), 1]
    return {
        **dict.fromkeys(("row_hash", "recipe_hash", "source_sha256"), "0" * 64),
        **receipt_facts(dict.fromkeys(FACTS)),
        "environment": {}, "acquisition": "AXT1", "patient_id": "s", "spacing_mm": [4.0, 1.0, 1.0],
        "max": float(target.max()), "norm": float(np.linalg.norm(target.astype(np.float64))),
        "affine": np.eye(4).tolist(), "orientation": "SPL", "transposed": False, "phase_encode": "assumed",
        "scale": 1.0, "phase_generator": "smooth", "nfe": 0, "noise_sigma": 0.0, "oversampling": 1.0,
        "encoding_size": size, "recon_size": size, "padding_left": 0, "padding_right": size[1],
        "storage": "kspace", "audit": {}, "num_slices": int(kspace.shape[0]), "seed": 0, "replica": 0,
    }  # fmt: skip


def write_large_index(root: Path, num_volumes: int, num_slices: int = 32, size: int = 320) -> None:
    """Write a corpus that consists of the index of many volumes, the only document read when opening it."""
    store = CorpusStore.create(root, _ROOT)
    few = make_arrays(2, 8, 0, 0)
    shapes = {"kspace": (num_slices, size, size), "reconstruction_esc": (num_slices, size, size)}
    receipt = receipt_of(few) | {
        "num_slices": num_slices,
        "arrays": {name: ArrayLayout.of(name, shape).entry for name, shape in shapes.items()},
    }
    row = index_row("v", receipt)
    random = np.random.default_rng(0)
    own: dict[str, list[Any]] = {
        "name": [f"sub-{number:06d}_T1w" for number in range(num_volumes)],
        "patient_id": [f"sub-{number // 2:06d}" for number in range(num_volumes)],
        "max": random.random(num_volumes).tolist(),
        "norm": random.random(num_volumes).tolist(),
        "receipt_sha256": [random.bytes(32).hex() for _ in range(num_volumes)],
    }
    columns = {column: own.get(column) or [row[column]] * num_volumes for column in REQUIRED_COLUMNS}
    store.storage.put("index/zarr.json", b"".join(index_document(columns)))


def drop_from_cache(paths: Iterable[Path]) -> None:
    """Drop files from the page cache, so that the next read accesses the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
