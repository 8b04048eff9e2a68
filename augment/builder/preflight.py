"""Checks before a build starts: the corpus and its recipe, the machines that built it, replicas, earlier failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rephase.builder.options import BuildOptions, equal_replicas
from rephase.builder.resolve import describe_differences
from rephase.builder.runlog import Failure
from rephase.corpus.layout import parse_attributes
from rephase.corpus.storage.open import open_storage
from rephase.corpus.store import CorpusStore
from rephase.diffusion.phases import PHASES
from rephase.errors import RequestError, VolumeError, unwritable
from rephase.manifests.manifest import Manifest
from rephase.pipeline.environment import MIXED_HELP, describe_class
from rephase.pipeline.recipe import Recipe, row_fingerprint
from rephase.pipeline.sampling import exam_of
from rephase.pipeline.task import Task

_SHOWN_TWINS = 5


def find_corpus(root: str, token: str = "") -> CorpusStore | None:
    """Open the corpus; return None if one can be created, as far as can be checked without writing.

    It can be written under the lease of `token`.

    Raises
    ------
    RequestError
        If the path is a file or a folder with other content, or cannot be read.
    """
    try:
        storage = open_storage(root, token)
        if (document := storage.get("zarr.json")) is not None:
            return CorpusStore(storage, parse_attributes(storage, document), token)
        if storage.is_local and Path(storage.root).is_file():
            raise RequestError(f"{root}: is a file; expected a corpus or an empty path; choose another path")
        foreign = [name for name in storage.children("") if name not in ("index", "volumes")]
    except OSError as error:
        raise unwritable(root, error) from None
    if foreign:
        raise RequestError(
            f"{root}: not a corpus, and not empty ({foreign[0]}); expected a corpus or an empty path; choose another"
        )
    return None


def check_recipe(store: CorpusStore, recipe: Recipe, overwrite: bool) -> None:
    """Check that a corpus was built by this recipe, unless it may be overwritten.

    Raises
    ------
    RequestError
        If not; the message lists the options that differ.
    """
    if overwrite or store.attributes.get("recipe_hash") == recipe.hash:
        return
    found = store.attributes.get("recipe")
    differences = describe_differences(found if isinstance(found, dict) else {}, recipe.to_json())
    raise RequestError(
        "\n".join(
            [
                f"{store.root}: this corpus was built by another recipe:",
                *(f"  {line}" for line in differences),
                "give the same options, build into another corpus, or rebuild this one with --overwrite",
            ]
        )
    )


def open_corpus(root: str, recipe: Recipe, overwrite: bool, token: str = "") -> CorpusStore:
    """Open the corpus, or create it, under the lease of this token.

    Raises
    ------
    RequestError
        As `find_corpus` and `check_recipe`, or if it cannot be written.
    """
    store = find_corpus(root, token)
    try:
        if store is None:
            return CorpusStore.begin(open_storage(root, token), recipe.attributes(), token)
        check_recipe(store, recipe, overwrite)
        if store.attributes.get("recipe_hash") != recipe.hash:
            store.write_attributes(recipe.attributes())
    except OSError as error:
        raise unwritable(root, error) from None
    return store


def check_environment(store: CorpusStore, classes: list[dict[str, str]], options: BuildOptions) -> None:
    """Check that a corpus is resumed on machines of the same type, by the receipt of one volume.

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
        return  # damaged; the task of that volume reports it
    environment = None if receipt is None else receipt.get("environment")
    if isinstance(environment, dict) and environment not in classes:
        raise RequestError(
            f"{store.root}: built so far on another kind of machine ({describe_class(environment)}) than these "
            f"workers ({describe_class(classes[0])}): {MIXED_HELP}"
        )


def check_twins(root: str, names: Iterable[str]) -> None:
    """Check that no requested volume has the name of one that is there in another spelling of upper and lower case.

    Raises
    ------
    RequestError
        If any does: on some disks the two would be one. The message lists the first.
    """
    there: dict[str, str] = {}
    for name in open_storage(root).children("volumes"):
        there.setdefault(name.lower(), name)
    twins = [(name, other) for name in names if (other := there.get(name.lower(), name)) != name]
    if twins:
        shown = ", ".join(f"{name} ({other} is there)" for name, other in twins[:_SHOWN_TWINS])
        raise RequestError(
            f"{root}: {len(twins)} volumes differ from those that are there in case only: {shown}; expected the same "
            "spelling or another name; correct the manifest"
        )


def check_replicas(manifest: Manifest, phase: str | None) -> None:
    """Check that no row requests replicas of a phase that does not vary.

    Raises
    ------
    RequestError
        If any row does; the message names the first.
    """
    if phase is None or PHASES[phase].varies or "replicas" not in manifest.columns:
        return
    for row in manifest:
        if (row.replicas or 1) > 1:
            raise RequestError(f"{manifest.path}:{row.line}: replicas is {row.replicas}: {equal_replicas(phase)}")


def check_exams(manifest: Manifest, column: str | None) -> None:
    """Check that the column of `--share-field-by` exists and a row has a value in it.

    Raises
    ------
    RequestError
        If not.
    """
    if column is not None and not any(exam_of(row, column) for row in manifest):
        raise RequestError(
            f"{manifest.path}: no row has a value in column {column}, which --share-field-by names; expected the exam "
            "of each row; fill it in, or name another column"
        )


def split_failed(
    tasks: Iterator[Task], failures: Mapping[str, Failure], recipe: Recipe, not_retried: list[Task]
) -> Iterator[Task]:
    """Yield the tasks, but add those that failed in an earlier run with equal row and recipe to `not_retried`.

    A volume that had `changed` is checked again: the check is cheap, and `--overwrite` or the old source fixes the
    problem.
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
