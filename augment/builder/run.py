"""`rephase build`: run one task per volume on a Dask cluster, log the outcomes and write the index."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from functools import partial

from tqdm import tqdm

from rephase.builder.option_files import note_options
from rephase.builder.options import BuildOptions
from rephase.builder.preflight import check_exams, check_recipe, check_replicas, check_twins, find_corpus, split_failed
from rephase.builder.request import note_request
from rephase.builder.resolve import ResolvedBuild, resolve_build
from rephase.builder.run_progress import RunProgress
from rephase.builder.runlog import RunLog
from rephase.builder.summary import BuildSummary
from rephase.builder.workers import (
    WorkerSetup,
    connected,
    forget_workers,
    outcome_of_dead_worker,
    prepare_workers,
    run_task,
)
from rephase.cluster.connect import Connection
from rephase.cluster.errors import ClusterError
from rephase.cluster.interrupts import interrupts_held
from rephase.cluster.kinds import check_access, is_open
from rephase.cluster.monitor import ProgressReporter
from rephase.cluster.window import Finished, run_window
from rephase.corpus.index_writer import IndexBuilder
from rephase.corpus.lease import Lease
from rephase.corpus.storage.base import run_folder
from rephase.corpus.store import CorpusStore
from rephase.diffusion.checkpoint import Checkpoint
from rephase.diffusion.devices import choose_device
from rephase.errors import LeaseLostError, is_disk_full, unwritable
from rephase.manifests.manifest import Manifest
from rephase.manifests.where import select
from rephase.pipeline.recipe import row_fingerprint
from rephase.pipeline.task import Outcome, Task, TaskList, task_list
from rephase.pipeline.timeout import clear_timeouts
from rephase.redaction import redact

INDEX_EVERY_S = 60.0
_SHOWN_FAILURES = 10
_MOST_STORAGE_FAULTS = 8
"""Volumes in a row that fail because of the corpus's own storage, after which a run stops."""

Say = Callable[[str], None]
Prepare = Callable[[Connection, ResolvedBuild, str], tuple[WorkerSetup, CorpusStore]]


def build(
    manifest: Manifest, root: str, options: BuildOptions, say: Say | None = None, progress: bool = True
) -> BuildSummary:
    """Build the volumes of a manifest into a corpus, or resume a build.

    Parameters
    ----------
    manifest
        A validated manifest.
    root
        Path or URL of the corpus.
    options
        Options of the build.
    say
        Receives lines for the user during the build, such as the dashboard's address; standard error if None.
    progress
        Show a progress bar on standard error.

    Returns
    -------
    summary
        Also returned after Ctrl-C, with `interrupted` set; committed volumes remain.

    Raises
    ------
    RequestError
        If the request is invalid, another builder holds the lease, or the workers cannot build it; no volume was built.
    """
    root = root.rstrip("/") or root
    resolved = check_request(root, options)
    manifest = select(manifest, options.split, options.where)
    check_replicas(manifest, options.phase)
    check_exams(manifest, options.share_field_by)
    tasks = task_list(manifest, options.replicas, options.retry_failed)
    check_twins(root, tasks.names())
    with Lease(root, options.break_lease) as lease:
        return run_tasks(tasks, resolved, lease, say, progress)


def check_request(root: str, options: BuildOptions, checkpoint: Checkpoint | None = None) -> ResolvedBuild:
    """Check the request as far as possible before starting any process, and resolve the options.

    Parameters
    ----------
    root, options
        As in `build`.
    checkpoint
        The weights, if already loaded.

    Raises
    ------
    RequestError
        If the request is invalid.
    """
    check_access(options.cluster, options.insecure)
    store = find_corpus(root)
    resolved = resolve_build(root, options, checkpoint, store)
    if store is not None and options.cluster == "local":  # the device is known, so no worker need be started for this
        check_recipe(store, resolved.recipe(choose_device() if resolved.uses_model else "cpu"), options.overwrite)
    return resolved


def run_tasks(
    tasks: TaskList,
    build: ResolvedBuild,
    lease: Lease,
    say: Say | None = None,
    progress: bool = True,
    prepare: Prepare = prepare_workers,
) -> BuildSummary:
    """Run tasks on the cluster of `--cluster` while the lease is held; as `build`.

    `prepare` sets up the workers.
    """
    say = say or _say
    for line in build.notes():
        say(line)
    if is_open(build.options.cluster):
        say(f"{build.options.cluster}: not encrypted and not authenticated, as --insecure allows")
    clear_timeouts(build.root)
    with ExitStack() as stack:
        with connected(build, say) as connection:
            setup, store = prepare(connection, build, lease.token)
            say(f"dashboard: {connection.dashboard}")
            for line in setup.lines():
                say(line)
            run = stack.enter_context(_Run(tasks, setup, store, build.options, connection, lease, say, progress))
            try:
                summary = run.go()
            finally:
                forget_workers(connection, setup)
        run.finish()  # workers that were stopped have committed their last volume by now
    clear_timeouts(build.root, keep_dumps=True)
    return summary


class _Run:
    """One run over the tasks: counts, logs, displays and indexes their outcomes."""

    def __init__(
        self,
        tasks: TaskList,
        setup: WorkerSetup,
        store: CorpusStore,
        options: BuildOptions,
        connection: Connection,
        lease: Lease,
        say: Say,
        progress: bool,
    ) -> None:
        self._task_list = tasks
        self._setup = setup
        self._store = store
        self._options = options
        self._connection = connection
        self._lease = lease
        self._say = say
        self._summary = BuildSummary(setup.root, tasks.num_volumes)
        self._indexed = time.monotonic()
        self._index_every = INDEX_EVERY_S
        self._finished = False
        self._storage_faults = 0
        try:
            self._index = IndexBuilder(self._store)
            self._log = RunLog(setup.root, self._facts(), lease.token, options.log_paths)
            places = {"checkpoints": setup.checkpoint, "banks": setup.bank}
            note_request(setup.root, self._task_list.manifest, places, lease.token)
            note_options(setup.root, options, lease.token)
            # a repair, which wants to see outcomes, rebuilds committed volumes
            committed = set() if options.overwrite or tasks.seen is not None else set(store.names())
        except OSError as error:
            raise unwritable(setup.root, error) from None
        reporter = ProgressReporter(connection.client, setup.state, say)
        num_workers = connection.num_workers()
        self._progress = RunProgress(
            tasks, committed, num_workers, reporter, setup.root, self._log.name, lease.token, progress
        )

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()
        with suppress(OSError):  # a full disk, which the summary reports
            self._log.close()

    def go(self) -> BuildSummary:
        """Run all tasks; Ctrl-C stops early and cleanly."""
        start = time.monotonic()
        work = partial(run_task, self._setup.state)
        try:
            finished_ones = run_window(
                self._connection,
                work,
                self._tasks(),
                lambda task: task.name,
                is_suspect=self._is_suspect,
                suspect=lambda task: self._log.strike(*self._identity(task)),
            )
            for finished in finished_ones:
                if finished is not None:
                    self._take(finished)
                self._progress.tick(self._report)
                self._lease.check()
                self._refresh_index()
                if self._summary.stopped:
                    break
        except KeyboardInterrupt:
            self._summary.interrupted = True
            _kill_on_next_interrupt()
            self._say("interrupted: stopping the workers; committed volumes stay")
        except ClusterError as error:
            self._summary.stopped = str(error)
        except OSError as error:
            self._summary.stopped = self._describe_unwritten(error)
        self._summary.seconds = time.monotonic() - start
        if not self._summary.interrupted:
            self._progress.tick(lambda: {**self._report(), "ended": self._summary.stopped or "ended"}, at_once=True)
        self._progress.close()
        return self._summary

    def _report(self) -> dict[str, object]:
        """Return what the dashboard shows besides the progress."""
        summary = self._summary
        last = [(name, self._log.failures[name]) for name in list(summary.failed)[-_SHOWN_FAILURES:]]
        return {
            "corpus": corpus_name(summary.corpus),
            "last_failures": [(name, failure.reason, failure.message) for name, failure in reversed(last)],
            "ended": "",
        }

    def finish(self) -> None:
        """Write the index and the last line of the log; later calls have no effect."""
        if not self._finished:
            self._finished = True
            try:
                self._index.write(self._task_list.order())
                if self._summary.num_open:
                    self._count_missed()
                self._summary.vanished = self._index.vanished()
                self._summary.unreadable = sorted(self._index.damaged - self._summary.failed.keys())
                self._summary.foreign = sorted(self._index.foreign)
                self._summary.sort(self._task_list.names())
                self._log.end(self._public_summary())
            except OSError as error:  # a full disk: committed volumes remain, and the next run writes the index
                self._summary.stopped = self._summary.stopped or self._describe_unwritten(error)

    def _describe_unwritten(self, error: OSError) -> str:
        fix = "free space and run" if is_disk_full(error) else "run"
        where = error.filename or run_folder(self._setup.root)
        return f"{where}: {error.strerror or error}; {fix} the same command again"

    def _public_summary(self) -> dict[str, object]:
        """Return the summary for the log: without paths, unless they are asked for."""
        summary, root = self._summary, self._setup.root
        stopped = summary.stopped if summary.stopped is None else redact(summary.stopped, (root,), corpus_name(root))
        public = replace(summary, corpus=corpus_name(root), stopped=stopped)
        public.failed = {name: self._log.failures.get(name, one) for name, one in summary.failed.items()}
        return summary.to_json() if self._options.log_paths else public.to_json()

    def _count_missed(self) -> None:
        """Count committed volumes whose outcome was not received, because the run ended first."""
        summary = self._summary
        for name, before in self._index.unseen(self._task_list.names()):
            if name not in summary.failed and name not in summary.not_retried:
                summary.take_unseen(None if before else self._store.receipt(name))

    def _facts(self) -> dict[str, object]:
        setup = self._setup
        return {
            "num_volumes": self._task_list.num_volumes,
            "num_slices": self._task_list.num_slices,
            "recipe_hash": setup.recipe.hash,
            "recipe": setup.recipe.to_json(),
            "environments": setup.classes,
            "devices": setup.devices,
            "num_workers": self._connection.num_workers(),
            "num_threads": self._connection.num_threads(),
            "limits": asdict(setup.limits),
            "cluster": self._options.cluster.partition(":")[0],
        }

    def _tasks(self) -> Iterator[Task]:
        not_retried: list[Task] = []

        def keep(tasks: Iterator[Task]) -> Iterator[Task]:
            if self._task_list.retry_failed:
                return tasks
            return split_failed(tasks, dict(self._log.failures), self._setup.recipe, not_retried)

        return self._note_not_retried(self._progress.drawn(self._task_list.tasks(), keep), not_retried)

    def _note_not_retried(self, kept: Iterator[Task], not_retried: list[Task]) -> Iterator[Task]:
        yield from kept
        self._summary.not_retried = {task.name: self._log.failures[task.name] for task in not_retried}

    def _take(self, finished: Finished[Task]) -> None:
        task = finished.item
        outcome: Outcome = (
            finished.value if finished.error is None else outcome_of_dead_worker(self._setup.root, finished)
        )
        summary = self._summary
        with interrupts_held():  # between the two, the volume would be counted again as one that was missed
            summary.take(outcome)
            if outcome.receipt is not None:
                self._index.add(outcome.name, outcome.receipt)
        self._progress.finish(outcome)
        if self._task_list.seen is not None:
            self._task_list.seen(outcome)
        if outcome.fault == "lease":
            raise LeaseLostError(self._setup.root)
        if outcome.fault == "disk_full":
            summary.stopped = f"{outcome.message}; free space and run the same command again"
            return
        self._storage_faults = self._storage_faults + 1 if outcome.fault == "storage" else 0
        if outcome.fault == "storage":
            summary.failed[outcome.name] = self._log.record_fault(outcome, self._setup.recipe.hash)
            if self._storage_faults >= _MOST_STORAGE_FAULTS:
                summary.stopped = f"the corpus's storage failed {self._storage_faults} times in a row"
            return
        fingerprint = row_fingerprint(task.row) if outcome.status == "failed" else ""
        self._log.record(outcome, fingerprint, self._setup.recipe.hash, task.row.line)
        if outcome.status == "failed":
            summary.failed[outcome.name] = replace(self._log.failures[outcome.name], message=outcome.message or "")

    def _is_suspect(self, task: Task) -> bool:
        return task.name in self._log.strikes and self._log.has_strike(*self._identity(task))

    def _identity(self, task: Task) -> tuple[str, str, str]:
        return task.name, row_fingerprint(task.row), self._setup.recipe.hash

    def _refresh_index(self) -> None:
        """Write the index at intervals, in at most 5 % of the time, so that a growing corpus can be loaded."""
        start = time.monotonic()
        if start - self._indexed < self._index_every:
            return
        self._index.write(self._task_list.order())
        self._indexed = time.monotonic()
        self._index_every = max(INDEX_EVERY_S, 20 * (self._indexed - start))


def corpus_name(root: str) -> str:
    """Return the name of a corpus without the folders above it."""
    return root.rstrip("/").rpartition("/")[2]


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _kill_on_next_interrupt() -> None:
    """Exit at once on the next Ctrl-C; worker processes detect this and exit too."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
