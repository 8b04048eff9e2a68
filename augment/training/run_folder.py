"""Run folders: one process at a time, and no resuming with another configuration."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rephase.diffusion.training.trainer import STATES
from rephase.errors import RequestError
from rephase.files import replacing, sha256

RECIPE = "recipe.json"
_FREE = ("steps", "save_every", "prefetch")
"""Keys of [training] that may change when a run is resumed."""
_SOURCES = "sources_sha256"
_WORDS = {_SOURCES: "content of the files"}
"""Names for messages."""


@contextmanager
def claim_folder(folder: Path, card: dict[str, Any]) -> Iterator[None]:
    """Create and lock the run folder for a `with` block, and write the recipe, on which the weights depend.

    Parameters
    ----------
    folder
        The run folder.
    card
        The model card; the entries that the weights depend on are compared with those of a run in the folder.

    Raises
    ------
    RequestError
        If the folder cannot be written, contains a run of another recipe, or is locked by another process.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        _lock(descriptor, folder)
        _note(folder, recipe_of(card))
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    with contextlib.suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(
                f"{folder}: in use by another training; expected one process per folder; wait for it, or choose "
                "another output"
            ) from error


def _note(folder: Path, recipe: dict[str, Any]) -> None:
    path = folder / RECIPE
    try:
        recorded = _recorded(folder)
        if recorded is not None:
            old = _read(path)
            if old is not None:
                _compare(old, recipe, folder)
            elif recorded not in ("", recipe_hash(recipe)):
                raise RequestError(
                    f"{folder}: holds a run with another recipe; expected that of the configuration; choose "
                    "another output"
                )
        with replacing(path) as partial:
            partial.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise _unusable(folder, error) from error


def _recorded(folder: Path) -> str | None:
    """Return the hash of the recipe in the state of a run; "" if it has none, None without a state."""
    states = [folder / name for name in STATES if (folder / name).exists()]
    for path in states:
        with contextlib.suppress(SafetensorError, OSError), safe_open(path, "pt") as file:
            return str((file.metadata() or {}).get("recipe", ""))
    return "" if states else None


def _read(path: Path) -> dict[str, Any] | None:
    """Read the recipe of a run; None if it is missing or was torn, since the state names its recipe, too."""
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return recipe if isinstance(recipe, dict) else None


def recipe_hash(recipe: dict[str, Any]) -> str:
    """Return the SHA-256 of a recipe."""
    return sha256(json.dumps(recipe, sort_keys=True).encode())


def recipe_of(card: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a model card on which the weights depend."""
    training = {key: value for key, value in card["training"].items() if key not in _FREE}
    data = {key: value for key, value in card["data"].items() if key not in ("licences", "sources", _SOURCES)}
    sources = {_SOURCES: card["data"][_SOURCES]}
    names = ("network", "process", card["process"], "distillation", "initial")
    parts = {key: card[key] for key in names if key in card}
    recipe: dict[str, Any] = json.loads(json.dumps(parts | sources | {"training": training, "data": data}))
    return recipe


def _unusable(folder: Path, error: OSError) -> RequestError:
    return RequestError(f"{folder}: {error.strerror}; expected a folder that can be written; choose another output")


def _compare(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    differences = [_WORDS.get(key, key) for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if differences:
        raise RequestError(
            f"{folder}: holds a run with another {', '.join(differences)}; expected that of the configuration; choose "
            "another output"
        )
