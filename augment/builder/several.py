"""`rephase build --phase zero,smooth,diffusion`: a corpus for each phase, from one reading of every source.

Each corpus is complete by itself. The task of a volume builds it for the first phase, and from the same reading for the
others; then each of these is built as by a run of its own, which finds its volumes committed, retries what failed, and
writes log and index. On a local disk the corpora share the file of each magnitude, by hard links.
"""

from __future__ import annotations

import filecmp
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rephase.builder.options import BuildOptions
from rephase.builder.preflight import check_exams, check_replicas, check_twins, find_corpus
from rephase.builder.run import Say, check_request, run_tasks
from rephase.builder.summary import BuildSummary
from rephase.builder.workers import prepare_workers
from rephase.corpus.layout import receipt_key, volume_prefix
from rephase.corpus.lease import Lease
from rephase.corpus.store import CorpusStore
from rephase.diffusion.phases import PHASES
from rephase.errors import VolumeError
from rephase.manifests.manifest import Manifest
from rephase.manifests.where import select
from rephase.pipeline.task import TaskList, task_list

_TARGETS = ("reconstruction_esc/", "reconstruction_rss/")


def phase_roots(root: str, phases: Sequence[str]) -> dict[str, str]:
    """Return the path or URL of the corpus of each phase: `brain-zero.zarr` for `brain.zarr`."""
    stem, dot, suffix = root.rstrip("/").rpartition(".")
    if not dot or "/" in suffix:
        stem, dot, suffix = root.rstrip("/"), "", ""
    return {phase: f"{stem}-{phase}{dot}{suffix}" for phase in phases}


def options_of(options: BuildOptions, phase: str, given: Mapping[str, Any]) -> BuildOptions:
    """Return the options of one phase, with those that it has of `given`: `checkpoint`, `steps`, `replicas`."""
    row = PHASES[phase]
    has = {"checkpoint": row.learned, "steps": row.any_steps, "replicas": row.varies}
    return replace(options, phase=phase, **{name: value for name, value in given.items() if has[name]})


def build_phases(
    manifest: Manifest, corpora: Mapping[str, BuildOptions], say: Say | None = None, progress: bool = True
) -> list[BuildSummary]:
    """Build or resume several corpora from one reading of every source.

    Parameters
    ----------
    manifest, say, progress
        As `rephase.builder.run.build`.
    corpora
        The options of each corpus by its path or URL. They differ in the phase and in what belongs to it.

    Returns
    -------
    summaries
        In the order of the corpora; after Ctrl-C or an error of all volumes, those that were begun.

    Raises
    ------
    RequestError
        If a request is invalid, or another builder holds a lease; no volume was built.
    """
    # the first one has the tasks of all: the most replicas
    roots = sorted(corpora, key=lambda root: -corpora[root].replicas)
    builds = {root: check_request(root, corpora[root]) for root in roots}
    first = corpora[roots[0]]
    rows = select(manifest, first.split, first.where)
    tasks = {root: task_list(rows, corpora[root].replicas, first.retry_failed) for root in roots}
    for root in roots:
        check_replicas(rows, corpora[root].phase)
        check_exams(rows, first.share_field_by)
        check_twins(root, tasks[root].names())
    summaries: dict[str, BuildSummary] = {}
    with ExitStack() as stack:
        leases = {root: stack.enter_context(Lease(root, first.break_lease)) for root in roots}
        also = [(builds[root], leases[root].token, corpora[root].replicas) for root in roots[1:]]
        before = {root: _versions(root, corpora[root].overwrite) for root in roots[1:]}
        for number, root in enumerate(roots):
            prepare = prepare_workers if number else partial(prepare_workers, also=also)
            summaries[root] = run_tasks(tasks[root], builds[root], leases[root], say, progress, prepare)
            if number:
                _count_new(summaries[root], before[root], tasks[root], corpora[root].overwrite)
                summaries[root].seconds += summaries[roots[0]].seconds
            if summaries[root].interrupted or summaries[root].stopped:
                break
        share_targets(list(summaries))
    return [summaries[root] for root in corpora if root in summaries]


def _versions(root: str, overwrite: bool) -> dict[str, str]:
    """Return the committed volumes of a corpus, if there is one; with a hash of each receipt if these may change."""
    store = find_corpus(root)
    if store is None:
        return {}
    return {name: _tag(store, name) if overwrite else "" for name in store.names()}


def _tag(store: CorpusStore, name: str) -> str:
    found = store.storage.get_tagged(receipt_key(name))
    return "" if found is None else found[1]


def _count_new(summary: BuildSummary, before: Mapping[str, str], tasks: TaskList, overwrite: bool) -> None:
    """Count the volumes as built that were committed with those of the first corpus: its tasks built them, too."""
    now = _versions(summary.corpus, overwrite)
    store = CorpusStore.open(summary.corpus)
    counted, summary.built, summary.skipped, summary.num_slices, summary.num_bytes = (
        summary.built + summary.skipped, 0, 0, 0, 0
    )  # fmt: skip
    for name in tasks.names():
        if name in now and now[name] != before.get(name):
            with suppress(VolumeError):  # damaged since, which the index reports
                summary.take_unseen(store.receipt(name))
    summary.skipped = max(counted - summary.built, 0)


def share_targets(roots: Sequence[str]) -> int:
    """Replace the target files of local corpora by hard links to equal ones of the first; return the bytes saved.

    Files are never changed in place, so that a corpus whose file is replaced leaves the others as they are. Where the
    file system has no hard links, or the corpora are on several, nothing is done.
    """
    stores = [CorpusStore.open(root) for root in roots]
    saved = 0
    if len(stores) < 2 or not all(store.storage.is_local for store in stores):
        return 0
    for name in stores[0].names():
        receipt = stores[0].receipt(name)
        for store in stores[1:]:
            other = store.receipt(name)
            if receipt is not None and other is not None:
                saved += _link_equal(stores[0], store, name, receipt["checksums"], other["checksums"])
    return saved


def _link_equal(
    first: CorpusStore, store: CorpusStore, name: str, digests: Mapping[str, str], others: Mapping[str, str]
) -> int:
    saved = 0
    for key, digest in digests.items():
        if not key.startswith(_TARGETS) or key.endswith("zarr.json") or others.get(key) != digest:
            continue
        ours, theirs = (Path(one.storage.root) / volume_prefix(name) / key for one in (first, store))
        try:
            before, after = ours.lstat(), theirs.lstat()
            if (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino):
                continue
            if not filecmp.cmp(ours, theirs, shallow=False):  # one was damaged since, which must not spread
                continue
            partial_path = theirs.with_name(f".{theirs.name}.{uuid.uuid4().hex}")
            os.link(ours, partial_path, follow_symlinks=False)
            partial_path.replace(theirs)
        except OSError:  # another file system, or one without hard links
            continue
        saved += after.st_size
    return saved
