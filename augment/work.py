"""What one run is to do: which volumes, in which order, and from which manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from augment.request import all_tasks, count_wanted, wanted_names
from augment.workbench import Outcome, Task
from manifests.manifest import Manifest, is_url


@dataclass(frozen=True)
class Work:
    """What one run is to do; no list of a million names stays in memory.

    Attributes
    ----------
    num_volumes
        That are to be made.
    names
        Gives their names, in the order of the tasks, as often as it is called.
    order
        Gives the names in the order of the index, likewise.
    tasks
        Gives the tasks, one for each name.
    retry_failed
        Also those that failed in an earlier run.
    manifest
        Path or URL of the manifest, for the log.
    num_slices
        Of all, None where that is not known.
    seen
        Called with every outcome.
    """

    num_volumes: int
    names: Callable[[], Iterator[str]]
    order: Callable[[], Iterator[str]]
    tasks: Callable[[], Iterator[Task]]
    retry_failed: bool
    manifest: str
    num_slices: int | None = None
    seen: Callable[[Outcome], None] | None = None


def work_of(manifest: Manifest, replicas: int, retry_failed: bool) -> Work:
    """Give the work of a build: everything that the manifest asks for."""
    wanted = count_wanted(manifest, replicas)
    names = partial(wanted_names, manifest, replicas)
    return Work(
        num_volumes=wanted.num_volumes,
        names=names,
        order=names,
        tasks=lambda: all_tasks(manifest, replicas),
        retry_failed=retry_failed,
        manifest=lasting_path(manifest.path),
        num_slices=wanted.num_slices,
    )


def lasting_path(path: str) -> str:
    """Give a path that means the same from another folder."""
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100
