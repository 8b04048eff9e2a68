"""A task: one volume to build, its outcome, and the list of tasks of a run. Does not import torch."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from rephase.corpus.layout import group_document
from rephase.corpus.receipt import volume_name
from rephase.files import sha256
from rephase.manifests.manifest import PATH_COLUMNS, Manifest
from rephase.manifests.record import ManifestRow
from rephase.redaction import redact, without_secrets
from rephase.text import is_url


@dataclass(frozen=True)
class ExpectedVolume:
    """The recorded facts of a volume that is to be rebuilt.

    Attributes
    ----------
    digests
        SHA-256 of its receipt: the one in the index and the one of the receipt itself; one of them may be damaged.
    row_hash, recipe_hash, environment
        From its receipt, if it is valid.
    accept
        Rebuild it even if its bytes will differ.
    """

    digests: tuple[str, ...] = ()
    row_hash: str | None = None
    recipe_hash: str | None = None
    environment: Mapping[str, Any] | None = None
    accept: bool = False


def receipt_digest(receipt: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a receipt's document, which covers every byte of its volume."""
    return sha256(group_document(receipt))


Status = Literal["built", "skipped", "failed"]
Fault = Literal["storage", "disk_full", "lease"]


@dataclass(frozen=True)
class Task:
    """One volume to build: a row and one of its replicas. Contains paths and ids, never pixels.

    `expected` has the recorded facts of a damaged volume that is to be rebuilt.
    """

    row: ManifestRow = field(repr=False)
    replica: int = 0
    expected: ExpectedVolume | None = None

    @property
    def name(self) -> str:
        """Name of the volume in the corpus."""
        return volume_name(self.row.volume_id, self.replica)

    @property
    def where(self) -> str:
        """Location of the row, for messages."""
        return f"volume {self.name} ({self.row.path})"

    def public(self, message: str) -> str:
        """Return a message about this volume that names its row in place of its files."""
        places = (getattr(self.row, name) for name in PATH_COLUMNS)
        return redact(message, [place for place in places if place], f"row {self.row.line}")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one volume.

    `reason` and `message` are set for a failed one; `public` is the message without paths. `seconds` per stage;
    `waiting` is the wait for the sampling lock. `num_bytes` is the size of the arrays before compression, `num_pixels`
    the number of voxels of the source, where it was built. `fault` is set where not the volume failed, but what all
    volumes share: the corpus's own `storage`, a `disk_full`, or the `lease`, which was lost. `receipt` contains the
    committed attributes, also of a skipped one.
    """

    name: str
    status: Status
    reason: str | None = None
    message: str | None = None
    public: str | None = None
    num_slices: int = 0
    num_bytes: int = 0
    num_pixels: int = 0
    fault: Fault | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    receipt: dict[str, Any] | None = None


def failed_outcome(task: Task, reason: str, message: str, **more: Any) -> Outcome:  # noqa: ANN401
    """Return the outcome of a volume that failed, with its message for the user and the one that is passed on."""
    return Outcome(task.name, "failed", reason, without_secrets(message), task.public(message), **more)


@dataclass(frozen=True)
class Totals:
    """Totals of a manifest: volumes, slices if every row states them, and the pixels of each volume, NaN if unknown."""

    num_volumes: int
    num_slices: int | None
    pixels: array[float]


def stated_shape(row: ManifestRow) -> tuple[int, int, int] | None:
    """Return the shape (slices, height, width) that a row states; None if it lacks a number."""
    if row.num_slices is None or row.height is None or row.width is None:
        return None
    return row.num_slices, row.height, row.width


def stated_pixels(row: ManifestRow) -> float:
    """Return the number of pixels of all slices of a row's volume; NaN if it is not stated."""
    shape = stated_shape(row)
    return math.nan if shape is None else float(math.prod(shape))


def all_tasks(manifest: Manifest, replicas: int) -> Iterator[Task]:
    """Yield a task per requested volume of a manifest, the replicas of a row one after another."""
    for row in manifest:
        for replica in range(row.replicas or replicas):
            yield Task(row, replica)


def requested_names(manifest: Manifest, replicas: int) -> Iterator[str]:
    """Yield the name of every requested volume, in the order of `all_tasks`."""
    return (task.name for task in all_tasks(manifest, replicas))


def count_requested(manifest: Manifest, replicas: int) -> Totals:
    """Count the requested volumes, slices and pixels."""
    num_volumes = 0
    num_slices: int | None = 0
    pixels = array("d")
    for row in manifest:
        copies = row.replicas or replicas
        num_volumes += copies
        pixels.extend([stated_pixels(row)] * copies)
        num_slices = None if num_slices is None or row.num_slices is None else num_slices + copies * row.num_slices
    return Totals(num_volumes, num_slices, pixels)


@dataclass(frozen=True)
class TaskList:
    """The tasks of one run, as functions, so that no list of a million names is kept in memory.

    Attributes
    ----------
    num_volumes
        Number of tasks.
    names
        Returns their names, in the order of the tasks; may be called repeatedly.
    order
        Returns the names in the order of the index, likewise.
    tasks
        Returns the tasks, one per name.
    retry_failed
        Include the volumes that failed in an earlier run.
    manifest
        Path or URL of the manifest, for the log.
    pixels
        Pixels of each volume, NaN where unknown.
    num_slices
        Number of slices in total, None if unknown.
    seen
        Called with every outcome.
    """

    num_volumes: int
    names: Callable[[], Iterator[str]]
    order: Callable[[], Iterator[str]]
    tasks: Callable[[], Iterator[Task]]
    retry_failed: bool
    manifest: str
    pixels: array[float]
    num_slices: int | None = None
    seen: Callable[[Outcome], None] | None = None


def task_list(manifest: Manifest, replicas: int, retry_failed: bool) -> TaskList:
    """Return the tasks of a build: every volume that the manifest requests."""
    wanted = count_requested(manifest, replicas)
    names = partial(requested_names, manifest, replicas)
    return TaskList(
        num_volumes=wanted.num_volumes,
        names=names,
        order=names,
        tasks=lambda: all_tasks(manifest, replicas),
        retry_failed=retry_failed,
        manifest=lasting_path(manifest.path),
        pixels=wanted.pixels,
        num_slices=wanted.num_slices,
    )


def lasting_path(path: str) -> str:
    """Return a path that is valid in another working directory."""
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100
