"""Check whether a volume has already been committed from the same source, row and recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from rephase.corpus.encoding import stored_facts
from rephase.corpus.layout import plain_json
from rephase.errors import CorpusStorageError, VolumeError
from rephase.facts import facts_where
from rephase.manifests.record import ManifestRow
from rephase.pipeline.environment import MIXED_HELP, describe_class
from rephase.pipeline.recipe import row_hash
from rephase.pipeline.task import Task, receipt_digest
from rephase.pipeline.worker import WorkerContext
from rephase.readers.registry import hash_source


@contextmanager
def corpus_storage() -> Iterator[None]:
    """Tell errors of the corpus's storage in a `with` block from those of a source."""
    try:
        yield
    except OSError as error:
        raise CorpusStorageError(*error.args[:2], *([error.filename] if error.filename else [])) from error


def check_source(task: Task, worker: WorkerContext) -> None:
    """Check, before reading pixels, that the source and row of a volume are those recorded in its receipt.

    Raises
    ------
    VolumeError
        `changed`.
    """
    expected = task.expected
    if expected is None or expected.accept or expected.row_hash is None:
        return
    if expected.recipe_hash != worker.recipe.hash:
        raise _changed(task, "was built by another recipe than that of the corpus")
    if row_hash(task.row, hash_source(task.row)) != expected.row_hash:
        raise _changed(task, "its source or its manifest row differs from those that it was built from")
    if expected.environment is not None and expected.environment != worker.environment and not worker.allow_mixed:
        before, now = describe_class(expected.environment), describe_class(worker.environment)
        raise VolumeError(
            "changed", f"{task.where}: was built on another kind of machine ({before}) than this ({now}): {MIXED_HELP}"
        )


def check_restored(
    task: Task, worker: WorkerContext, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
) -> None:
    """Check, before anything is written, that a rebuilt volume has the same bytes as the damaged one.

    Raises
    ------
    VolumeError
        `changed`.
    """
    expected = task.expected
    if expected is None or expected.accept or not expected.digests:
        return
    # as a commit would write it
    receipt = plain_json(attributes) | stored_facts(arrays, attributes)
    if receipt_digest(receipt) in expected.digests:
        return
    if worker.allow_mixed and expected.row_hash == receipt["row_hash"] and expected.environment != worker.environment:
        return
    raise _changed(task, "the rebuilt volume differs from what the index and its receipt record")


def _changed(task: Task, what: str) -> VolumeError:
    return VolumeError(
        "changed",
        f"{task.where}: {what}; expected the same volume as before; restore the old source, row and weights, or "
        "accept another volume with --overwrite; nothing was replaced",
    )


def find_committed(task: Task, worker: WorkerContext) -> dict[str, Any] | None:
    """Return the receipt of a volume that is committed; None if it must be built.

    Raises
    ------
    VolumeError
        `changed`: it was committed from another source, row or recipe, and must not be overwritten.
    """
    if task.expected is not None:
        check_source(task, worker)
        return None
    try:
        with corpus_storage():
            receipt = worker.store.receipt(task.name)
    except VolumeError:
        if worker.overwrite:
            return None
        raise
    if receipt is None:
        return None
    source_sha256 = hash_source(task.row)
    same_recipe = receipt.get("recipe_hash") == worker.recipe.hash
    if same_recipe and receipt.get("row_hash") == row_hash(task.row, source_sha256):
        return receipt
    if worker.overwrite:
        return None
    raise VolumeError("changed", _explain_change(task, receipt, source_sha256, same_recipe))


def _explain_change(task: Task, receipt: dict[str, Any], source_sha256: str, same_recipe: bool) -> str:
    found = []
    if not same_recipe:
        found.append("another recipe")
    if receipt.get("source_sha256") != source_sha256:
        found.append("other bytes of the source")
    elif same_recipe:
        found.append("another manifest row" + _changed_columns(task.row, receipt))
    return (
        f"{task.where}: was committed from {' and '.join(found)}; expected the same as before; rebuild it with "
        "--overwrite, or build into another corpus"
    )


def _changed_columns(row: ManifestRow, receipt: dict[str, Any]) -> str:
    """List the columns whose value in the receipt differs from the row."""
    columns = facts_where(in_manifest=True, in_receipt=True)
    changed = [
        f"{name}: corpus has {receipt.get(name)!r}, requested {getattr(row, name)!r}"
        for name in columns
        if getattr(row, name) is not None and getattr(row, name) != receipt.get(name)
    ]
    patient_id = row.subject_id or row.volume_id
    if patient_id != receipt.get("patient_id"):
        changed.append(f"subject_id: corpus has {receipt.get('patient_id')!r}, requested {patient_id!r}")
    return f" ({'; '.join(changed)})" if changed else ""
