"""The interface of training objectives: from a batch of real slices to the error of a prediction."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.physics.gauge import fix_gauge
from rephase.diffusion.physics.grid import GRID_MM
from rephase.diffusion.physics.measurement import compress_magnitude


class Batch(NamedTuple):
    """Complex slices of one size, `(batch height width)`, with conditions `(batch 4)`, NaN if unknown.

    `place_mm`, `(batch 2)`, is the position of each centre, in mm from the centre of the slice that it was cropped
    from; None means 0. `sigma`, `(batch)`, is the noise of real and imaginary part; None: estimated from the images.
    """

    image: Tensor
    conditions: Tensor
    place_mm: Tensor | None = None
    sigma: Tensor | None = None


_ERROR_FLOOR = 1e-3


def log_error(error: Tensor) -> Tensor:
    """Return the mean logarithm of relative squared errors: clean slices with small errors get equal weight."""
    return torch.log(error + _ERROR_FLOOR).mean()


class Objective(ABC):
    """A training objective of a network.

    Attributes
    ----------
    grid_mm
        Clearly finer slices are resampled to this spacing; see `rephase.diffusion.physics.grid`.
    """

    grid_mm: float = GRID_MM

    @abstractmethod
    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """Return the tensors of a batch for `error`, random numbers included, on the CPU."""

    @abstractmethod
    def error(self, network: ComplexUNet, tensors: tuple[Tensor, ...]) -> Tensor:
        """Compute the relative squared error of each slice, `(batch)` or a multiple of it."""

    def loss(self, error: Tensor) -> Tensor:
        """Compute the loss from the errors of a batch: the mean logarithm, unless overridden."""
        return log_error(error)


def make_target(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return compressed magnitude and target of complex slices: the gauge-fixed image with that modulus."""
    weight = compress_magnitude(image.abs())
    phasor = fix_gauge(image)
    return weight, weight * (phasor / phasor.abs().clamp(min=1e-20))


def drop_conditions(conditions: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Set conditions to NaN at random, so that the network learns to work without them."""
    return conditions.masked_fill(torch.rand(conditions.shape, generator=generator) < dropout, math.nan)


def known_to_source(conditions: Tensor, dropped: Tensor) -> Tensor:
    """Return the conditions for the source: those of the network, always with the spacing, which its scales need."""
    return torch.cat((conditions[:, :2], dropped[:, 2:]), dim=1)
