"""Is a volume committed already, and from the very same source, row and recipe?"""

from __future__ import annotations

from typing import Any

from augment.errors import VolumeError
from augment.readers import hash_source
from augment.recipe import row_hash
from augment.restore import check_source
from augment.workbench import Task, Workbench
from manifests.record import ManifestRow


def find_committed(task: Task, bench: Workbench) -> dict[str, Any] | None:
    """Give the receipt of a volume that needs no work; None where it must be built.

    Raises
    ------
    VolumeError
        `changed`: committed from another source, row or recipe, and not to be overwritten.
    """
    if task.lost is not None:
        check_source(task, bench)
        return None
    try:
        receipt = bench.store.receipt(task.name)
    except VolumeError:
        if bench.overwrite:
            return None
        raise
    if receipt is None:
        return None
    source_sha256 = hash_source(task.row)
    same_recipe = receipt.get("recipe_hash") == bench.recipe.hash
    if same_recipe and receipt.get("row_hash") == row_hash(task.row, source_sha256):
        return receipt
    if bench.overwrite:
        return None
    raise VolumeError("changed", _explain_change(task, receipt, source_sha256, same_recipe))


def _explain_change(task: Task, receipt: dict[str, Any], source_sha256: str, same_recipe: bool) -> str:
    found = []
    if not same_recipe:
        found.append("another recipe")
    if receipt.get("source_sha256") != source_sha256:
        found.append("other bytes of its source")
    elif same_recipe:
        found.append("another manifest row" + _changed_columns(task.row, receipt))
    return (
        f"{task.where}: was committed from {' and '.join(found)}; expected the same as before; make it again with "
        "--overwrite, or build into another corpus"
    )


def _changed_columns(row: ManifestRow, receipt: dict[str, Any]) -> str:
    """Name the columns whose value in the receipt is another than in the row, as far as the receipt shows them."""
    columns = ("split", "anatomy", "contrast", "field_t", "te_ms", "licence")
    changed = [
        f"{name}: {receipt.get(name)!r} there, {getattr(row, name)!r} asked"
        for name in columns
        if getattr(row, name) is not None and getattr(row, name) != receipt.get(name)
    ]
    patient_id = row.subject_id or row.volume_id
    if patient_id != receipt.get("patient_id"):
        changed.append(f"subject_id: {receipt.get('patient_id')!r} there, {patient_id!r} asked")
    return f" ({'; '.join(changed)})" if changed else ""
