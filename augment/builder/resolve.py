"""New."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rephase.builder.options import BuildOptions
from rephase.diffusion.phases import PHASES
from rephase.diffusion.shipped import default_checkpoint, describe_missing, shipped_weights
from rephase.errors import RequestError
from rephase.pipeline.recipe import Recipe, Tile


def default_phase() -> str:
    """Name the generator that a build takes where none is asked for."""
    return "diffusion" if default_checkpoint() is not None else "smooth"


def checkpoint_path(options: BuildOptions) -> Path | None:
    """Give the weights that a build takes; None where its phase needs none.

    Raises
    ------
    RequestError
        If weights are needed and there are none.
    """
    phase = options.phase or ("diffusion" if options.checkpoint else default_phase())
    row = PHASES[phase]
    if not row.learned:
        return None
    path = options.checkpoint or (shipped_weights(row.weights) if row.weights else None)
    if path is None:
        missing = describe_missing(row.weights) if row.weights else "expected --checkpoint"
        raise RequestError(f"--phase {phase}: {missing}, or take --phase smooth")
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
    from rephase.diffusion.processes.fat import fat_facts

    try:
        return str(fat_facts("tissue")["fat"]["sha256"])
    except ValueError as error:
        raise RequestError(str(error)) from None


def _describe_model(path: Path, phase: str, steps: int | None, device: str) -> tuple[int, str, Tile]:
    from rephase.diffusion.checkpoint import load_checkpoint
    from rephase.diffusion.learned import GPU_TILE
    from rephase.diffusion.registry import make_generator

    try:
        checkpoint = load_checkpoint(path)
        nfe = make_generator(phase, checkpoint, steps).nfe
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
