"""The interface of training objectives: from a batch of real slices to the error of a prediction."""

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
    """Complex slices of one size, `(batch height width)`, with conditions `(batch 4)`, NaN where not known.

    `place_mm`, `(batch 2)`, is the position of the centre of each in the slice that it was cropped from; its centre if
    None.
    """

    image: Tensor
    conditions: Tensor
    place_mm: Tensor | None = None


_ERROR_FLOOR = 1e-3


def log_error(error: Tensor) -> Tensor:
    """Return the mean logarithm of relative squared errors: clean slices, whose errors are small, count as much."""
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
        """Prepare what `error` needs of a batch, with all random numbers, on the CPU."""

    @abstractmethod
    def error(self, network: ComplexUNet, tensors: tuple[Tensor, ...]) -> Tensor:
        """Compute the relative squared error of each slice, `(batch)` or a multiple of it."""

    def facts(self) -> dict[str, Any]:
        """Return entries of the model card beside the settings, such as the hash of other weights that were used."""
        return {}

    def loss(self, error: Tensor) -> Tensor:
        """Return the loss of the errors of a batch: the mean logarithm, unless overridden."""
        return log_error(error)


def make_target(image: Tensor) -> tuple[Tensor, Tensor]:
    """Compress the magnitude of complex slices and fix their gauge; return the modulus, and the target with it."""
    weight = compress_magnitude(image.abs())
    phasor = fix_gauge(image)
    return weight, weight * (phasor / phasor.abs().clamp(min=1e-20))


def drop_conditions(conditions: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Hide conditions at random, so that the network learns to do without any."""
    return conditions.masked_fill(torch.rand(conditions.shape, generator=generator) < dropout, math.nan)


def known_to_source(conditions: Tensor, dropped: Tensor) -> Tensor:
    """Return the conditions for the source: those of the network, but always the spacing, which its scales need."""
    return torch.cat((conditions[:, :2], dropped[:, 2:]), dim=1)
