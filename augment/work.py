"""What one run is to do: which volumes, in which order, and from which manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from augment.request import all_tasks, count_wanted
from augment.workbench import Outcome, Task
from manifests.manifest import Manifest, is_url


@dataclass(frozen=True)
class Work:
    """What one run is to do.

    Attributes
    ----------
    names
        Of the volumes, in the order of the tasks.
    order
        Of the index.
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

    names: list[str]
    order: list[str]
    tasks: Callable[[], Iterator[Task]]
    retry_failed: bool
    manifest: str
    num_slices: int | None = None
    seen: Callable[[Outcome], None] | None = None


def work_of(manifest: Manifest, replicas: int, retry_failed: bool) -> Work:
    """Give the work of a build: everything that the manifest asks for."""
    wanted = count_wanted(manifest, replicas)
    return Work(
        names=wanted.names,
        order=wanted.names,
        tasks=lambda: all_tasks(manifest, replicas),
        retry_failed=retry_failed,
        manifest=lasting_path(manifest.path),
        num_slices=wanted.num_slices,
    )


def lasting_path(path: str) -> str:
    """Give a path that means the same from another folder."""
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100
