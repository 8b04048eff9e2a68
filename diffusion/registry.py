"""From a name on the command line to a phase generator."""

from __future__ import annotations

from pathlib import Path

from rephase.diffusion.baselines import BASELINES
from rephase.diffusion.checkpoint import (
    Checkpoint,
    CheckpointError,
    default_checkpoint,
    load_checkpoint,
    shipped_weights,
)
from rephase.diffusion.generators import PhaseGenerator
from rephase.diffusion.learned import LearnedGenerator
from rephase.diffusion.processes.ddpm import DdpmGenerator
from rephase.diffusion.processes.flow import FlowGenerator
from rephase.diffusion.processes.regression import RegressionGenerator

BY_PROCESS: dict[str, type[FlowGenerator] | type[DdpmGenerator]] = {"flow": FlowGenerator, "ddpm": DdpmGenerator}
"""By the process of the checkpoint."""


GENERATORS = ("diffusion", "regression", *BASELINES)


def make_generator(
    name: str, checkpoint: Path | None = None, steps: int | None = None, device: str = "cpu"
) -> PhaseGenerator:
    """Make the generator of that name.

    Parameters
    ----------
    name
        One of `GENERATORS`.
    checkpoint
        For `diffusion` and `regression`: the weights; the shipped ones where None.
    steps
        For `diffusion`: network evaluations a slice; those that the weights are meant for where None.
    device
        For `diffusion`: "cpu" or "cuda".

    Raises
    ------
    ValueError
        The name is not known, or the weights cannot be sampled with so many steps.
    CheckpointError
        There is no usable checkpoint.
    """
    if name in BASELINES:
        return BASELINES[name]()
    if name == "regression":
        return _make_regression(checkpoint or shipped_regression(), steps, device)
    if name != "diffusion":
        raise ValueError(f"unknown phase generator {name!r}; expected one of {', '.join(GENERATORS)}")
    path = checkpoint or default_checkpoint()
    if path is None:
        raise CheckpointError("no weights ship with this installation; give --checkpoint or take --phase smooth")
    return make_learned(load_checkpoint(path), steps, device)


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


def shipped_regression() -> Path | None:
    """The regression that ships with the package, or None where there is none."""
    return shipped_weights("regression")


def _make_regression(path: Path | None, steps: int | None, device: str) -> PhaseGenerator:
    if path is None:
        raise CheckpointError('no regression ships with this installation; train one with process = "regression"')
    checkpoint = load_checkpoint(path)
    if checkpoint.process != "regression":
        raise CheckpointError(f"{path}: process {checkpoint.process!r}; expected a regression")
    return RegressionGenerator(checkpoint, steps, device)
