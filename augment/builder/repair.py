"""`rephase repair`: rebuild only the damaged volumes of a corpus, byte for byte, and rewrite its documents."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from rephase.builder.options import BuildOptions, read_columns
from rephase.builder.provenance import (
    logged_receipts,
    logged_recipes,
    options_of,
    recorded_manifest,
    root_attributes,
)
from rephase.builder.run import Say, check_request, run_tasks
from rephase.builder.runlog import Failure
from rephase.builder.summary import RepairSummary
from rephase.corpus.index import INDEX_KEY, read_index
from rephase.corpus.index_writer import read_names, write_index
from rephase.corpus.layout import group_document
from rephase.corpus.lease import Lease
from rephase.corpus.receipt import check_receipt, is_volume_name
from rephase.corpus.storage.open import open_storage
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import ROOT_KEY, VOLUMES_KEY, verify_store
from rephase.diffusion.checkpoint import Checkpoint
from rephase.errors import RequestError, VolumeError, unwritable
from rephase.manifests.errors import ManifestError
from rephase.manifests.manifest import Manifest
from rephase.manifests.parse import read_manifest
from rephase.manifests.record import ManifestRow
from rephase.pipeline.task import (
    ExpectedVolume,
    Outcome,
    Task,
    TaskList,
    lasting_path,
    receipt_digest,
    requested_names,
    stated_pixels,
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RepairOptions:
    """The options of a repair.

    Attributes
    ----------
    manifest
        Path of the manifest that lists the sources; None uses that of the latest run in the run log.
    checkpoint
        Weights; None tries those that are installed and those in the run log.
    dry_run
        Report the planned changes without making any.
    delete_unexpected
        Delete orphan objects, which belong to no volume of the corpus.
    build
        Cluster, and whether rebuilt volumes may differ from the damaged ones (`overwrite`); options that change
        bytes come from the recipe of the corpus.
    """

    manifest: str | None = None
    checkpoint: Path | None = None
    dry_run: bool = False
    delete_unexpected: bool = False
    build: BuildOptions = field(default_factory=BuildOptions)


def repair_corpus(
    root: str,
    options: RepairOptions,
    say: Say | None = None,
    progress: Progress | None = None,
    bar: bool = True,
) -> RepairSummary:
    """Check a corpus and repair only its damaged parts.

    Parameters
    ----------
    root
        Path or URL of the corpus.
    options
        Options of the repair.
    say
        Called with lines of progress, as in `rephase.builder.run.build`.
    progress
        Called with (volumes done, volumes in all) while the corpus is checked.
    bar
        Show a progress bar while volumes are rebuilt.

    Raises
    ------
    RequestError
        If there is no corpus, a builder holds its lease, or the manifest or weights are missing; no volume was changed.
    """
    root = open_storage(root).root
    if options.dry_run:
        return _Repair(root, options, progress).summary
    root_attributes(open_storage(root))  # check that the corpus exists before anything is written next to it
    with Lease(root, options.build.break_lease) as lease:
        repair = _Repair(root, options, progress, lease.token)
        try:
            repair.run(lease, say, bar)
        except OSError as error:
            raise unwritable(root, error) from None
    return repair.summary


class _Repair:
    """One repair: the problems found, the records of the damaged volumes, and the steps of the repair."""

    def __init__(self, root: str, options: RepairOptions, progress: Progress | None, token: str = "") -> None:
        self._options = options
        attributes, self._recovered = root_attributes(open_storage(root))
        self._store = CorpusStore(open_storage(root, token), attributes, token)
        self._found = verify_store(self._store, progress=progress)
        found = self._found
        self._lost = {} if self._has_index else self._find_lost()
        damaged = [*found.damaged, *self._lost]
        documents = [ROOT_KEY, *found.documents] if self._recovered else found.documents
        problems = [("", f"{ROOT_KEY}: is damaged"), *found.problems] if self._recovered else found.problems
        what = "is lost: without an index, the log, the manifest or its folder shows that it was there"
        problems = [*problems, *((name, what) for name in self._lost)]
        self.summary = RepairSummary(
            root,
            num_volumes=found.num_volumes,
            problems=problems,
            damaged=damaged,
            documents=list(dict.fromkeys(documents)),
            unexpected=found.unexpected,
            twins=found.twins,
            dry_run=options.dry_run,
        )
        self._manifest, self._path = self._read_manifest()
        self._build, self._checkpoint = self._build_options() if damaged else (options.build, None)
        self._expected = {name: self._record(name) for name in damaged}
        self._tasks = self._make_tasks()

    def _read_manifest(self) -> tuple[Manifest | None, str]:
        """Read the manifest, which also determines the index order; it may be missing if no volume is damaged."""
        path = self._options.manifest or recorded_manifest(self._store.root)
        if path is None:
            if self.summary.damaged:
                raise RequestError(
                    f"{self._store.root}: {len(self.summary.damaged)} damaged volumes, the first is "
                    f"{self.summary.damaged[0]}; expected a manifest in the run log, which names none; give --manifest"
                )
            return None, ""
        try:
            return read_manifest(path, self._columns), lasting_path(path)
        except ManifestError:
            if self.summary.damaged or self._options.manifest:
                raise
            return None, ""

    @cached_property
    def _has_index(self) -> bool:
        try:
            read_index(self._store.root, attributes=self._store.attributes)
        except (RequestError, TypeError):
            return False
        return True

    def _find_lost(self) -> dict[str, str | None]:
        """Return the volumes that are known without an index and not committed, and the SHA-256 of their receipts."""
        known = logged_receipts(self._store.root)
        if not known:  # the log is lost, too: what is left of a volume, and what the manifest requests, must do
            known = dict.fromkeys(name for name in self._found.unfinished if is_volume_name(name))
            if self._options.manifest is not None:
                manifest = read_manifest(self._options.manifest, self._columns)
                known |= dict.fromkeys(requested_names(manifest, self._options.build.replicas))
        there = {*self._store.names(), *self._found.damaged}
        return {name: digest for name, digest in known.items() if name not in there}

    @property
    def _columns(self) -> tuple[str, ...]:
        recipe = self._store.attributes["recipe"]
        return read_columns(recipe.get("keep_columns", ()), recipe.get("share_field_by"))

    def _build_options(self) -> tuple[BuildOptions, Checkpoint | None]:
        recipe, checkpoint = options_of(self._store.attributes, self._options.checkpoint, self._store.root)
        return replace(self._options.build, **recipe), checkpoint

    def _record(self, name: str) -> ExpectedVolume:
        """Return the recorded facts of a volume, from the index and, if readable, the receipt."""
        digest = self._index_digests.get(name)
        try:
            receipt = self._store.receipt(name)
            own = None if receipt is None or check_receipt(receipt) else receipt_digest(receipt)
        except (VolumeError, ValueError, TypeError, ArithmeticError):
            receipt, own = None, None
        digests = tuple(one for one in (digest, own, self._lost.get(name)) if one is not None)
        expected = ExpectedVolume(digests, accept=self._build.overwrite)
        if receipt is None or own is None or digest not in (None, own):
            return expected
        return replace(
            expected,
            row_hash=receipt["row_hash"],
            recipe_hash=receipt["recipe_hash"],
            environment=receipt["environment"],
        )

    @cached_property
    def _index_digests(self) -> dict[str, str]:
        try:
            rows = read_index(self._store.root, check=False, attributes=self._store.attributes).rows()
            return {row["name"]: row["receipt_sha256"] for row in rows if isinstance(row["receipt_sha256"], str)}
        except (RequestError, TypeError):
            return {}

    def _make_tasks(self) -> dict[str, Task]:
        """Find the row of every damaged volume; a volume without one fails."""
        rows: dict[str, ManifestRow] = {}
        wanted = {name.partition("@")[0] for name in self._expected}
        for row in self._manifest or ():
            if row.volume_id in wanted:
                rows[row.volume_id] = row
        tasks = {}
        for name, expected in self._expected.items():
            volume_id, _, replica = name.partition("@")
            if volume_id in rows and replica.isascii() and (replica.isdigit() or not replica):
                tasks[name] = Task(rows[volume_id], int(replica or 0), expected)
            else:
                message = (
                    f"volume {name}: has no row in {self._path}; expected one; give the manifest that it was built from"
                )
                self.summary.failed[name] = Failure("missing", f"{message} with --manifest", "", "")
        return tasks

    def run(self, lease: Lease, say: Say | None, bar: bool) -> None:
        """Rewrite documents, optionally delete orphan objects, rebuild the damaged volumes and write the index."""
        if ROOT_KEY in self.summary.documents:
            self._store.write_attributes(self._store.attributes)
        if VOLUMES_KEY in self.summary.documents:
            self._store.storage.put(VOLUMES_KEY, group_document({}))
        if self._options.delete_unexpected:
            for key in self.summary.unexpected:
                self._store.storage.delete_tree(key)
                self.summary.removed.append(key)
        if not self._has_index:  # before anything else writes it: only here, the recipes of earlier builds count
            write_index(self._store, self._order(), logged_recipes(self._store.root))
        if self._tasks:
            self._rebuild(lease, say, bar)
        elif INDEX_KEY in self.summary.documents:
            write_index(self._store, self._order())

    def _rebuild(self, lease: Lease, say: Say | None, bar: bool) -> None:
        resolved = check_request(self._store.root, self._build, self._checkpoint)
        order = self._order()
        tasks = TaskList(
            num_volumes=len(self._tasks),
            names=lambda: iter(self._tasks),
            order=lambda: iter(order),
            tasks=lambda: iter(self._tasks.values()),
            retry_failed=True,
            manifest=self._path,
            pixels=array("d", (stated_pixels(task.row) for task in self._tasks.values())),
            seen=self._take,
        )
        done = run_tasks(tasks, resolved, lease, say, bar)
        self.summary.failed |= done.failed
        for name in done.vanished:
            self.summary.failed[name] = Failure(
                "missing", f"volume {name}: was rebuilt, but its receipt is missing again", "", ""
            )
        self.summary.interrupted, self.summary.stopped = done.interrupted, done.stopped

    def _take(self, outcome: Outcome) -> None:
        if outcome.status != "built" or outcome.receipt is None:
            return
        same = receipt_digest(outcome.receipt) in self._expected[outcome.name].digests
        (self.summary.restored if same else self.summary.replaced).append(outcome.name)

    def _order(self) -> list[str]:
        """Return the volume names in index order: the present index's if complete, else the manifest's."""
        names = {*self._store.names(), *self._tasks}
        present = list(read_names(self._store.storage))
        if self._manifest is None or names <= set(present):
            return present
        place = {row.volume_id: number for number, row in enumerate(self._manifest)}
        known = [name for name in names if name.partition("@")[0] in place]

        def key(name: str) -> tuple[int, int]:
            volume_id, _, replica = name.partition("@")
            return place[volume_id], int(replica or 0)

        return sorted(known, key=key)
