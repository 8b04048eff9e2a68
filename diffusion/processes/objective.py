"""What a network is trained for: from a batch of real slices to the error of its prediction."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.physics.gauge import fix_gauge
from rephase.diffusion.physics.grid import GRID_MM
from rephase.diffusion.physics.measurement import compress_magnitude
from rephase.diffusion.physics.source import FatEstimate


class Batch(NamedTuple):
    """Complex slices `(batch height width)` of one size, and their conditions `(batch 4)`, NaN where not known.

    `place_mm` `(batch 2)` says where the middle of each is in the slice that it was cut from; None: in its middle.
    """

    image: Tensor
    conditions: Tensor
    place_mm: Tensor | None = None


_ERROR_FLOOR = 1e-3


def log_error(error: Tensor) -> Tensor:
    """The loss of relative squared errors: the logarithm gives clean slices, whose errors are small, the same say."""
    return torch.log(error + _ERROR_FLOOR).mean()


class Objective(ABC):
    """What a network is trained for.

    Attributes
    ----------
    grid_mm
        Slices clearly finer are trained on at this spacing; see `rephase.diffusion.physics.grid`.
    fat
        The fat fraction estimate that the source phase of simulated and real slices needs, if any.
    """

    grid_mm: float = GRID_MM
    fat: FatEstimate | None = None

    @abstractmethod
    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """Make what `error` needs of a batch, with everything that is drawn for it; on the CPU."""

    @abstractmethod
    def error(self, network: ComplexUNet, tensors: tuple[Tensor, ...]) -> Tensor:
        """The relative squared error of each slice, `(batch)` or a multiple of it."""

    def facts(self) -> dict[str, Any]:
        """Return what the model card says beside the settings, such as the hash of other weights that were used."""
        return {}

    def loss(self, error: Tensor) -> Tensor:
        """What is made small: a number for the errors of a batch."""
        return log_error(error)


def make_target(image: Tensor) -> tuple[Tensor, Tensor]:
    """Compress the magnitude and fix the gauge of complex slices: their modulus and the target, of that modulus."""
    weight = compress_magnitude(image.abs())
    phasor = fix_gauge(image)
    return weight, weight * (phasor / phasor.abs().clamp(min=1e-20))


def drop_conditions(conditions: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Hide conditions at random, so that the network learns to do without any."""
    return conditions.masked_fill(torch.rand(conditions.shape, generator=generator) < dropout, math.nan)


def known_to_source(conditions: Tensor, dropped: Tensor) -> Tensor:
    """What the network is not told, its source does not know either, but for the spacing, which shapes it."""
    return torch.cat((conditions[:, :2], dropped[:, 2:]), dim=1)
