"""Small magnitude volumes on disk with their manifest, and digests of a corpus for comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def phantom(seed: int, shape: tuple[int, int, int] = (3, 20, 24)) -> NDArray[np.float32]:
    """Return an ellipse with texture in zero air: (slice, height, width), float32, in arbitrary units."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[2]), indexing="ij")
    inside = (x / 0.8) ** 2 + (y / 0.9) ** 2 < 1
    return (random.uniform(50, 900) * inside * random.uniform(0.5, 1, size=shape)).astype(np.float32)


def write_manifest(path: Path, lines: Sequence[str], header: str = "volume_id,path") -> Path:
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def write_volumes(folder: Path, count: int, shape: tuple[int, int, int] = (3, 20, 24)) -> Path:
    """Write volumes v0, v1, ... as .npy with their manifest `m.csv`; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        np.save(folder / f"v{number}.npy", phantom(number, shape))
    return write_manifest(folder / "m.csv", [f"v{number},v{number}.npy" for number in range(count)])


def volume_bytes(corpus: Path) -> dict[str, str]:
    """Return the digest of every file under `volumes/`: receipts, array metadata, shards."""
    folder = corpus / "volumes"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
