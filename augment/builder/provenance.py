"""Read how a corpus was built from the corpus and its run log: recipe, manifest, weights. Used by repairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

from rephase.builder.options import BuildOptions
from rephase.builder.request import noted_manifest, noted_places
from rephase.builder.runlog import read_run, run_names
from rephase.corpus.layout import canonical_hash, corpus_attributes, group_attributes
from rephase.corpus.receipt import is_volume_name
from rephase.corpus.storage.base import Storage
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import ROOT_KEY, check_root
from rephase.diffusion.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from rephase.diffusion.phases import PHASES
from rephase.diffusion.shipped import WEIGHTS, shipped_weights
from rephase.errors import RequestError, VolumeError
from rephase.files import file_sha256
from rephase.scanner.arrays import BANK

_RECEIPTS_READ = 16
"""Receipts that are read to find the recipe."""


def past_runs(root: str) -> Iterator[dict[str, Any]]:
    """Yield the first line of every run in the log, the latest first."""
    for name in reversed(run_names(root)):
        first = next(read_run(root, name), None)
        if first is not None and first.get("event") == "start":
            yield first


def logged_receipts(root: str) -> dict[str, str | None]:
    """Return every volume that the log names as committed, and the SHA-256 of its last receipt, if the log has that."""
    found: dict[str, str | None] = {}
    for run in run_names(root):
        for line in read_run(root, run):
            if line.get("event") == "volume" and line.get("status") in ("built", "skipped"):
                name, digest = line.get("name"), line.get("receipt_sha256")
                if isinstance(name, str) and is_volume_name(name):
                    found[name] = digest if isinstance(digest, str) else found.get(name)
    return found


def logged_recipes(root: str) -> set[str]:
    """Return the hash of every recipe by which this corpus was built, by the log."""
    return {str(run["recipe_hash"]) for run in past_runs(root) if run.get("recipe_hash")}


def recorded_manifest(root: str) -> str | None:
    """Return the manifest of the latest run; None if no log names one."""
    in_logs = (str(run["manifest"]) for run in past_runs(root) if run.get("manifest"))  # of earlier versions
    return noted_manifest(root) or next(in_logs, None)


def root_attributes(storage: Storage) -> tuple[dict[str, Any], bool]:
    """Return the attributes that the root of a corpus should have, and whether they had to be recovered.

    Raises
    ------
    RequestError
        If there is no corpus, or its root is damaged and its recipe is not recorded elsewhere.
    """
    document = storage.get(ROOT_KEY)
    try:
        attributes = group_attributes(document, ROOT_KEY)
    except ValueError:
        attributes = {}
    if document is not None and not check_root(attributes):
        return attributes, False
    if document is None and not storage.children("volumes"):
        raise RequestError(f"{storage.root}: no corpus here (no zarr.json); build one with 'rephase build'")
    recipes = [attributes.get("recipe"), *(run.get("recipe") for run in past_runs(storage.root))]
    hashes = _recipe_hashes(CorpusStore(storage, {}))
    for recipe in recipes:
        if isinstance(recipe, dict) and (not hashes or canonical_hash(recipe) in hashes):
            return corpus_attributes(recipe), True
    raise RequestError(
        f"{storage.root}/{ROOT_KEY}: is damaged; expected the recipe, which is not recorded elsewhere; delete this "
        "file and run the same 'rephase build' again"
    )


def _recipe_hashes(store: CorpusStore) -> set[str]:
    """Return the hash of the recipe of most of the receipts that are read; empty if none has one."""
    counts: Counter[str] = Counter()
    for name in islice(store.names(), _RECEIPTS_READ):
        try:
            receipt = store.receipt(name)
        except VolumeError:
            continue
        if receipt is not None and isinstance(receipt.get("recipe_hash"), str):
            counts[receipt["recipe_hash"]] += 1
    return {found for found, _ in counts.most_common(1)}


def options_of(
    attributes: Mapping[str, Any], checkpoint: Path | None, root: str
) -> tuple[dict[str, Any], Checkpoint | None]:
    """Return the build options that the recipe of a corpus means, and the weights that it names.

    Raises
    ------
    RequestError
        If the weights of the recipe are not found.
    """
    recipe = attributes["recipe"]
    names = {one.name for one in fields(BuildOptions)} & set(recipe)
    options = {name: tuple(recipe[name]) if isinstance(recipe[name], list) else recipe[name] for name in names}
    if isinstance(recipe.get("coils"), str) and recipe["coils"].startswith(BANK):
        options["coils"] = f"{BANK}{_find_bank(recipe['coils'].removeprefix(BANK), root)}"
    phase = PHASES.get(recipe.get("phase", ""))
    if phase is not None and phase.learned and recipe.get("checkpoint_sha256") is not None:
        options["steps"] = recipe["nfe"] if phase.any_steps else None
        return options, _find_weights(recipe["checkpoint_sha256"], checkpoint, root)
    return options, None


def _find_bank(wanted: str, root: str) -> Path:
    logged = dict.fromkeys(Path(path) for path in noted_places(root, "banks"))
    for path in logged:
        if path.is_file() and file_sha256(path) == wanted:
            return path
    searched = ", ".join(map(str, logged)) or "nowhere"
    raise RequestError(
        f"{root}: was built with a bank of coils of hash {wanted[:12]}...; expected it at {searched}; put it back"
    )


def _find_weights(wanted: str, given: Path | None, root: str) -> Checkpoint:
    in_logs = [str(run["checkpoint"]) for run in past_runs(root) if run.get("checkpoint")]  # of earlier versions
    logged = [Path(path) for path in (*noted_places(root, "checkpoints"), *in_logs)]
    candidates = [given] if given is not None else [*map(shipped_weights, WEIGHTS), *dict.fromkeys(logged)]
    for path in candidates:
        if path is None or not path.is_file():
            continue
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError:
            continue
        if checkpoint.sha256 == wanted:
            return checkpoint
    searched = ", ".join(str(path) for path in candidates if path is not None) or "nowhere"
    raise RequestError(
        f"{root}: was built with weights of hash {wanted[:12]}...; none found in {searched}; give them by --checkpoint"
    )
