"""What is known of a volume that was damaged or lost, and whether what is made now is that very volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from augment.encoding import describe_arrays, object_checksums
from augment.environment import MIXED_HELP, describe_class
from augment.errors import VolumeError
from augment.layout import group_document, plain_json, sha256
from augment.readers import hash_source
from augment.recipe import row_hash

if TYPE_CHECKING:
    from augment.workbench import Task, Workbench


@dataclass(frozen=True)
class Lost:
    """What is recorded of a volume that is to be made again.

    Attributes
    ----------
    digests
        SHA-256 of its receipt, as the index says it and as the receipt itself is; one of the two may be damaged.
    row_hash, recipe_hash, environment
        From its receipt, where that is to be relied on.
    accept
        Make it even where it will be another one than it was.
    """

    digests: tuple[str, ...] = ()
    row_hash: str | None = None
    recipe_hash: str | None = None
    environment: Mapping[str, Any] | None = None
    accept: bool = False


def receipt_digest(receipt: Mapping[str, Any]) -> str:
    """Give the SHA-256 of a receipt's document: it stands for every byte of its volume."""
    return sha256(group_document(receipt))


def check_source(task: Task, bench: Workbench) -> None:
    """Refuse a volume whose source or row is another one than before, as far as its receipt tells; nothing is read yet.

    Raises
    ------
    VolumeError
        `changed`.
    """
    lost = task.lost
    if lost is None or lost.accept or lost.row_hash is None:
        return
    if lost.recipe_hash != bench.recipe.hash:
        raise _changed(task, "was made by another recipe than the corpus names now")
    if row_hash(task.row, hash_source(task.row)) != lost.row_hash:
        raise _changed(task, "its source or its row in the manifest is not what it was made from")
    if lost.environment is not None and lost.environment != bench.environment and not bench.allow_mixed:
        there, here = describe_class(lost.environment), describe_class(bench.environment)
        raise VolumeError(
            "changed", f"{task.where}: was made on another kind of machine ({there}) than this ({here}): {MIXED_HELP}"
        )


def check_restored(
    task: Task, bench: Workbench, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
) -> None:
    """Refuse a volume that would not be byte for byte the one that was damaged or lost; nothing is written yet.

    Raises
    ------
    VolumeError
        `changed`.
    """
    lost = task.lost
    if lost is None or lost.accept or not lost.digests:
        return
    # as a commit would write it
    receipt = plain_json(attributes) | {"arrays": describe_arrays(arrays), "checksums": object_checksums(arrays)}
    if receipt_digest(receipt) in lost.digests:
        return
    if bench.allow_mixed and lost.row_hash == receipt["row_hash"] and lost.environment != bench.environment:
        return
    raise _changed(task, "what its row gives now is not what the index and its receipt record")


def _changed(task: Task, what: str) -> VolumeError:
    return VolumeError(
        "changed",
        f"{task.where}: {what}; expected the same volume as before; bring the old source, row and weights back, or "
        "accept another volume with --overwrite; nothing was replaced",
    )
