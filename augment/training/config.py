"""The configurations of `rephase train` and `rephase distill`: TOML, checked before anything is read."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, TypeVar

from rephase.diffusion.checkpoint import MOST_STEPS
from rephase.diffusion.networks.unet import NetworkConfig
from rephase.diffusion.processes.distillation import DistillationConfig
from rephase.diffusion.registry import PROCESSES
from rephase.diffusion.training.checks import check_number, check_whole
from rephase.diffusion.training.trainer import TrainingConfig
from rephase.errors import RequestError
from rephase.training.simulated.anatomy import SimulationConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What training and distillation share; relative paths are relative to the configuration file.

    `manifest` names rows with a `phase` or `kspace` column, of which those of `split` are taken (all where it is
    empty). The run folder `output` keeps the state; the checkpoint `<name>.safetensors` and its card are written there.
    Where `licences` names some, only rows under these are taken; `simulation` adds simulated volumes to the rows.
    `card` is copied into the model card (title, licence, intended use); its `steps`, which a distillation sets itself,
    are the evaluations that a sampler takes where none are asked for.
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
        if not self.name.isprintable() or not self.name or "/" in self.name or self.name in _OWN_NAMES:
            raise ValueError(f"name {self.name!r}: expected the name of a file, other than {', '.join(_OWN_NAMES)}")
        if self.validation_split and self.split in ("", self.validation_split):
            raise ValueError(
                f"validation_split {self.validation_split!r}: its rows are trained on; set split to another"
            )
        check_number(self, "noise_augmentation", most=1.0)
        check_whole(self, 1, "validation_slices", "validate_every")
        check_whole(self, 0, "picture_every")
        _check_card(self.card)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """The configuration of `rephase train`.

    `process` is a name of `rephase.diffusion.registry.PROCESSES`; if it has settings, they are in the section of that
    name: `read_config` adds these sections as fields. `initial` is a checkpoint whose weights the training starts from.
    """

    process: str = "flow"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    initial: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.process not in PROCESSES:
            raise ValueError(f"process {self.process!r}: expected one of {', '.join(PROCESSES)}")
        for name, other in PROCESSES.items():
            if (
                name != self.process
                and other.config is not None
                and getattr(self, name, None) not in (None, other.config())
            ):
                raise ValueError(f"{name}: found settings, but the process is {self.process!r}; leave the section out")
        if PROCESSES[self.process].generator is None and (self.picture_every or self.validation_split):
            raise ValueError(
                f"process {self.process!r}: samples no phase; expected picture_every = 0 and no validation_split"
            )

    @property
    def settings(self) -> Any:  # noqa: ANN401  # of the type that PROCESSES has for it
        """Return the settings of the process; None if it has none."""
        return getattr(self, self.process, None)


@dataclass(frozen=True, kw_only=True)
class DistillConfig(RunConfig):
    """The configuration of `rephase distill`; `teacher` is the checkpoint that the student starts from and follows."""

    teacher: Path
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if "steps" in self.card:
            raise ValueError("card: steps are the evaluations of [distillation]; leave them out")


BEST = "best"
"""Name of the checkpoint with the best validation score."""
_OWN_NAMES = (BEST, "state", "ema", "recipe")
"""What a run folder calls its own files."""
_OWN_ENTRIES = {
    "format", "process", "network", "training", "data", "made_with", "distillation", "initial", BEST, *PROCESSES,
}  # fmt: skip
"""What a training writes into the model card itself."""
Config = TypeVar("Config", bound=RunConfig)
_SECTIONS = {
    "network": NetworkConfig,
    "training": TrainingConfig,
    "distillation": DistillationConfig,
    "simulation": SimulationConfig,
}
_PATHS = ("manifest", "output", "initial", "teacher")


def _check_card(card: object) -> None:
    if not isinstance(card, dict):
        raise ValueError(f"card = {card!r}: expected a section [card]")
    taken = sorted(card.keys() & _OWN_ENTRIES)
    if taken:
        raise ValueError(f"card: {taken[0]} is what the training itself writes; give it another name")
    steps = card.get("steps", 1)
    if type(steps) is not int or not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"card: steps = {steps!r}: expected a whole number of 1 to {MOST_STEPS}")
    try:
        json.dumps(card, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"card: {error}; expected texts, numbers, lists and tables; put others between quotes"
        ) from None


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
    if issubclass(kind, TrainConfig):
        kind = _with_processes(kind)
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


def _with_processes(kind: type[Config]) -> type[Config]:
    """Add a section for the settings of each process: a field of its name."""
    rows = {name: one.config for name, one in PROCESSES.items() if one.config is not None}
    sections = [(name, config, field(default_factory=config)) for name, config in rows.items()]
    return make_dataclass(kind.__name__, sections, bases=(kind,), frozen=True, kw_only=True)


def _value(path: Path, key: str, value: Any) -> Any:  # noqa: ANN401  # whatever TOML holds
    if key in _PATHS:
        if not isinstance(value, str):
            raise TypeError(f"{key} = {value!r}: expected a path between quotes")
        return (path.parent / value).resolve()
    if key == "licences":
        if not isinstance(value, list):
            raise TypeError(f"licences = {value!r}: expected a list of texts between quotes")
        return tuple(value)
    sections = _SECTIONS | {name: one.config for name, one in PROCESSES.items() if one.config is not None}
    if key not in sections:
        return value
    if not isinstance(value, dict):
        raise TypeError(f"{key} = {value!r}: expected a section [{key}]")
    values = {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
    return sections[key](**values)
