"""What the bytes of a corpus depend on: one recipe for all of it, one hash for each row, one class of machines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from augment.errors import RequestError
from augment.layout import FORMAT
from augment.magnitude import NegativeRule
from augment.options import MODELS, BuildOptions
from manifests.record import ManifestRow

ALGORITHM = 7
"""Raised whenever a change of the code changes the bytes that a recipe gives."""

ROW_COLUMNS = (
    "volume_id", "subject_id", "split", "anatomy", "contrast", "field_t", "te_ms", "slice_axis", "series", "echo",
    "frame", "dataset", "licence", "extra",
)  # fmt: skip
"""Columns that change what is stored. Not `path`: the source counts by its bytes; sizes are only checked."""

COMPANION_COLUMNS = ("phase", "kspace", "segmentation")
"""Of these it counts whether they are named; their bytes are part of the source's SHA-256."""


@dataclass(frozen=True)
class Tile:
    """How the generator is called: slices in a call, multiple to which sizes are padded, dtype, torch threads."""

    slices: int = 1
    multiple: int = 1
    dtype: str = "float32"
    threads: int = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that changes the bytes of a corpus apart from its sources.

    Equal recipes give equal arrays on machines of one environment class, whatever the batch size, the number of
    workers, the order of the rows or the number of restarts.
    """

    phase: str
    nfe: int
    checkpoint_sha256: str | None
    seed: int
    negative: NegativeRule
    keep_columns: tuple[str, ...]
    tile: Tile
    format: int = FORMAT
    algorithm: int = ALGORITHM

    def to_json(self) -> dict[str, Any]:
        """Give the recipe as a corpus's attributes hold it."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
        return canonical_hash(self.to_json())

    def attributes(self) -> dict[str, Any]:
        """Give the attributes of a corpus that is made by this recipe."""
        return corpus_attributes(self.to_json())


def corpus_attributes(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Give the attributes of a corpus that is made by a recipe, from the recipe as JSON alone."""
    return {
        "recipe": dict(recipe),
        "recipe_hash": canonical_hash(recipe),
        "checkpoint_hash": recipe.get("checkpoint_sha256"),
        "seed": recipe.get("seed"),
    }


def canonical_hash(document: Mapping[str, Any]) -> str:
    """Give the SHA-256 of a JSON document in one spelling: sorted keys, no spaces, ASCII."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def row_hash(row: ManifestRow, source_sha256: str) -> str:
    """Give the hash of what a row asks for: its byte-changing columns and the bytes of its source.

    Where the row stands in the manifest and where its file lies make no difference.
    """
    columns: dict[str, Any] = {name: getattr(row, name) for name in ROW_COLUMNS}
    columns |= {name: getattr(row, name) is not None for name in COMPANION_COLUMNS}
    return canonical_hash({"columns": columns, "source_sha256": source_sha256})


def row_fingerprint(row: ManifestRow) -> str:
    """Give the hash of a whole row, its path too: a row that failed is tried again once any of it was edited."""
    return canonical_hash({name: getattr(row, name) for name in row.__dataclass_fields__ if name != "line"})


def default_phase() -> str:
    """Name the generator that a build takes where none is asked for."""
    from diffusion.checkpoint import default_checkpoint

    return "diffusion" if default_checkpoint() is not None else "smooth"


def checkpoint_path(options: BuildOptions) -> Path | None:
    """Give the weights that a build takes; None where its phase needs none.

    Raises
    ------
    RequestError
        If weights are needed and there are none.
    """
    from diffusion.checkpoint import default_checkpoint
    from diffusion.select import shipped_regression

    phase = options.phase or ("diffusion" if options.checkpoint else default_phase())
    if phase not in MODELS:
        return None
    path = options.checkpoint or (default_checkpoint() if phase == "diffusion" else shipped_regression())
    if path is None:
        raise RequestError(
            f"no weights of {phase} ship with this installation; give --checkpoint or take --phase smooth"
        )
    return path.absolute()


def make_recipe(options: BuildOptions, device: str = "cpu") -> Recipe:
    """Resolve options to the recipe that they mean on this kind of device.

    Parameters
    ----------
    options
        Of the build.
    device
        "cpu" or "cuda": how many slices the network is given at once depends on it.

    Raises
    ------
    RequestError
        If the checkpoint cannot be used, or options contradict each other.
    """
    path = checkpoint_path(options)
    phase, nfe, checkpoint_sha256, tile = options.phase or "smooth", 0, None, Tile()
    if path is None and options.steps is not None:
        raise RequestError(f"--steps goes with --phase diffusion, not with {phase}; leave one out")
    if phase == "tissue":
        checkpoint_sha256 = _fat_sha256()
    if path is not None:
        phase = options.phase or "diffusion"
        nfe, checkpoint_sha256, tile = _describe_model(path, phase, options.steps, device)
    return Recipe(
        phase=phase,
        nfe=nfe,
        checkpoint_sha256=checkpoint_sha256,
        seed=options.seed,
        negative=options.negative,
        keep_columns=tuple(sorted(set(options.keep_columns))),
        tile=tile,
    )


def _fat_sha256() -> str:
    """Of the weights that a baseline needs."""
    from diffusion.fat import fat_facts

    try:
        return str(fat_facts("tissue")["fat"]["sha256"])
    except ValueError as error:
        raise RequestError(str(error)) from None


def _describe_model(path: Path, phase: str, steps: int | None, device: str) -> tuple[int, str, Tile]:
    from diffusion.checkpoint import load_checkpoint
    from diffusion.learned import GPU_TILE
    from diffusion.select import make_learned

    try:
        checkpoint = load_checkpoint(path)
        known = "regression" if checkpoint.process == "regression" else "diffusion"
        if phase != known and checkpoint.process != "fat":  # which no phase takes: said below
            raise RequestError(f"{path}: weights for --phase {known}; expected some for {phase}; take one or the other")
        nfe = make_learned(checkpoint, steps).nfe
    except ValueError as error:
        raise RequestError(str(error)) from None
    slices = 1 if device == "cpu" else GPU_TILE
    tile = Tile(slices=slices, multiple=checkpoint.network.config.multiple)
    return nfe, checkpoint.sha256, tile


def describe_differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List in what two recipes differ, as `seed: 0 there, 1 asked`."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += describe_differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {json.dumps(before)} there, {json.dumps(after)} asked")
    return lines
