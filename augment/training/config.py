"""Configurations of `rephase train` and `rephase distill`, which are TOML files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, TypeVar

from rephase.config import Count, Share, Whole
from rephase.diffusion.checkpoint import MOST_STEPS
from rephase.diffusion.networks.unet import NetworkConfig
from rephase.diffusion.processes.distillation import DistillationConfig
from rephase.diffusion.registry import PROCESSES
from rephase.diffusion.training.trainer import TrainingConfig
from rephase.training.simulated.anatomy import SimulationConfig

BEST = "best"
"""Name of the checkpoint with the lowest validation loss."""
_RUN_FILES = (BEST, "state", "ema", "recipe")
_WRITTEN_BY_TRAINING = {
    "format", "process", "network", "training", "data", "seen", "made_with", "distillation", "initial", BEST,
    *PROCESSES,
}  # fmt: skip
"""Keys of a model card that a configuration must not set."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What training and distillation share; relative paths are relative to the configuration file."""

    manifest: Path
    """Manifest; its rows with a `phase` or `kspace` column are used."""
    output: Path
    """Run folder: state, curves, pictures, and the checkpoint with its model card."""
    name: str = "model"
    """The checkpoint is `<name>.safetensors`."""
    split: str = "train"
    """Split of the rows to train on; if empty, all rows but those of split `test`."""
    licences: tuple[str, ...] = ()
    """Only rows under these licences; any licence if empty."""
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    """Simulated volumes in addition to the rows."""
    magnitudes: Path | None = None
    """Manifest of volumes whose magnitudes also get simulated phases; those of the rows alone if not given."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Optimisation."""
    noise_augmentation: Share = 0.25
    """Share of the slices to which complex noise is added, as in a shorter acquisition."""
    validation_split: str = ""
    """Split of the rows on which the validation loss is computed; none if empty."""
    validation_slices: Count = 16
    """Slices of the validation split to use, evenly spaced."""
    validate_every: Count = 500
    """Steps between two validation losses; `best.safetensors` is the checkpoint with the lowest."""
    picture_every: Whole = 500
    """Steps between two pictures of the loss curve and of samples; 0 for none."""
    card: dict[str, Any] = field(default_factory=dict)
    """Copied into the model card (title, licence, intended use); `steps`: default number of sampling steps."""

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not self.name or "/" in self.name or self.name in _RUN_FILES:
            raise ValueError(f"name {self.name!r}: expected a file name other than {', '.join(_RUN_FILES)}")
        if self.validation_split and self.split in ("", self.validation_split):
            raise ValueError(
                f"validation_split {self.validation_split!r}: its rows are trained on; set split to another"
            )
        taken = sorted(self.card.keys() & _WRITTEN_BY_TRAINING)
        if taken:
            raise ValueError(f"card.{taken[0]}: the training writes this key itself; expected another name")
        steps = self.card.get("steps", 1)
        if type(steps) is not int or not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"card.steps: found {steps!r}; expected a whole number from 1 to {MOST_STEPS}")
        try:
            json.dumps(self.card, allow_nan=False)
        except ValueError:
            raise ValueError("card: found nan or inf; expected finite numbers") from None


_Config = TypeVar("_Config", bound=RunConfig)


def _with_process_sections(kind: type[_Config]) -> type[_Config]:
    """Add a section of its name for the settings of each process."""
    sections = [(name, one.config, field(default_factory=one.config)) for name, one in PROCESSES.items() if one.config]
    names = {"__doc__": kind.__doc__, "__module__": kind.__module__}
    return make_dataclass(kind.__name__, sections, bases=(kind,), namespace=names, frozen=True, kw_only=True)


@_with_process_sections
@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Configuration of `rephase train`; the section of a process's name has its settings."""

    process: str = "flow"
    """One of `rephase.diffusion.registry.PROCESSES`: `flow`, `ddpm` or `regression`."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Architecture."""
    initial: Path | None = None
    """Checkpoint whose weights the training starts from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.process not in PROCESSES:
            raise ValueError(f"process: found {self.process!r}; expected one of {', '.join(PROCESSES)}")
        for name, other in PROCESSES.items():
            if name != self.process and other.config is not None and getattr(self, name) != other.config():
                raise ValueError(f"{name}: is not used by process {self.process!r}; remove the section")

    @property
    def settings(self) -> Any:  # noqa: ANN401  # of the type that PROCESSES has for it
        """Settings of the process; None if it has none."""
        return getattr(self, self.process, None)


@dataclass(frozen=True, kw_only=True)
class DistillConfig(RunConfig):
    """Configuration of `rephase distill`."""

    teacher: Path
    """Checkpoint that the student starts from."""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    """Objective of the student."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "steps" in self.card:
            raise ValueError("card.steps: is evaluations of [distillation]; remove it")
