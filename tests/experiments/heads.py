"""Phantom heads with a smooth phase: a brain, a dark skull, a bright scalp with a bridge to the brain, and noise."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

COLUMNS = ("volume_id", "path", "phase", "subject_id", "split", "sequence", "segmentation")


def head(
    random: np.random.Generator, slices: int = 4, size: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Return magnitude, phase and brain, `(slice height width)`; the brain ends before the last slice."""
    y, x = (axis.astype(np.float32) for axis in np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j])
    down, right = random.uniform(-0.06, 0.06, 2)
    tall, wide = random.uniform(0.72, 0.84), random.uniform(0.6, 0.72)
    radius = np.hypot((y - down) / tall, (x - right) / wide)
    frequency, turn = random.uniform(6, 11), random.uniform(0, 6)
    texture = 1 + 0.25 * np.sin(frequency * x + turn) * np.cos(frequency * y)
    magnitudes, brains = [], []
    for number in range(slices):
        part = 0.0 if number == slices - 1 else 0.72 - 0.08 * number
        brain = radius < part
        scalp = (radius > 0.84) & (radius < 1)
        bridge = (np.abs(x - right) < 0.05) & (radius < 0.9) & (y > down) & (part > 0)
        clean = np.where(brain, 0.7 * texture, 0) + np.where(scalp, 1.0, 0) + np.where(bridge & ~brain, 0.6, 0)
        magnitudes.append(clean)
        brains.append(brain)
    clean = 100 * np.stack(magnitudes)
    a = random.uniform(-1, 1, 6)
    field = a[0] * 4 * x + a[1] * 4 * y + a[2] * 3 * x * y + a[3] * 3 * (x * x - y * y)
    phase = np.stack([field + 3.1 * a[4] + 0.4 * number * a[5] for number in range(slices)])
    noise = random.normal(scale=3, size=(2, *clean.shape))
    image = clean * np.exp(1j * phase) + noise[0] + 1j * noise[1]
    return np.abs(image).astype(np.float32), np.angle(image).astype(np.float32), np.stack(brains).astype(np.uint8)


def write_heads(folder: Path, train: int = 4, test: int = 5, *, labels: bool = True, size: int = 64) -> Path:
    """Write heads of as many subjects and their manifest."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(train + test):
        for name, values in zip("mps", head(random, size=size), strict=True):
            np.save(folder / f"{name}{number}.npy", values)
        split = "train" if number < train else "test"
        segmentation = f"s{number}.npy" if labels else ""
        rows.append(
            (f"v{number}", f"m{number}.npy", f"p{number}.npy", f"p{number}", split, "gradient-echo", segmentation)
        )
    path = folder / "pairs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path
