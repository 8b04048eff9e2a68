"""The generators that an evaluation compares, and their selection by the options of the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rephase.diffusion.baselines import NoisySmoothPhase, SmoothPhase
from rephase.diffusion.checkpoint import load_checkpoint
from rephase.diffusion.devices import choose_device
from rephase.diffusion.generators import PhaseGenerator
from rephase.diffusion.phases import PHASES
from rephase.diffusion.physics.low_order import read_model
from rephase.diffusion.registry import make_generator, make_learned
from rephase.diffusion.shipped import default_checkpoint, shipped_weights
from rephase.errors import RequestError
from rephase.files import file_sha256

MODEL, REGRESSION = "diffusion", "regression"
SMOOTH_NAMES = {one.name: one for one in (SmoothPhase, NoisySmoothPhase)}


@dataclass(frozen=True)
class Candidate:
    """A generator in an evaluation.

    `label` is its name in the tables; `role` is "model", "against" (the second checkpoint) or "baseline"; `identity` is
    everything its samples depend on besides slice and seed, such as the checkpoint's SHA-256.
    """

    label: str
    generator: PhaseGenerator
    identity: str = ""
    role: str = "baseline"

    @property
    def nfe(self) -> int:
        """Network evaluations per slice."""
        return self.generator.nfe


@dataclass(frozen=True)
class CandidateOptions:
    """The candidates to compare; None selects the shipped weights, their own number of steps, and all generators.

    `against` is a second checkpoint of the model, sampled with `against_steps`. `smooth` and `regression` replace the
    shipped fits of these baselines.
    """

    generators: tuple[str, ...] | None = None
    checkpoint: Path | None = None
    steps: tuple[int, ...] = ()
    against: Path | None = None
    against_steps: tuple[int, ...] = ()
    smooth: Path | None = None
    regression: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        choose_device(self.device)


def make_candidates(choice: CandidateOptions) -> list[Candidate]:
    """Return the candidates, the model first.

    Raises
    ------
    RequestError
        If a name is unknown, or a checkpoint is unusable.
    """
    found: list[Candidate] = []
    try:
        for name in dict.fromkeys(choice.generators or _default_names(choice)):
            if name == MODEL:
                found += _models(choice.checkpoint or default_checkpoint(), choice.steps, choice.device, MODEL, "model")
            else:
                found.append(_baseline(name, choice))
        if choice.against is not None:
            label = f"against ({choice.against.stem})"
            found += _models(choice.against, choice.against_steps or choice.steps, choice.device, label, "against")
    except ValueError as error:  # an unknown name, or weights that cannot be used
        raise RequestError(str(error)) from None
    return found


def _models(path: Path | None, steps: Sequence[int], device: str, name: str, role: str) -> list[Candidate]:
    if path is None:
        return [_labelled(make_generator(MODEL, None, None, device), name, "", role)]  # raises if weights are missing
    checkpoint = load_checkpoint(path)
    numbers = steps or (None,)
    return [_labelled(make_learned(checkpoint, n, device), name, checkpoint.sha256, role) for n in numbers]


def _default_names(choice: CandidateOptions) -> list[str]:
    """Return all generators that need no weights or have some."""
    given = {MODEL: choice.checkpoint, REGRESSION: choice.regression}
    return [
        name
        for name, phase in sorted(PHASES.items(), key=lambda item: not item[1].learned)
        if phase.generator and (phase.weights is None or given.get(name) or shipped_weights(phase.weights))
    ]


def _baseline(name: str, choice: CandidateOptions) -> Candidate:
    if name == REGRESSION:
        path = choice.regression or shipped_weights(name)
        checkpoint = None if path is None else load_checkpoint(path)
        identity = "" if checkpoint is None else checkpoint.sha256
        return _labelled(make_generator(name, checkpoint, None, choice.device), name, identity, "baseline")
    if choice.smooth is not None and name in SMOOTH_NAMES:
        digest = file_sha256(choice.smooth) if choice.smooth.is_file() else ""
        return _labelled(SMOOTH_NAMES[name](read_model(choice.smooth)), name, digest, "baseline")
    return _labelled(make_generator(name), name, "", "baseline")


def _labelled(generator: PhaseGenerator, name: str, identity: str, role: str) -> Candidate:
    label = f"{name}, nfe {generator.nfe}" if generator.nfe else name
    return Candidate(label, generator, identity, role)
