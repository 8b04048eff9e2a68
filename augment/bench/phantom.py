"""Volumes for benchmarks: an ellipse with texture, surrounded by air; reproducible."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rephase.builder.options import BuildOptions
from rephase.builder.preflight import open_corpus
from rephase.builder.resolve import make_recipe
from rephase.pipeline.environment import environment_class
from rephase.pipeline.worker import WorkerContext, open_worker


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
    """Begin a corpus with smooth phase, to be built in this process."""
    recipe = make_recipe(BuildOptions(phase="smooth"))
    open_corpus(str(root), recipe, overwrite=False)
    return open_worker(str(root), recipe, environment_class("cpu"))
