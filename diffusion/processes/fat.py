"""The fat fraction of every pixel, estimated from a magnitude by a small network.

Fat precesses slower than water by 3.4 ppm, so at short echo times most phase steps between tissues show where fat
is. Brightness alone does not: it depends on sequence, coil and contrast. A network of a few layers uses more. It is
trained on real phase: `rephase.training.simulated.fat` finds the fat fraction that leaves the rest of a phase smooth.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rephase.diffusion.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from rephase.diffusion.networks.inference import for_inference
from rephase.diffusion.networks.layers import pad_to_multiple, to_real
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.physics.measurement import compress_magnitude
from rephase.diffusion.physics.source import FatEstimate
from rephase.diffusion.processes.objective import Batch, Objective, drop_conditions
from rephase.diffusion.shipped import describe_missing, shipped_weights

_SLOPE, _OFFSET = 4.0, -1.0


def predict_logits(network: ComplexUNet, weight: Tensor, conditions: Tensor) -> Tensor:
    """Compute the logits of the fat fraction, `(batch height width)`, from compressed and padded magnitudes."""
    modulus = to_real(weight[:, None].to(torch.complex64))
    logits: Tensor = network(torch.zeros_like(modulus), modulus, weight.new_zeros(len(weight)), conditions)[:, 0]
    return _SLOPE * logits.float() + _OFFSET


class FatEstimator:
    """Estimates the fat fraction with a checkpoint of the process `fat`."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        self.sha256 = checkpoint.sha256
        self.network = for_inference(checkpoint.network, device)

    @torch.no_grad()
    def __call__(self, magnitude: Tensor, conditions: Tensor) -> Tensor:
        """Estimate the fat fraction.

        Parameters
        ----------
        magnitude
            `(batch height width)`.
        conditions
            `(batch 4)`, or `(1 4)` for all: spacing along height and width (mm), TE (ms), field strength (T); NaN if
            unknown.

        Returns
        -------
        share
            0 to 1, same shape as the magnitude.
        """
        height, width = magnitude.shape[-2:]
        weight = pad_to_multiple(compress_magnitude(magnitude), self.network.config.multiple)
        share: Tensor = torch.sigmoid(predict_logits(self.network, weight, conditions.expand(len(weight), -1)))
        return share[:, :height, :width]


@functools.lru_cache(maxsize=4)
def shipped_fat_estimator(device: torch.device) -> FatEstimator:
    """Return the estimator with the shipped weights.

    Raises
    ------
    CheckpointError
        If they are missing or damaged.
    """
    path = shipped_weights("fat")
    if path is None:
        raise CheckpointError(f"source 'tissue': {describe_missing('fat')}")
    checkpoint = load_checkpoint(path)
    if checkpoint.process != "fat":
        raise CheckpointError(f"{path}: process {checkpoint.process!r}; expected fat")
    return FatEstimator(checkpoint, device)


def fat_estimator(source: str, device: torch.device) -> FatEstimate | None:
    """Return the shipped estimator for the source `tissue`, None for others."""
    return shipped_fat_estimator(device) if source == "tissue" else None


def fat_facts(source: str) -> dict[str, Any]:
    """Return the entry of a model card on the estimator that a source needs; empty if it needs none."""
    return {"fat": {"sha256": shipped_fat_estimator(torch.device("cpu")).sha256}} if source == "tissue" else {}


def check_fat(checkpoint: Checkpoint, source: str) -> None:
    """Check that weights were trained with the shipped fat estimator, or with none if their source needs none.

    Raises
    ------
    CheckpointError
        If they were trained with another one, or their card names none.
    """
    found, shipped = checkpoint.card.get("fat"), fat_facts(source).get("fat")
    if found != shipped:
        raise CheckpointError(
            f"weights {str(checkpoint.card.get('name'))[:60]!r}: trained with another fat estimate, "
            f"{str(found)[:100]}; expected the shipped one, {shipped}; train them again, or install the "
            "version that they came with"
        )


FAT_ANGLE = math.pi / 2.0
"""The phase of a training image encodes its fat fraction: this angle is fat alone."""


class FatObjective(Objective):
    """Learns the fat fraction by its cross entropy, weighted by the square of the compressed magnitude."""

    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """Return fat fractions, weights and conditions; the images are those of `rephase.training.simulated.fat`."""
        image = pad_to_multiple(batch.image, multiple)
        share = (image.angle().abs() / FAT_ANGLE).clamp(max=1.0)
        weight = pad_to_multiple(compress_magnitude(batch.image.abs()), multiple)
        return share, weight, drop_conditions(batch.conditions, dropout, generator)

    def error(self, network: ComplexUNet, tensors: tuple[Tensor, ...]) -> Tensor:
        """Compute the cross entropy over the object, `(batch)`."""
        share, weight, conditions = tensors
        logits = predict_logits(network, weight, conditions)
        entropy = functional.binary_cross_entropy_with_logits(logits, share, reduction="none")
        counts = weight.square()
        return (counts * entropy).sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp(min=1e-6)

    def loss(self, error: Tensor) -> Tensor:
        """Return the mean."""
        return error.mean()
