"""From the words of a command to the generators that an evaluation compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from augment.errors import RequestError
from augment.evaluation.sampling import Contestant
from diffusion.baselines import BASELINES
from diffusion.checkpoint import default_checkpoint, load_checkpoint
from diffusion.generators import PhaseGenerator
from diffusion.select import make_generator

MODEL = "diffusion"


@dataclass(frozen=True)
class Choice:
    """What is compared; None takes the shipped weights, their own number of steps, and all generators there are.

    `against` is a second checkpoint of the model, with its own `against_steps`.
    """

    generators: tuple[str, ...] | None = None
    checkpoint: Path | None = None
    steps: tuple[int, ...] = ()
    against: Path | None = None
    against_steps: tuple[int, ...] = ()
    device: str = "cpu"


def make_contestants(choice: Choice) -> list[Contestant]:
    """Make the generators, the model first.

    Raises
    ------
    RequestError
        A name is not known, or a checkpoint cannot be used.
    """
    with_model = choice.checkpoint is not None or default_checkpoint() is not None
    names = choice.generators or (*((MODEL,) if with_model else ()), *BASELINES)
    found: list[Contestant] = []
    try:
        for name in dict.fromkeys(names):
            if name == MODEL:
                found += _models(choice.checkpoint or default_checkpoint(), choice.steps, choice.device, MODEL, "model")
            else:
                found.append(_labelled(make_generator(name), name, "", "baseline"))
        if choice.against is not None:
            label = f"against ({choice.against.stem})"
            found += _models(choice.against, choice.against_steps or choice.steps, choice.device, label, "against")
    except ValueError as error:  # an unknown name, or weights that cannot be used
        raise RequestError(str(error)) from None
    return found


def _models(path: Path | None, steps: Sequence[int], device: str, name: str, role: str) -> list[Contestant]:
    identity = "" if path is None else load_checkpoint(path).sha256
    return [
        _labelled(make_generator(MODEL, path, number, device), name, identity, role) for number in (steps or (None,))
    ]


def _labelled(generator: PhaseGenerator, name: str, identity: str, role: str) -> Contestant:
    label = f"{name}, nfe {generator.nfe}" if generator.nfe else name
    return Contestant(label, generator, identity, role)
