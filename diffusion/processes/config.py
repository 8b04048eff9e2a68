"""Configurations of the learned processes, as training files and model cards hold them."""

from __future__ import annotations

from dataclasses import dataclass

from rephase.diffusion.physics.grid import GRID_MM
from rephase.diffusion.physics.source import DEFAULT_SOURCE, SOURCES

NOISES = ("unit", "normal")
SAMPLERS = ("deterministic", "ancestral")
_MOST_TIMESTEPS = 100_000
LOSSES = ("log", "power")
_COARSEST_MM = 100.0


@dataclass(frozen=True)
class FlowConfig:
    """The process; stored with the checkpoint.

    `source` is the phase that the flow starts from: one of `rephase.diffusion.physics.source.SOURCES`. `loss` is what
    is averaged over slices in training: the squared error over the slice's power ("power"), or its logarithm ("log").
    Slices finer than `grid_mm` by a quarter are trained on and sampled at that resolution; 0 takes each at its own.
    """

    source: str = DEFAULT_SOURCE
    loss: str = "power"
    grid_mm: float = GRID_MM

    def __post_init__(self) -> None:
        for name, known in (("source", SOURCES), ("loss", LOSSES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(known)}")
        if type(self.grid_mm) not in (int, float) or not 0 <= self.grid_mm <= _COARSEST_MM:
            raise ValueError(f"grid_mm = {self.grid_mm!r}: expected 0 (none) to {_COARSEST_MM:g} mm")


@dataclass(frozen=True)
class DdpmConfig:
    """The process; stored with the checkpoint.

    `noise` is "unit" (modulus one, as published) or "normal" (complex normal). `sampler` is "deterministic", which is
    right for either noise, or "ancestral", the published one: it adds noise in every step, and the sum of many unit
    phasors is a normal number, which a network that was trained on unit noise never saw.
    """

    timesteps: int = 1000
    noise: str = "unit"
    sampler: str = "deterministic"

    def __post_init__(self) -> None:
        if type(self.timesteps) is not int or not 1 <= self.timesteps <= _MOST_TIMESTEPS:
            raise ValueError(f"timesteps = {self.timesteps!r}: expected a whole number of 1 to {_MOST_TIMESTEPS}")
        if self.noise not in NOISES:
            raise ValueError(f"noise {self.noise!r}: expected one of {', '.join(NOISES)}")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler {self.sampler!r}: expected one of {', '.join(SAMPLERS)}")
