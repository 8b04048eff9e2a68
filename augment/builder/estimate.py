"""Estimate the sizes of a manifest's volumes, and the time to read and build them."""

from __future__ import annotations

import math
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rephase.builder.headers import MOST_HEADERS
from rephase.builder.options import BuildOptions
from rephase.builder.resolve import ResolvedBuild, make_recipe
from rephase.corpus.store import CorpusStore
from rephase.errors import VolumeError
from rephase.manifests.manifest import Manifest
from rephase.manifests.record import ManifestRow
from rephase.pipeline.audit import audit_values
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.environment import environment_class
from rephase.pipeline.magnitude import prepare_magnitude
from rephase.pipeline.task import Task, stated_pixels, stated_shape
from rephase.pipeline.worker import open_worker
from rephase.readers.nifti.write import write_axial
from rephase.readers.registry import describe_row, describe_volume, read_volume
from rephase.text import is_url

Shape = tuple[int, int, int]


@dataclass
class Sizes:
    """Sizes of all requested volumes, replicas included.

    `num_slices` and `num_voxels` are extrapolated from the headers that were read, unless `exact`. `largest` is the
    shape (slices, height, width) of the largest volume, `matrix` the (height, width) of most slices. `pixels` has the
    number of voxels of every volume in the order of the manifest, NaN where unknown.
    """

    num_rows: int = 0
    num_volumes: int = 0
    num_slices: float = 0.0
    num_voxels: float = 0.0
    largest: Shape = (0, 0, 0)
    matrix: tuple[int, int] = (0, 0)
    shapes: Counter[Shape] = field(default_factory=Counter)
    pixels: array[float] = field(default_factory=lambda: array("d"))
    headers_read: int = 0
    exact: bool = True
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    @property
    def source(self) -> str:
        """Source of the sizes: the manifest, or the number of headers read."""
        if not self.headers_read:
            return "the manifest"
        of = f"{self.headers_read} of {self.num_rows} headers"
        return of if sum(self.shapes.values()) <= self.headers_read else f"the manifest and {of}"


def measure_sizes(manifest: Manifest, replicas: int, progress: Callable[[], None] | None = None) -> Sizes:
    """Sum the sizes of a manifest; for rows without sizes, read at most `MOST_HEADERS` headers spread over them."""
    sizes = Sizes(num_rows=len(manifest))
    unsized: list[tuple[int, int, int]] = []
    slices_of: Counter[tuple[int, int]] = Counter()
    for number, row in enumerate(manifest):
        copies = row.replicas or replicas
        sizes.num_volumes += copies
        shape = stated_shape(row)
        if shape is None:
            unsized.append((number, copies, len(sizes.pixels)))
        else:
            _count(sizes, slices_of, shape, copies)
        sizes.pixels.extend([stated_pixels(row)] * copies)
    if unsized:
        _sample(manifest, unsized, sizes, slices_of, progress)
    if slices_of:
        sizes.matrix = slices_of.most_common(1)[0][0]
    return sizes


def _count(sizes: Sizes, slices_of: Counter[tuple[int, int]], shape: Shape, copies: float) -> None:
    num_slices, height, width = shape
    sizes.num_slices += copies * num_slices
    sizes.num_voxels += copies * num_slices * height * width
    sizes.shapes[shape] += 1
    sizes.largest = max(sizes.largest, shape, key=lambda one: one[0] * one[1] * one[2])
    slices_of[height, width] += num_slices


def _sample(
    manifest: Manifest,
    unsized: list[tuple[int, int, int]],
    sizes: Sizes,
    slices_of: Counter[tuple[int, int]],
    progress: Callable[[], None] | None,
) -> None:
    chosen = unsized[:: -(-len(unsized) // MOST_HEADERS)]
    # a header that cannot be read represents other volumes that cannot be built
    weight = sum(copies for _, copies, _ in unsized) / sum(copies for _, copies, _ in chosen)
    sizes.exact = len(chosen) == len(unsized)
    for number, copies, position in chosen:
        row = manifest[number]
        sizes.headers_read += 1
        sizes.pixels[position] = 0.0
        try:
            shape = describe_row(row)
            _count(sizes, slices_of, shape, copies * weight)
            sizes.pixels[position : position + copies] = array("d", [math.prod(shape)] * copies)
        except VolumeError as error:
            sizes.unreadable.append((row.volume_id, f"{error.reason}: {error}"))
        except Exception as error:  # no file may stop a plan
            sizes.unreadable.append((row.volume_id, f"failed: {type(error).__name__}: {error}"))
        if progress is not None:
            progress()


NOTED_HEADERS = 64
NOTED_SECONDS = 5.0


def collect_notes(manifest: Manifest) -> list[tuple[str, int, str]]:
    """List what a user should know of volumes, from the headers of a few local ones spread over the manifest.

    Returns
    -------
    notes
        Each note with the number of volumes that have it, and the first of them; the most frequent ones first.
    """
    begin = time.perf_counter()
    found: dict[str, list[str]] = {}
    for number in range(0, len(manifest), -(-len(manifest) // NOTED_HEADERS)):
        row = manifest[number]
        if is_url(row.path):
            continue
        try:
            for note in describe_volume(row).notes:
                found.setdefault(note, []).append(row.volume_id)
        except Exception:  # the build reports the error  # noqa: S112
            continue
        if time.perf_counter() - begin > NOTED_SECONDS:
            break
    ordered = sorted(found.items(), key=lambda pair: -len(pair[1]))
    return [(note, len(names), names[0]) for note, names in ordered]


READ_VOLUMES = 5


READ_SECONDS = 5.0


def measure_reading(manifest: Manifest) -> tuple[float, int, dict[str, int]]:
    """Read a few volumes spread over the manifest, measure the time, and audit them.

    Returns
    -------
    seconds
        Time to read and audit a voxel; 0 if none can be read. With several volumes, the first is not counted: reading
        it also loads the libraries.
    audited, flags
        Number of volumes read; audit flags with their numbers of volumes, the most frequent first.
    """
    flags: Counter[str] = Counter()
    step = -(-len(manifest) // READ_VOLUMES)
    begin = time.perf_counter()
    timed: list[tuple[float, int]] = []
    for number in range(0, len(manifest), step):
        start = time.perf_counter()
        try:
            volume = read_volume(manifest[number])
            flags.update(audit_values(volume, prepare_magnitude(volume.magnitude, "clip")).keys())
        except Exception:  # the build reports the error  # noqa: S112
            continue
        timed.append((time.perf_counter() - start, volume.magnitude.size))
        if time.perf_counter() - begin > READ_SECONDS:
            break
    audited, timed = len(timed), timed[1:] or timed
    return (
        sum(seconds for seconds, _ in timed) / max(sum(size for _, size in timed), 1),
        audited,
        dict(flags.most_common()),
    )


def measure_work(build: ResolvedBuild, device: str, matrix: tuple[int, int]) -> tuple[float, float]:
    """Measure the time of a build, with small volumes of noise in a temporary corpus.

    Returns
    -------
    per_volume, per_slice
        Seconds per volume excluding its slices, and per slice of this (height, width), in one worker.
    """
    recipe = build.recipe(device)
    few, many = recipe.tile.slices, 3 * recipe.tile.slices
    # real phase needs a second file; zero phase takes about as long
    timed = recipe if recipe.phase != "real" else make_recipe(BuildOptions(phase="zero"))
    with tempfile.TemporaryDirectory(prefix="rephase-plan-") as folder:
        CorpusStore.create(f"{folder}/c.zarr", timed.attributes())
        worker = open_worker(
            f"{folder}/c.zarr", timed, environment_class(device), device=device, checkpoint=build.checkpoint
        )
        times = []
        for number, num_slices in enumerate((few, few, many)):  # the first one is a warm-up
            path = Path(folder) / f"{number}.nii"
            noise = np.random.default_rng(number).rayleigh(size=(num_slices, *matrix))
            # in the field of view of every array of coils
            write_axial(path, noise.astype(np.float32), (1.0, 200 / matrix[0], 200 / matrix[1]))
            start = time.perf_counter()
            build_volume(Task(ManifestRow(line=number, volume_id=f"v{number}", path=str(path))), worker)
            times.append(time.perf_counter() - start)
    per_slice = max((times[2] - times[1]) / (many - few), times[2] / many / 10)
    return max(times[1] - few * per_slice, 0.0), per_slice
