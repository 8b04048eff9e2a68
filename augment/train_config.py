"""The configurations of `phasegen train` and `phasegen distill`: TOML, checked before anything is read."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from augment.errors import RequestError
from augment.simulation import SimulationConfig
from diffusion.checkpoint import PROCESSES
from diffusion.ddpm import DdpmConfig
from diffusion.distillation import DistillationConfig
from diffusion.flow import FlowConfig
from diffusion.network import NetworkConfig
from diffusion.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What training and distillation share; relative paths are relative to the configuration file.

    `manifest` names rows with a `phase` or `kspace` column, of which those of `split` are taken (all where it is
    empty). The run folder `output` keeps the state; the checkpoint `<name>.safetensors` and its card are written there.
    Where `licences` names some, only rows under these are taken; `simulation` adds simulated volumes to the rows.
    `card` is copied into the model card (name, licence, description of the data).
    `noise_augmentation` is the share of the slices to which complex noise is added, as a shorter scan has.

    With a `validation_split`, the loss on `validation_slices` of its slices is measured every `validate_every` steps,
    and `best.safetensors` is the checkpoint with the lowest. Every `picture_every` steps (never where 0) the loss curve
    and samples are drawn into the run folder.
    """

    manifest: Path
    output: Path
    name: str = "model"
    split: str = "train"
    licences: tuple[str, ...] = ()
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    noise_augmentation: float = 0.25
    validation_split: str = ""
    validation_slices: int = 16
    validate_every: int = 500
    picture_every: int = 500
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("name", "split", "validation_split"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} = {getattr(self, name)!r}: expected text between quotes")
        if not all(isinstance(one, str) for one in self.licences):
            raise ValueError(f"licences = {self.licences!r}: expected a list of texts between quotes")
        if not self.name or "/" in self.name or self.name == BEST:
            raise ValueError(f"name {self.name!r}: expected the name of a file, other than {BEST}")
        if self.validation_split and self.split in ("", self.validation_split):
            raise ValueError(
                f"validation_split {self.validation_split!r}: its rows are trained on; set split to another"
            )
        if not isinstance(self.noise_augmentation, int | float) or not 0 <= self.noise_augmentation <= 1:
            raise ValueError(f"noise_augmentation = {self.noise_augmentation!r}: expected a share from 0 to 1")
        for name, least in (("validation_slices", 1), ("validate_every", 1), ("picture_every", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} = {value!r}: expected a whole number of {least} or more")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """The configuration of `phasegen train`.

    `process` is "flow" or "ddpm", of which the section of that name says more, or "regression". `initial` is a
    checkpoint whose weights the training starts from.
    """

    process: str = "flow"
    flow: FlowConfig = field(default_factory=FlowConfig)
    ddpm: DdpmConfig = field(default_factory=DdpmConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    initial: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.process not in PROCESSES:
            raise ValueError(f"process {self.process!r}: expected one of {', '.join(PROCESSES)}")
        if self.process != "flow" and self.flow != FlowConfig():
            raise ValueError(f"flow: says nothing of the process {self.process!r}; leave the section out")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(RunConfig):
    """The configuration of `phasegen distill`; `teacher` is the checkpoint that the student starts from and follows."""

    teacher: Path
    distillation: DistillationConfig = field(default_factory=DistillationConfig)


BEST = "best"
"""Name of the checkpoint with the best validation score."""
Config = TypeVar("Config", bound=RunConfig)
_SECTIONS = {
    "network": NetworkConfig,
    "training": TrainingConfig,
    "flow": FlowConfig,
    "ddpm": DdpmConfig,
    "distillation": DistillationConfig,
    "simulation": SimulationConfig,
}
_PATHS = ("manifest", "output", "initial", "teacher")


def read_config(path: Path, kind: type[Config]) -> Config:
    """Read a TOML configuration of one kind.

    Raises
    ------
    RequestError
        The file is missing, is not TOML, or holds an unknown or impossible entry.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}; expected a TOML configuration") from error
    except ValueError as error:
        raise RequestError(f"{path}: not TOML ({error})") from error
    known = {one.name for one in fields(kind)}
    missing = [name for name in ("manifest", "output", "teacher") if name in known and name not in table]
    if missing:
        raise RequestError(f"{path}: no entry {missing[0]!r}; add it")
    unknown = sorted(table.keys() - known)
    if unknown:
        raise RequestError(f"{path}: unknown entry {unknown[0]!r}; expected of {', '.join(sorted(known))}")
    try:
        return kind(**{key: _value(path, key, value) for key, value in table.items()})
    except (TypeError, ValueError) as error:
        raise RequestError(f"{path}: {error}") from error


def _value(path: Path, key: str, value: Any) -> Any:  # noqa: ANN401  # whatever TOML holds
    if key in _PATHS:
        if not isinstance(value, str):
            raise TypeError(f"{key} = {value!r}: expected a path between quotes")
        return (path.parent / value).resolve()
    if key == "licences":
        if not isinstance(value, list):
            raise TypeError(f"licences = {value!r}: expected a list of texts between quotes")
        return tuple(value)
    if key not in _SECTIONS:
        return value
    if not isinstance(value, dict):
        raise TypeError(f"{key} = {value!r}: expected a section [{key}]")
    values = {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
    return _SECTIONS[key](**values)
