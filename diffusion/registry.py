"""The table of learned processes, and the phase generator for a name on the command line."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rephase.diffusion.baselines import NoisySmoothPhase, SmoothPhase, SpinEchoPhase
from rephase.diffusion.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from rephase.diffusion.generators import PhaseGenerator
from rephase.diffusion.learned import LearnedGenerator
from rephase.diffusion.phases import PHASES, generated_phases
from rephase.diffusion.physics.low_order import EARLIER_FIT, LowOrderModel, read_model
from rephase.diffusion.processes.ddpm import DdpmConfig, DdpmGenerator, DdpmObjective
from rephase.diffusion.processes.distillation import DistillationConfig, EnergyObjective
from rephase.diffusion.processes.flow import FlowConfig, FlowGenerator, FlowObjective
from rephase.diffusion.processes.objective import Objective
from rephase.diffusion.processes.regression import RegressionGenerator, RegressionObjective
from rephase.diffusion.shipped import describe_missing, shipped_weights
from rephase.sequences import REFOCUSED


@dataclass(frozen=True)
class Process:
    """One row of `PROCESSES`: the parts of a learned process for training and sampling. Its network is a `ComplexUNet`.

    Attributes
    ----------
    objective
        Creates the training objective of a network from its settings, if any.
    generator
        Creates a phase generator from a checkpoint, a number of steps (or None) and a device.
    config
        Dataclass of the settings: the section of the process's name in a training file and in a model card; None
        without settings.
    phase
        The row of `rephase.diffusion.phases.PHASES` that uses such weights.
    distil
        Creates the training objective of a student from the teacher's settings and those of `rephase distill`; None if
        the process has no students.
    """

    objective: Callable[..., Objective]
    generator: Callable[[Checkpoint, int | None, str], LearnedGenerator]
    config: type[Any] | None = None
    phase: str = "diffusion"
    distil: Callable[[Any, DistillationConfig], EnergyObjective] | None = None

    def make_objective(self, settings: object) -> Objective:
        """Return the training objective of a network; `settings` is a `config`, or None without one."""
        return self.objective() if self.config is None else self.objective(settings)


PROCESSES = {
    "flow": Process(FlowObjective, FlowGenerator, FlowConfig, distil=EnergyObjective),
    "ddpm": Process(DdpmObjective, DdpmGenerator, DdpmConfig),
    "regression": Process(RegressionObjective, RegressionGenerator, phase="regression"),
}
"""By the `process` of a training file and of a model card."""


def process_of(checkpoint: Checkpoint) -> Process:
    """Return the process of a checkpoint.

    Raises
    ------
    CheckpointError
        If it is unknown.
    """
    found = PROCESSES.get(checkpoint.process)
    if found is None:
        known = ", ".join(PROCESSES)
        raise CheckpointError(f"{_name(checkpoint)}: process {checkpoint.process[:60]!r}; expected one of {known}")
    return found


def make_generator(
    name: str,
    checkpoint: Checkpoint | Path | None = None,
    steps: int | None = None,
    device: str = "cpu",
    algorithm: int | None = None,
) -> PhaseGenerator:
    """Return the generator of a phase.

    Parameters
    ----------
    name
        A name of `rephase.diffusion.phases.PHASES`, other than "real".
    checkpoint
        For a learned phase: the weights, or their file; the shipped ones if None.
    steps
        For a learned phase: network evaluations per slice; those for which the weights were trained if None.
    device
        For a learned phase: "cpu" or "cuda".
    algorithm
        Version of the recipe's algorithm (`rephase.pipeline.recipe`) that is continued; None: the last one.

    Raises
    ------
    ValueError
        If the name is unknown, or the weights do not support the number of steps.
    CheckpointError
        If there is no usable checkpoint, or it belongs to another phase.
    """
    row = PHASES.get(name)
    if row is None or row.generator is None:
        raise ValueError(f"unknown phase generator {name!r}; expected one of {', '.join(generated_phases())}")
    factory = resolve(row.generator)
    if not row.learned:
        earlier = algorithm is not None and algorithm < 12 and factory in (SmoothPhase, NoisySmoothPhase)
        generator: PhaseGenerator = factory(_earlier_fit()) if earlier else factory()
        return generator
    if checkpoint is None and row.weights is not None:
        checkpoint = shipped_weights(row.weights)
        if checkpoint is None:
            raise CheckpointError(describe_missing(row.weights))
    if checkpoint is None:
        raise CheckpointError(f"phase {name!r}: no weights ship; expected some; give --checkpoint")
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint)
    found = process_of(checkpoint)
    if found.phase != name:
        raise CheckpointError(
            f"{_name(checkpoint)}: weights for --phase {found.phase}; expected some for {name}; take one or the other"
        )
    learned: LearnedGenerator = factory(checkpoint, steps, device)
    learned.before_12 = algorithm is not None and algorithm < 12
    return learned


def _earlier_fit() -> LowOrderModel:
    if not EARLIER_FIT.is_file():
        raise ValueError(
            f"{EARLIER_FIT.name}: the fit of smooth phase before algorithm 12 is not part of this installation; copy "
            f"it from diffusion/weights of the source tree to {EARLIER_FIT.parent}, or build into another corpus"
        )
    return read_model(EARLIER_FIT)


@cache
def _refocused_generator() -> PhaseGenerator:
    return SpinEchoPhase()


def generator_for(generator: PhaseGenerator, sequence: str | None) -> PhaseGenerator:
    """Return the given generator, or the spin-echo baseline for a refocused family that it does not cover.

    Parameters
    ----------
    generator
        Generator of the build.
    sequence
        The volume's family, stated or inferred; None if unknown.
    """
    knows = generator.families is None or sequence in generator.families
    return generator if knows or sequence not in REFOCUSED else _refocused_generator()


def make_learned(checkpoint: Checkpoint, steps: int | None = None, device: str = "cpu") -> LearnedGenerator:
    """Return the generator of a checkpoint, by its process.

    Raises
    ------
    ValueError
        If the checkpoint does not support the number of steps.
    CheckpointError
        If its process is unknown.
    """
    return process_of(checkpoint).generator(checkpoint, steps, device)


def resolve(name: str) -> Callable[..., Any]:
    """Import the object that "module:attribute" names."""
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def _name(checkpoint: Checkpoint) -> str:
    return str(checkpoint.path or f"weights {str(checkpoint.card.get('name'))[:60]!r}")
