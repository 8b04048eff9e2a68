"""`rephase plan`: the dry run of a build, with its volumes, bytes, memory and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.builder.coverage import Coverage, examine
from rephase.builder.estimate import Shape, collect_notes, measure_reading, measure_sizes, measure_work
from rephase.builder.options import STORAGES, BuildOptions
from rephase.builder.preflight import check_exams, check_recipe, check_replicas, find_corpus
from rephase.builder.resolve import resolve_build
from rephase.cluster.local import local_shape
from rephase.corpus.expansion import LAZY
from rephase.corpus.storage.open import open_storage
from rephase.corpus.store import CorpusStore
from rephase.diffusion.devices import choose_device
from rephase.manifests.manifest import Manifest
from rephase.manifests.where import select
from rephase.pipeline.memory import PROCESS_BYTES, MemoryLimits, magnitude_limits, volume_factor
from rephase.pipeline.recipe import Recipe
from rephase.pipeline.task import requested_names
from rephase.progress import fill_unknown, makespan, mean_known
from rephase.scanner.acquisition import parse_acquisition
from rephase.text import format_bytes, format_seconds

BYTES_PER_VOXEL = 10.2
"""On disk: complex64 k-space compresses by 1.1, the float32 target by 1.5 or more."""

_IMAGE_BYTES_PER_VOXEL = 10.2
"""Of image and target: as k-space and target, since air is as noisy in both."""

_TARGET_BYTES_PER_VOXEL = 2.7
_COIL_BYTES_PER_VOXEL = 8.0
"""The k-space of a coil is not compressed."""


def bytes_per_voxel(recipe: Recipe) -> float:
    """Return the bytes on disk per voxel of the magnitude; the few kB of coil coefficients are not counted."""
    if recipe.storage == LAZY:
        return _IMAGE_BYTES_PER_VOXEL
    # columns that are not sampled compress to nothing, where bytes are compressed at all
    more = parse_acquisition(recipe.acquisition or "full").oversampling
    if recipe.coils is None:
        return _TARGET_BYTES_PER_VOXEL + (BYTES_PER_VOXEL - _TARGET_BYTES_PER_VOXEL) * more
    return _COIL_BYTES_PER_VOXEL * recipe.num_coils * more + _TARGET_BYTES_PER_VOXEL


@dataclass
class Plan:
    """The dry run of a build.

    Attributes
    ----------
    num_volumes, num_committed, num_slices, num_bytes
        Volumes requested; volumes of these that are committed; slices and bytes on disk of all requested ones.
    sizes_from
        Source of the sizes: the manifest, or the number of headers read.
    num_workers, worker_bytes, needed_bytes
        Number of workers; memory limit of each, None if a scheduler sets it; memory that the largest volume needs.
    too_large
        Shapes that a worker would refuse.
    exact
        True if every size is known, none extrapolated.
    seconds, seconds_per_slice, seconds_per_volume
        Seconds to build the volumes that are not committed; seconds in one worker per slice, and per volume excluding
        its slices. None if no size is known.
    free_bytes
        Free space on the disk of the corpus, None if unknown.
    coverage
        Pulse sequences, and rows outside of what the weights have seen.
    licence
        Licence of the weights; None if not stated or without any.
    unreadable
        (volume, reason) of the headers that could not be read.
    notes
        (note, number of volumes, the first of them) of a few headers, such as an assumed orientation.
    other_bytes
        Bytes on disk with the other values of `--storage`; empty for single-coil data.
    audited, audit
        Number of volumes whose values were audited; audit flags with their numbers of volumes.
    job_script
        The script that would be submitted to a batch system; None without one.
    """

    corpus: str
    recipe: dict[str, Any]
    num_volumes: int
    num_committed: int
    num_slices: int
    num_bytes: int
    sizes_from: str
    exact: bool
    num_workers: int
    worker_bytes: int | None
    needed_bytes: int
    coverage: Coverage = field(default_factory=Coverage)
    licence: str | None = None
    too_large: list[Shape] = field(default_factory=list)
    seconds: float | None = None
    seconds_per_slice: float | None = None
    seconds_per_volume: float | None = None
    free_bytes: int | None = None
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, int, str]] = field(default_factory=list)
    job_script: str | None = None
    other_bytes: dict[str, int] = field(default_factory=dict)
    audited: int = 0
    audit: dict[str, int] = field(default_factory=dict)

    @property
    def missing_bytes(self) -> int:
        """Bytes missing on the disk for the volumes that are not committed."""
        if self.free_bytes is None or not self.num_volumes:
            return 0
        return max(int(self.num_bytes * self._open_part) - self.free_bytes, 0)

    @property
    def _open_part(self) -> float:
        return 1 - self.num_committed / self.num_volumes if self.num_volumes else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        return {**asdict(self), "missing_bytes": self.missing_bytes}

    def lines(self) -> list[str]:
        """Format the plan as lines of text."""
        tile = self.recipe["tile"]
        model = f", {self.recipe['nfe']} network evaluations per slice" if self.recipe["nfe"] else ""
        exact = "" if self.exact else "about "
        lines = [
            f"corpus:   {self.corpus}",
            f"phase:    {self.recipe['phase']}{model}, seed {self.recipe['seed']}, {tile['slices']} slice(s) per call",
            *self._describe_coils(),
            f"volumes:  {self.num_volumes}, {self.num_committed} of them committed",
            f"slices:   {exact}{self.num_slices} (sizes from {self.sizes_from})",
            f"disk:     about {format_bytes(self.num_bytes)}{self._describe_free()}",
            f"memory:   about {format_bytes(self.needed_bytes)} for the largest volume{self._describe_limit()}",
            f"time:     {self._describe_time()}",
        ]
        if self.audited:
            found = ", ".join(f"{flag} {count}" for flag, count in self.audit.items())
            lines.append(f"audit:    of {self.audited} volumes read: {found or 'nothing found'}")
        lines += self.coverage.lines()
        if self.licence is not None:
            lines.append(f"licence:  {self.licence} (of the weights)")
        if self.missing_bytes:
            lines.append(
                f"WARNING:  the disk lacks {format_bytes(self.missing_bytes)}; free space or choose another disk"
            )
        lines += [
            f"WARNING:  volumes of {' x '.join(map(str, shape))} would be refused as too large; give each worker more "
            "memory with fewer --workers or a higher --memory-limit"
            for shape in self.too_large[:5]
        ]
        if self.unreadable:
            lines.append(f"WARNING:  {len(self.unreadable)} of the volumes whose headers were read cannot be built:")
            lines += [f"  {name}: {why}" for name, why in self.unreadable[:20]]
        lines += [
            f"note:     {name}{f' and {count - 1} more of the headers read' if count > 1 else ''}: {note}"
            for note, count, name in self.notes[:10]
        ]
        if self.job_script:
            lines += ["job script:", *(f"  {line}" for line in self.job_script.splitlines())]
        return lines

    def _describe_coils(self) -> list[str]:
        if "coils" not in self.recipe:
            return []
        others = "; ".join(f"{format_bytes(size)} as {name}" for name, size in self.other_bytes.items())
        line = f"coils:    {self.recipe['num_coils']} ({self.recipe['coils']}), stored as {self.recipe['storage']}"
        return [f"{line} (about {others})"]

    def _describe_free(self) -> str:
        return "" if self.free_bytes is None else f" in total; {format_bytes(self.free_bytes)} free"

    def _describe_limit(self) -> str:
        return (
            ""
            if self.worker_bytes is None
            else f"; {self.num_workers} workers with {format_bytes(self.worker_bytes)} each"
        )

    def _describe_time(self) -> str:
        if self.seconds is None or self.seconds_per_slice is None:
            return "unknown, because the size of no volume is known"
        return (
            f"about {format_seconds(self.seconds)} with {self.num_workers} workers "
            f"({format_seconds(self.seconds_per_slice)} per slice and worker, measured on this machine)"
        )


def make_plan(manifest: Manifest, root: str, options: BuildOptions, progress: Callable[[], None] | None = None) -> Plan:
    """Compute what `builder.run.build` would do with the same arguments; start no worker and write no file.

    Parameters
    ----------
    manifest, root, options
        Arguments of the build.
    progress
        Called after each header.

    Raises
    ------
    RequestError
        If the build would refuse the request.
    """
    store = find_corpus(root)
    build = resolve_build(root, options, store=store)
    manifest = select(manifest, options.split, options.where)
    device = choose_device() if build.uses_model else "cpu"
    recipe = build.recipe(device)
    if store is not None:
        check_recipe(store, recipe, options.overwrite)
    check_replicas(manifest, options.phase)
    check_exams(manifest, options.share_field_by)
    shape = local_shape(options.workers, None, options.memory_limit)
    local = options.cluster == "local"
    sizes = measure_sizes(manifest, options.replicas, progress)
    committed = _find_committed(manifest, store, options)
    limits = magnitude_limits(shape.memory_limit, shape.threads, volume_factor(recipe)) if local else MemoryLimits()
    plan = Plan(
        corpus=root,
        recipe=recipe.to_json(),
        num_volumes=sizes.num_volumes,
        num_committed=int(committed.sum()),
        num_slices=round(sizes.num_slices),
        num_bytes=round(sizes.num_voxels * bytes_per_voxel(recipe)),
        other_bytes={
            name: round(sizes.num_voxels * bytes_per_voxel(replace(recipe, storage=name)))
            for name in STORAGES
            if recipe.coils is not None and name != recipe.storage
        },
        sizes_from=sizes.source,
        exact=sizes.exact,
        num_workers=shape.num_workers if local else options.workers or 1,
        worker_bytes=shape.memory_limit if local else None,
        needed_bytes=PROCESS_BYTES + volume_factor(recipe) * _magnitude_bytes(sizes.largest),
        coverage=examine(manifest, build.seen),
        licence=build.licence,
        too_large=sorted(one for one in sizes.shapes if _magnitude_bytes(one) > (limits.exclusive or float("inf"))),
        free_bytes=open_storage(root).free_bytes(),
        unreadable=sizes.unreadable,
        notes=collect_notes(manifest),
        job_script=build.cluster.job_script(options.cluster),
    )
    if sizes.num_slices:
        per_volume, per_slice = measure_work(build, device, sizes.matrix)
        reading, plan.audited, plan.audit = measure_reading(manifest)
        per_slice += reading * sizes.matrix[0] * sizes.matrix[1]
        plan.seconds_per_volume, plan.seconds_per_slice = per_volume, per_slice
        pixels = np.frombuffer(sizes.pixels)[~committed]
        equal_slices = fill_unknown(pixels, mean_known(sizes.pixels)) / (sizes.matrix[0] * sizes.matrix[1])
        plan.seconds = makespan([], per_volume + per_slice * equal_slices, plan.num_workers)
    return plan


def _magnitude_bytes(shape: Shape) -> int:
    return 4 * shape[0] * shape[1] * shape[2]


def _find_committed(manifest: Manifest, store: CorpusStore | None, options: BuildOptions) -> NDArray[np.bool_]:
    """Return which of the requested volumes are committed."""
    committed = set() if store is None else set(store.names())
    return np.array([name in committed for name in requested_names(manifest, options.replicas)], dtype=bool)
