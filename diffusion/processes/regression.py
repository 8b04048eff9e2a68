"""One-step regression: the expected phase of a magnitude; the unpredictable part is sampled.

A baseline for generative models: the network learns the gauge-fixed phase by squared error, so it has one answer per
magnitude. The sign of the phase is a convention of the scanner, which a magnitude does not contain. So targets are
normalised to one sign, and a sign, a global and a linear phase are sampled per volume.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rephase.diffusion.checkpoint import Checkpoint
from rephase.diffusion.generators import SliceKey
from rephase.diffusion.learned import LearnedGenerator, SampledImage, TileInputs
from rephase.diffusion.networks.layers import pad_to_multiple, to_real
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.noise import Stream, uniform, volume_key
from rephase.diffusion.processes.objective import Batch, Objective, drop_conditions, make_target


class RegressionObjective(Objective):
    """Learns the expected phasor by its squared error, weighted by the compressed magnitude."""

    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """Return targets, weights and conditions."""
        weight, target = make_target(batch.image)
        blocks = [
            to_real(pad_to_multiple(image, multiple)[:, None])
            for image in (to_one_sign(target), weight.to(torch.complex64))
        ]
        return blocks[0], blocks[1], drop_conditions(batch.conditions, dropout, generator)

    def error(self, network: ComplexUNet, tensors: tuple[Tensor, ...]) -> Tensor:
        """Compute the squared error over the mean power of the target, `(batch)`."""
        target, weight, conditions = tensors
        error = (predict(network, weight, conditions) - target).square().mean(dim=(1, 2, 3))
        return error / weight.square().mean(dim=(1, 2, 3)).clamp(min=1e-4)


class RegressionGenerator(LearnedGenerator):
    """Returns the expected phase of a magnitude, with a sign that is sampled per volume."""

    name = "regression"
    gain = 0.0

    def __init__(self, checkpoint: Checkpoint, steps: int | None = None, device: str = "cpu") -> None:
        if steps not in (None, 1):
            raise ValueError(f"steps = {steps}: a regression has one evaluation; leave the steps out")
        super().__init__(checkpoint, 1, device)

    @torch.no_grad()
    def _sample(self, slices: TileInputs, keys: Sequence[SliceKey]) -> SampledImage:
        weight = to_real(self._fill(slices.weight).to(torch.complex64))
        phasor = self._cut(predict(self.network, weight, slices.conditions.expand(self.tile, -1)), slices.weight.shape)
        conjugated = float(uniform(volume_key(keys[0]), Stream.SOURCE, 1)) < 0.5
        return SampledImage(phasor.conj().resolve_conj() if conjugated else phasor)


def predict(network: ComplexUNet, weight: Tensor, conditions: Tensor) -> Tensor:
    """Predict the expected image from its modulus alone, real blocks `(batch 2 height width)`."""
    prediction: Tensor = network(torch.zeros_like(weight), weight, weight.new_zeros(len(weight)), conditions)
    return prediction.float()


def to_one_sign(target: Tensor) -> Tensor:
    """Conjugate gauge-fixed images `(batch height width)` whose `sum x^2` has a negative imaginary part."""
    below = target.square().sum(dim=(-2, -1)).imag < 0
    return torch.where(below[:, None, None], target.conj().resolve_conj(), target)
