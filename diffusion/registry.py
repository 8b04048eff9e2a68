"""From a name on the command line to a phase generator."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rephase.diffusion.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from rephase.diffusion.generators import PhaseGenerator
from rephase.diffusion.learned import LearnedGenerator
from rephase.diffusion.phases import PHASES, generated_phases
from rephase.diffusion.processes.ddpm import DdpmGenerator
from rephase.diffusion.processes.flow import FlowGenerator
from rephase.diffusion.processes.regression import RegressionGenerator
from rephase.diffusion.shipped import describe_missing, shipped_weights

BY_PROCESS: dict[str, type[FlowGenerator] | type[DdpmGenerator]] = {"flow": FlowGenerator, "ddpm": DdpmGenerator}
"""By the process of the checkpoint."""


def make_generator(
    name: str, checkpoint: Checkpoint | Path | None = None, steps: int | None = None, device: str = "cpu"
) -> PhaseGenerator:
    """Return the generator of a phase.

    Parameters
    ----------
    name
        A name of `rephase.diffusion.phases.PHASES`, other than "real".
    checkpoint
        For a learned phase: the weights, or their file; the shipped ones if None.
    steps
        For a learned phase: network evaluations per slice; those that the weights are meant for if None.
    device
        For a learned phase: "cpu" or "cuda".

    Raises
    ------
    ValueError
        The name is not known, or the weights cannot be sampled with so many steps.
    CheckpointError
        There is no usable checkpoint, or it is that of another phase.
    """
    row = PHASES.get(name)
    if row is None or row.generator is None:
        raise ValueError(f"unknown phase generator {name!r}; expected one of {', '.join(generated_phases())}")
    factory = resolve(row.generator)
    if not row.learned:
        generator: PhaseGenerator = factory()
        return generator
    if checkpoint is None and row.weights is not None:
        checkpoint = shipped_weights(row.weights)
        if checkpoint is None:
            raise CheckpointError(describe_missing(row.weights))
    if not isinstance(checkpoint, Checkpoint):
        if checkpoint is None:
            raise CheckpointError(f"no weights for the phase {name!r}; expected some; give --checkpoint")
        checkpoint = load_checkpoint(checkpoint)
    check_phase(checkpoint, name)
    learned: PhaseGenerator = factory(checkpoint, steps, device)
    return learned


def check_phase(checkpoint: Checkpoint, name: str) -> None:
    """Check that weights sample the phase of a name.

    Raises
    ------
    CheckpointError
        They are those of another phase, or of none.
    """
    where = checkpoint.path or f"weights {checkpoint.card.get('name')!r}"
    if checkpoint.process == "fat":
        raise CheckpointError(f"{where}: the process 'fat' estimates fat, not phase; name weights of a phase model")
    found = "regression" if checkpoint.process == "regression" else "diffusion"
    if found != name:
        raise CheckpointError(f"{where}: weights for --phase {found}; expected some for {name}; take one or the other")


def make_learned(checkpoint: Checkpoint, steps: int | None = None, device: str = "cpu") -> LearnedGenerator:
    """Make the generator of a checkpoint, by its process.

    Raises
    ------
    ValueError
        The checkpoint cannot be sampled with so many steps.
    CheckpointError
        It is one that guesses fat, not phase.
    """
    if checkpoint.process == "fat":
        raise CheckpointError("weights of the process 'fat' guess fat, not phase; name those of a phase model")
    if checkpoint.process == "regression":
        return RegressionGenerator(checkpoint, steps, device)
    return BY_PROCESS[checkpoint.process](checkpoint, steps, device)


def resolve(name: str) -> Callable[..., Any]:
    """Import what "module:attribute" names."""
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found
