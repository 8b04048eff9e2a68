"""How long the work takes on this machine, tried out on little of it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from augment.environment import environment_class
from augment.options import BuildOptions
from augment.pipeline import build_volume
from augment.readers import read_volume
from augment.recipe import Recipe, checkpoint_path, make_recipe
from augment.store import CorpusStore
from augment.workbench import Task, open_workbench
from manifests.manifest import Manifest
from manifests.record import ManifestRow

READ_VOLUMES = 5
READ_SECONDS = 5.0


def measure_reading(manifest: Manifest) -> float:
    """Read a few volumes, spread over the manifest, for some seconds: seconds per voxel, 0 where none can be read.

    The first one is not timed where there are more: it loads the libraries.
    """
    step = -(-len(manifest) // READ_VOLUMES)
    begin = time.perf_counter()
    timed: list[tuple[float, int]] = []
    for number in range(0, len(manifest), step):
        start = time.perf_counter()
        try:
            volume = read_volume(manifest[number])
        except Exception:  # the build will say what is wrong with it  # noqa: S112
            continue
        timed.append((time.perf_counter() - start, volume.magnitude.size))
        if time.perf_counter() - begin > READ_SECONDS:
            break
    timed = timed[1:] or timed
    return sum(seconds for seconds, _ in timed) / max(sum(size for _, size in timed), 1)


def measure_work(recipe: Recipe, options: BuildOptions, device: str, matrix: tuple[int, int]) -> tuple[float, float]:
    """Build small volumes of noise in a temporary corpus.

    Returns
    -------
    per_volume, per_slice
        Seconds that a volume takes apart from its slices, and those of a slice of this (height, width); in one worker.
    """
    few, many = recipe.tile.slices, 3 * recipe.tile.slices
    # real phase needs a second file; taking no phase costs about as much
    timed = recipe if recipe.phase != "real" else make_recipe(BuildOptions(phase="zero"))
    with tempfile.TemporaryDirectory(prefix="phasegen-plan-") as folder:
        CorpusStore.create(f"{folder}/c.zarr", timed.attributes())
        bench = open_workbench(
            f"{folder}/c.zarr", timed, environment_class(device), device=device, checkpoint=checkpoint_path(options)
        )
        times = []
        for number, num_slices in enumerate((few, few, many)):  # the first one warms everything up
            path = Path(folder) / f"{number}.npy"
            noise = np.random.default_rng(number).rayleigh(size=(num_slices, *matrix))
            np.save(path, noise.astype(np.float32))
            start = time.perf_counter()
            build_volume(Task(ManifestRow(line=number, volume_id=f"v{number}", path=str(path))), bench)
            times.append(time.perf_counter() - start)
    per_slice = max((times[2] - times[1]) / (many - few), times[2] / many / 10)
    return max(times[1] - few * per_slice, 0.0), per_slice
