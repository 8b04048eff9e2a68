"""What a network is trained for: from a batch of real slices to the error of its prediction."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.flow import FlowConfig, flow_loss
from diffusion.gauge import fix_gauge
from diffusion.layers import pad_to_multiple, to_real
from diffusion.measurement import compress_magnitude, estimate_sigma, noise_modulus
from diffusion.network import ComplexUNet
from diffusion.source import DEFAULT_SOURCE, FatGuess, training_source


class Batch(NamedTuple):
    """Complex slices `(batch height width)` of one size, and their conditions `(batch 4)`, NaN where not known.

    `place_mm` `(batch 2)` says where the middle of each is in the slice that it was cut from; None: in its middle.
    """

    image: Tensor
    conditions: Tensor
    place_mm: Tensor | None = None


class Tensors(NamedTuple):
    """What one step needs: source, target and weight as real blocks, times and conditions."""

    x_0: Tensor
    x_1: Tensor
    weight: Tensor
    t: Tensor
    conditions: Tensor


def prepare_batch(
    batch: Batch,
    dropout: float,
    generator: torch.Generator,
    multiple: int,
    source: str = DEFAULT_SOURCE,
    fat: FatGuess | None = None,
) -> Tensors:
    """Gauge-fix, compress and pad a batch, and draw source phases, times and dropped conditions for it."""
    magnitude = batch.image.abs()
    weight, target = make_target(batch.image)
    t = torch.rand(len(magnitude), generator=generator)
    conditions = drop_conditions(batch.conditions, dropout, generator)
    known = known_to_source(batch.conditions, conditions)
    x_0 = weight * training_source(magnitude, known, generator, source, batch.place_mm, fat)
    normals = torch.randn((*magnitude.shape, 2), generator=generator)
    x_0 = x_0 + noise_modulus(magnitude, weight, estimate_sigma(magnitude)) * torch.view_as_complex(normals)
    blocks = [to_real(pad_to_multiple(image, multiple)[:, None]) for image in (x_0, target, weight.to(torch.complex64))]
    return Tensors(blocks[0], blocks[1], blocks[2], t, conditions)


_ERROR_FLOOR = 1e-3


def log_error(error: Tensor) -> Tensor:
    """The loss of relative squared errors: the logarithm gives clean slices, whose errors are small, the same say."""
    return torch.log(error + _ERROR_FLOOR).mean()


class Objective(ABC):
    """What a network is trained for."""

    @abstractmethod
    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """Make what `error` needs of a batch, with everything that is drawn for it; on the CPU."""

    @abstractmethod
    def error(self, network: ComplexUNet, tensors: tuple[Tensor, ...]) -> Tensor:
        """The relative squared error of each slice, `(batch)` or a multiple of it."""

    def loss(self, error: Tensor) -> Tensor:
        """What is made small: a number for the errors of a batch."""
        return log_error(error)


class FlowObjective(Objective):
    """The velocity of the flow; see `diffusion.flow`."""

    def __init__(self, config: FlowConfig | None = None, fat: FatGuess | None = None) -> None:
        self.config, self.fat = config or FlowConfig(), fat

    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """See `prepare_batch`."""
        return prepare_batch(batch, dropout, generator, multiple, self.config.source, self.fat)

    def error(self, network: ComplexUNet, tensors: tuple[Tensor, ...]) -> Tensor:
        """See `diffusion.flow.flow_loss`."""
        x_0, x_1, weight, t, conditions = tensors
        return flow_loss(network, x_0, x_1, weight, t, conditions)

    def loss(self, error: Tensor) -> Tensor:
        """See `FlowConfig`."""
        return error.mean() if self.config.loss == "power" else log_error(error)


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
