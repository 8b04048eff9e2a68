"""What the network that guesses fat is trained for; see `diffusion.fat`."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from diffusion.fat import predict_logits
from diffusion.layers import pad_to_multiple
from diffusion.measurement import compress_magnitude
from diffusion.network import ComplexUNet
from diffusion.objective import Batch, Objective, drop_conditions

FAT_ANGLE = math.pi / 2.0
"""The phase of a training image says what its share of fat is: this angle is all fat."""


class FatObjective(Objective):
    """The cross entropy of the share of fat, weighted by the square of the compressed magnitude."""

    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """Shares, weights and conditions; the images are those of `augment.fat_separation`."""
        image = pad_to_multiple(batch.image, multiple)
        share = (image.angle().abs() / FAT_ANGLE).clamp(max=1.0)
        weight = pad_to_multiple(compress_magnitude(batch.image.abs()), multiple)
        return share, weight, drop_conditions(batch.conditions, dropout, generator)

    def error(self, network: ComplexUNet, tensors: tuple[Tensor, ...]) -> Tensor:
        """The cross entropy over the object, `(batch)`."""
        share, weight, conditions = tensors
        logits = predict_logits(network, weight, conditions)
        entropy = functional.binary_cross_entropy_with_logits(logits, share, reduction="none")
        counts = weight.square()
        return (counts * entropy).sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp(min=1e-6)

    def loss(self, error: Tensor) -> Tensor:
        """The mean."""
        return error.mean()
