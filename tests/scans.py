"""Multi-coil corpora of small heads, built in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from volumes import write_manifest

from rephase.builder.options import BuildOptions
from rephase.builder.preflight import open_corpus
from rephase.builder.resolve import resolve_build
from rephase.corpus.index_writer import write_index
from rephase.manifests.parse import read_manifest
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.environment import environment_class
from rephase.pipeline.task import Outcome, Task
from rephase.pipeline.worker import open_worker
from rephase.readers.nifti.write import write_axial


def head_magnitude(shape: tuple[int, int, int], noise: float = 0.0) -> NDArray[np.float32]:
    """Return an ellipse with structure in air: 0 to about 1,000."""
    random = np.random.default_rng(3)
    y, x = np.meshgrid(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[2]), indexing="ij")
    number = np.arange(shape[0])[:, None, None]
    inside = (x / 0.7) ** 2 + (y / 0.85) ** 2 < 1
    inner = 1 + 0.3 * np.cos(14 * x + number) * np.cos(11 * y) + 0.4 * ((x - 0.2) ** 2 + y**2 < 0.05)
    both = noise * random.normal(size=(2, *shape))
    return np.hypot(600 * inside * inner + both[0], both[1]).astype(np.float32)


def write_head(folder: Path, shape: tuple[int, int, int], noise: float = 0.0, view_mm: float = 220.0) -> Path:
    """Write a head as NIfTI; return its manifest."""
    spacing = (5.0, view_mm / shape[1], view_mm / shape[2])
    write_axial(folder / "head.nii", head_magnitude(shape, noise), spacing)
    header = "volume_id,path,anatomy,contrast,split,subject_id"
    return write_manifest(folder / "m.csv", ["head,head.nii,brain,T1,train,s1"], header)


def build_outcome(manifest: Path, root: Path, **options: Any) -> Outcome:
    """Build the first row in this process, with smooth phase unless another is given."""
    build = resolve_build(str(root), BuildOptions(**{"phase": "smooth", **options}))
    recipe = build.recipe()
    open_corpus(str(root), recipe, overwrite=False)
    worker = open_worker(str(root), recipe, environment_class("cpu"), bank=build.bank)
    row = next(iter(read_manifest(manifest)))
    outcome = build_volume(Task(row), worker)
    if outcome.status == "built":
        write_index(worker.store, [row.volume_id])
    return outcome


def build_scan(manifest: Path, root: Path, **options: Any) -> Path:
    outcome = build_outcome(manifest, root, **options)
    assert outcome.status == "built", outcome.message
    return root
