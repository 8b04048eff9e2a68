"""What is checked and counted before a build starts anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rephase.builder.options import BuildOptions, same_phase
from rephase.builder.resolve import describe_differences
from rephase.builder.runlog import Failure
from rephase.corpus.storage.open import open_storage
from rephase.corpus.store import CorpusStore
from rephase.diffusion.phases import PHASES
from rephase.errors import RequestError, VolumeError, unwritable
from rephase.manifests.manifest import Manifest
from rephase.pipeline.environment import MIXED_HELP, describe_class
from rephase.pipeline.recipe import Recipe, row_fingerprint
from rephase.pipeline.task import Task


def corpus_exists(root: str) -> bool:
    """Tell whether something was begun there."""
    return open_storage(root).exists("zarr.json")


def check_place(root: str) -> None:
    """Check that a corpus lies there or can be made there, as far as looking tells.

    Raises
    ------
    RequestError
        If a file or a folder with something else lies there, or it cannot be looked at.
    """
    try:
        storage = open_storage(root)
        if storage.exists("zarr.json"):
            return
        if storage.is_local and Path(storage.root).is_file():
            raise RequestError(f"{root}: is a file; expected a corpus or a path where there is nothing yet")
        foreign = [name for name in storage.children("") if name not in ("index", "volumes")]
    except OSError as error:
        raise unwritable(root, error) from None
    if foreign:
        raise RequestError(
            f"{root}: no corpus, and not empty ({foreign[0]}); expected a corpus or a path where there is nothing yet"
        )


def check_corpus(root: str, recipe: Recipe, overwrite: bool) -> None:
    """Check that a corpus that is there already was made by the same recipe.

    Raises
    ------
    RequestError
        If it was not and is not to be overwritten; the message lists the options that differ. As `check_place`, too.
    """
    check_place(root)
    if not corpus_exists(root):
        return
    attributes = CorpusStore.open(root).attributes
    if attributes.get("recipe_hash") == recipe.hash or overwrite:
        return
    there = attributes.get("recipe")
    differences = describe_differences(there if isinstance(there, dict) else {}, recipe.to_json())
    lines = [f"{root}: this corpus was made by another recipe:", *(f"  {line}" for line in differences)]
    raise RequestError("\n".join([*lines, "give the same options, build into another corpus, or --overwrite this one"]))


def open_corpus(root: str, recipe: Recipe, overwrite: bool) -> CorpusStore:
    """Open the corpus, or create it where there is none.

    Raises
    ------
    RequestError
        As `check_corpus`, or if it cannot be read or written.
    """
    try:
        check_corpus(root, recipe, overwrite)
        if not corpus_exists(root):
            return CorpusStore.create(root, recipe.attributes())
        store = CorpusStore.open(root)
        if store.attributes.get("recipe_hash") != recipe.hash:
            store.write_attributes(recipe.attributes())
    except OSError as error:
        raise unwritable(root, error) from None
    return store


def check_environment(store: CorpusStore, classes: list[dict[str, str]], options: BuildOptions) -> None:
    """Check that a corpus is carried on by machines like those that began it; one of its volumes is looked at.

    Raises
    ------
    RequestError
        If they differ and mixed ones are not allowed.
    """
    if options.allow_mixed_devices or options.overwrite:
        return
    try:
        receipt = next((found for name in store.names()[:1] if (found := store.receipt(name)) is not None), None)
    except VolumeError:
        return  # damaged; the volume's own task says so
    environment = None if receipt is None else receipt.get("environment")
    if isinstance(environment, dict) and environment not in classes:
        raise RequestError(
            f"{store.root}: was begun by workers of another kind ({describe_class(environment)}) than these "
            f"({describe_class(classes[0])}): {MIXED_HELP}"
        )


def check_replicas(manifest: Manifest, phase: str | None) -> None:
    """Check that no row asks for replicas of a phase that does not vary.

    Raises
    ------
    RequestError
        With the first such row.
    """
    if phase is None or PHASES[phase].varies or "replicas" not in manifest.columns:
        return
    for row in manifest:
        if (row.replicas or 1) > 1:
            raise RequestError(f"{manifest.path}:{row.line}: replicas is {row.replicas}: {same_phase(phase)}")


def split_failed(
    tasks: Iterator[Task], failures: Mapping[str, Failure], recipe: Recipe, not_retried: list[Task]
) -> Iterator[Task]:
    """Leave out what failed in an earlier run with the same row and recipe; what is left out is added to `not_retried`.

    What had `changed` is looked at again: that is cheap, and `--overwrite` or the old source mends it.
    """
    for task in tasks:
        failure = failures.get(task.name)
        if (
            failure
            and failure.reason != "changed"
            and (failure.row, failure.recipe_hash) == (row_fingerprint(task.row), recipe.hash)
        ):
            not_retried.append(task)
        else:
            yield task
