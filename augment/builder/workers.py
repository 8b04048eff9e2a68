"""The workers of a build: compare them, prepare them, and run tasks in them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rephase.builder.preflight import check_environment, open_corpus
from rephase.builder.resolve import ResolvedBuild
from rephase.cluster.connect import ClusterRequest, Connection
from rephase.cluster.metrics import install_metrics
from rephase.cluster.window import Finished
from rephase.cluster.worker_state import ask_workers, install_state, remove_state, worker_state
from rephase.corpus.store import CorpusStore
from rephase.counters import COUNTERS
from rephase.errors import RETRY_WITH_MEMORY, RequestError
from rephase.manifests.record import ManifestRow
from rephase.pipeline.build_volume import build_volume, warm_up
from rephase.pipeline.environment import (
    MIXED_HELP,
    Machine,
    common_classes,
    common_device,
    count_devices,
    describe_class,
    describe_machine,
    environment_class,
    version_differences,
)
from rephase.pipeline.memory import MemoryLimits, magnitude_limits, volume_factor
from rephase.pipeline.recipe import Recipe
from rephase.pipeline.task import Outcome, Task, failed_outcome
from rephase.pipeline.timeout import TimeLimit, Watchdog, find_timeout, timeout_folder
from rephase.pipeline.worker import WorkerContext, open_worker
from rephase.readers.registry import read_volume
from rephase.readers.volume import Volume

PRELOAD = (__name__, "pydantic")
"""Modules that workers import as they start; they check the model card with pydantic."""


@dataclass(frozen=True)
class WorkerSetup:
    """Settings from which every worker process prepares its context.

    `state` names the context in the workers, for this run alone: another build may use the same cluster. `token` is
    that of the lease. `devices` counts the workers per device at the start, `differences` lists packages whose version
    differs in a worker. `also` has the settings of further corpora that get the same volumes, with their replicas.
    """

    state: str
    root: str
    recipe: Recipe
    device: str
    classes: list[dict[str, str]]
    allow_mixed: bool
    checkpoint: Path | None
    bank: Path | None
    batch_size: int | None
    limits: MemoryLimits
    overwrite: bool
    time_limit: float | None = None
    token: str = ""
    devices: dict[str, int] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    also: tuple[tuple[WorkerSetup, int], ...] = ()

    def lines(self) -> list[str]:
        """Format the workers."""
        lines = [f"workers: {', '.join(f'{count} x {name}' for name, count in self.devices.items())}"]
        if self.differences:
            lines.append(f"versions differ between this program and workers: {'; '.join(self.differences)}")
        return lines


class ReadOnce:
    """Reads the volume of one task once, for all corpora that get it."""

    def __init__(self) -> None:
        self._volume: Volume | None = None

    def __call__(self, row: ManifestRow, limit_bytes: int | None) -> Volume:
        """Return the volume of a row; errors as `read_volume`, which are not kept."""
        if self._volume is None:
            self._volume = read_volume(row, limit_bytes)
        return self._volume


def prepare_worker(setup: WorkerSetup) -> WorkerContext:
    """Prepare a worker process; raise, so that it does not join, if its machine type differs from the first one's."""
    environment = environment_class(setup.device)
    if environment not in setup.classes and not setup.allow_mixed:
        raise RequestError(f"this worker is on another kind of machine ({describe_class(environment)}): {MIXED_HELP}")
    worker = open_worker(
        setup.root,
        setup.recipe,
        environment,
        device=setup.device,
        checkpoint=setup.checkpoint,
        bank=setup.bank,
        batch_size=setup.batch_size,
        limits=setup.limits,
        overwrite=setup.overwrite,
        allow_mixed=setup.allow_mixed,
        token=setup.token,
        watchdog=Watchdog(TimeLimit(setup.time_limit, setup.recipe.nfe), timeout_folder(setup.root)),
    )
    warm_up(worker)
    worker = replace(worker, counters=COUNTERS)
    # they share the locks: one network at a time, and one volume that is large
    also = (
        (replace(prepare_worker(one), sampling=worker.sampling, admission=worker.admission), replicas)
        for one, replicas in setup.also
    )
    return replace(worker, also=tuple(also))


def run_task(state: str, task: Task) -> Outcome:
    """Build one volume in a worker, in the context of this name."""
    worker: WorkerContext = worker_state(state)
    read = ReadOnce() if worker.also else worker.read
    with worker.counters.working(state, task.name):
        outcome = build_volume(task, replace(worker, read=read))
        for other, replicas in worker.also if outcome.status != "failed" else ():
            if task.replica < (task.row.replicas or replicas):
                build_volume(task, replace(other, read=read))  # its own run reports what failed
    worker.counters.count_volume(outcome.status, outcome.num_slices, outcome.seconds, outcome.reason)
    return outcome


def connected(build: ResolvedBuild, say: Callable[[str], None]) -> AbstractContextManager[Connection]:
    """Start or join the cluster of a build; ClusterError if that fails."""
    request = ClusterRequest(
        num_workers=build.options.workers,
        memory_limit=build.options.memory_limit,
        dashboard_address=build.options.dashboard_address,
        preload=PRELOAD,
        say=say,
    )
    return build.cluster.connect(build.options.cluster, request)


def prepare_workers(
    connection: Connection, build: ResolvedBuild, token: str, also: Sequence[tuple[ResolvedBuild, str, int]] = ()
) -> tuple[WorkerSetup, CorpusStore]:
    """Compare the workers, open or create the corpus, and set up every worker, under the lease of this token.

    `also` has further builds that get the same volumes, each with the token of its lease and its number of replicas.

    Raises
    ------
    RequestError
        If they cannot build this corpus, which may already have been created.
    """
    machines = ask_workers(connection.client, describe_machine)
    setup, store = _setup(connection, build, token, machines)
    others = [(_setup(connection, one, its_token, machines)[0], replicas) for one, its_token, replicas in also]
    setup = replace(setup, also=tuple(others))
    try:
        install_metrics(connection.client)
        install_state(connection.client, setup.state, prepare_worker, (setup,))
    except (ValueError, OSError, RuntimeError, ImportError) as error:  # ValueError: RequestError, CheckpointError
        forget_workers(connection, setup)
        raise RequestError(f"the workers cannot be prepared: {error}") from None
    return setup, store


def _setup(
    connection: Connection, build: ResolvedBuild, token: str, machines: Mapping[str, Machine]
) -> tuple[WorkerSetup, CorpusStore]:
    options = build.options
    device = common_device(machines, build.uses_model)
    classes = common_classes(machines, device, options.allow_mixed_devices)
    recipe = build.recipe(device)
    store = open_corpus(build.root, recipe, options.overwrite, token)
    check_environment(store, classes, options)
    threads = max(connection.num_threads() // max(connection.num_workers(), 1), 1)
    setup = WorkerSetup(
        state=f"rephase-{uuid.uuid4().hex}",
        root=store.root,
        recipe=recipe,
        device=device,
        classes=classes,
        allow_mixed=options.allow_mixed_devices,
        checkpoint=None if build.checkpoint is None else build.checkpoint.path,
        bank=build.bank_path,
        batch_size=options.batch_size,
        limits=magnitude_limits(connection.memory_limit(), threads, volume_factor(recipe)),
        overwrite=options.overwrite,
        time_limit=options.time_limit,
        token=token,
        devices=count_devices(machines),
        differences=tuple(version_differences(machines)),
    )
    return setup, store


def forget_workers(connection: Connection, setup: WorkerSetup) -> None:
    """Remove the state of this run from a cluster that was running before."""
    if not connection.local and connection.client.status == "running":
        remove_state(connection.client, setup.state)


def outcome_of_dead_worker(root: str, finished: Finished[Task]) -> Outcome:
    """Return the outcome of a task whose worker died or that raised an unexpected error."""
    task = finished.item
    if finished.worker_lost:
        return _quarantined(root, task)
    message = f"{task.where}: unexpected {type(finished.error).__name__}: {finished.error}"
    return failed_outcome(task, "failed", " ".join(message.split()))


def _quarantined(root: str, task: Task) -> Outcome:
    """Return the outcome of a volume that killed a worker twice, the second time as its only task."""
    timeout = find_timeout(root, task.name)
    if timeout is not None and timeout.in_storage:
        message = (
            f"{task.where}: exceeded its time limit of {timeout.limit_s:g} s while the corpus's own storage did not "
            f"answer, in {timeout.place}; check the corpus's disk, and run the same command again"
        )
        return failed_outcome(task, "storage", message, fault="storage")
    if timeout is not None:
        message = (
            f"{task.where}: exceeded its time limit of {timeout.limit_s:g} s, as the only task of its worker, in "
            f"{timeout.place}; expected it to finish; check whether the file makes its reader hang, or run again with "
            "--retry-failed --time-limit SECONDS"
        )
        return failed_outcome(task, "timeout", message)
    message = (
        f"{task.where}: its worker died twice, the second time with no other task; expected it to fit "
        f"into memory; {RETRY_WITH_MEMORY}, or check whether the file crashes its reader"
    )
    return failed_outcome(task, "worker_lost", message)
