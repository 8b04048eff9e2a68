"""From a name on the command line to a phase generator."""

from __future__ import annotations

from pathlib import Path

from diffusion.baselines import BASELINES
from diffusion.checkpoint import Checkpoint, CheckpointError, default_checkpoint, load_checkpoint
from diffusion.generators import PhaseGenerator
from diffusion.learned import BY_PROCESS, LearnedGenerator

GENERATORS = ("diffusion", *BASELINES)


def make_generator(
    name: str, checkpoint: Path | None = None, steps: int | None = None, device: str = "cpu"
) -> PhaseGenerator:
    """Make the generator of that name.

    Parameters
    ----------
    name
        One of `GENERATORS`.
    checkpoint
        For `diffusion`: the weights; the shipped ones where None.
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
    """
    return BY_PROCESS[checkpoint.process](checkpoint, steps, device)
