"""The published process (PhaseGen, Rempe et al., arXiv 2504.07560), in a consistent form: diffusion with phase noise.

`x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise` with the cosine schedule of Nichol & Dhariwal (arXiv
2102.09672), and noise of modulus one and independent uniform phase in every pixel. Here `x_0` is the data, as in papers
on diffusion, not the source as in papers on flows. The network sees `x_t` and the magnitude, and predicts
`v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0` (Salimans & Ho, arXiv 2202.00512), which unlike the noise itself
is worth predicting at every noise level. README.md lists where the published code differs, and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rephase.diffusion.checkpoint import Checkpoint
from rephase.diffusion.generators import SliceKey
from rephase.diffusion.learned import LearnedGenerator, SampledImage, TileInputs
from rephase.diffusion.networks.layers import pad_to_multiple, to_real
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.noise import Stream, random_phasors, step_key
from rephase.diffusion.processes.objective import Batch, Objective, drop_conditions, make_target

_OFFSET = 0.008
_LARGEST_BETA = 0.999
_MOST_TIMESTEPS = 100_000
Network: TypeAlias = ComplexUNet | Callable[..., Tensor]


@dataclass(frozen=True)
class DdpmConfig:
    """Settings of the process, in a training file and in a model card."""

    RETIRED: ClassVar[dict[str, tuple[str, ...]]] = {"noise": ("unit",), "sampler": ("deterministic",)}
    """Entries of cards of earlier versions, with the values that sample identically in this version."""
    timesteps: Annotated[int, Ge(1), Le(_MOST_TIMESTEPS)] = 1000
    """Steps from data to noise."""


def cosine_alpha_bar(timesteps: int) -> Tensor:
    """Return the cosine schedule: `alpha_bar` of the steps 0 (no noise) to `timesteps`, float64 `(timesteps + 1)`."""
    time = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((time + _OFFSET) / (1.0 + _OFFSET) * math.pi / 2.0).square()
    betas = (1.0 - f[1:] / f[:-1]).clamp(max=_LARGEST_BETA)
    return torch.cat((torch.ones(1, dtype=torch.float64), torch.cumprod(1.0 - betas, dim=0)))


def choose_timesteps(timesteps: int, steps: int) -> list[int]:
    """Return `steps` of the process's timesteps, evenly spaced, in decreasing order from the last one.

    Raises
    ------
    ValueError
        If the process has fewer timesteps.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps = {steps}: expected 1 to {timesteps}, the timesteps of the weights")
    return [round(timesteps * (steps - index) / steps) for index in range(steps)]


class DdpmObjective(Objective):
    """Learns to predict `v`."""

    def __init__(self, config: DdpmConfig) -> None:
        self.config = config
        self.alpha_bar = cosine_alpha_bar(config.timesteps)

    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """Return `x_0`, noise and magnitude as real blocks, `alpha_bar`, times and conditions."""
        weight, target = make_target(batch.image)
        number = torch.randint(1, self.config.timesteps + 1, (len(weight),), generator=generator)
        conditions = drop_conditions(batch.conditions, dropout, generator)
        angle = 2.0 * math.pi * torch.rand(weight.shape, generator=generator)
        noise = torch.polar(torch.ones_like(angle), angle)
        images = (target, noise, weight.to(torch.complex64))
        blocks = [to_real(pad_to_multiple(image, multiple)[:, None]) for image in images]
        return *blocks, self.alpha_bar[number].float(), number / self.config.timesteps, conditions

    def error(self, network: Network, tensors: tuple[Tensor, ...]) -> Tensor:
        """Compute the mean squared error of `v`, `(batch)`, relative to the mean power of the target."""
        x_0, noise, weight, alpha_bar, t, conditions = tensors
        signal, level = _amplitudes(alpha_bar[:, None, None, None])
        v = predict_v(network, signal * x_0 + level * noise, weight, alpha_bar, t, conditions)
        error: Tensor = (v - (signal * noise - level * x_0)).square().mean(dim=(1, 2, 3))
        return error / weight.square().mean(dim=(1, 2, 3)).clamp(min=1e-4)


@torch.no_grad()
def sample_ddpm(
    network: Network, noise: Tensor, weight: Tensor, config: DdpmConfig, steps: int, conditions: Tensor
) -> Tensor:
    """Sample by running the process backwards, with the deterministic sampler of Song et al. (arXiv 2010.02502).

    It adds no noise, so its path is valid for any noise distribution. The published sampler adds a unit phasor
    in every step, and the sum of many does not have unit modulus.

    Parameters
    ----------
    network
        The predictor of `v`.
    noise
        Initial noise, complex64 `(batch 1 height width)`.
    weight
        Compressed magnitude, float32 `(batch 1 height width)`.
    config
        The process that the network was trained for.
    steps
        Network evaluations, at evenly spaced timesteps.
    conditions
        `(batch 4)`.

    Returns
    -------
    x_0
        Real blocks `(batch 2 height width)`.
    """
    chosen = choose_timesteps(config.timesteps, steps)
    schedule = cosine_alpha_bar(config.timesteps).tolist()
    condition = torch.cat((weight, torch.zeros_like(weight)), dim=1)
    x_t = math.sqrt(1.0 - schedule[-1]) * to_real(noise)
    for step, step_next in zip(chosen, [*chosen[1:], 0], strict=True):
        t = torch.full((len(x_t),), step / config.timesteps, device=x_t.device)
        alpha_bar, alpha_bar_next = schedule[step], schedule[step_next]
        v = predict_v(network, x_t, condition, torch.full_like(t, alpha_bar), t, conditions)
        x_0 = math.sqrt(alpha_bar) * x_t - math.sqrt(1.0 - alpha_bar) * v
        estimate = math.sqrt(1.0 - alpha_bar) * x_t + math.sqrt(alpha_bar) * v  # of the noise
        x_t = math.sqrt(alpha_bar_next) * x_0 + math.sqrt(1.0 - alpha_bar_next) * estimate  # eq. 12 with sigma = 0
    return x_t


def predict_v(
    network: Network, x_t: Tensor, weight: Tensor, alpha_bar: Tensor, t: Tensor, conditions: Tensor
) -> Tensor:
    """Estimate `v`, real blocks `(batch 2 height width)`.

    The modulus w of `x_0` is known, so with P = alpha_bar w^2 + 1 - alpha_bar the best linear estimate of v is
    `sqrt(alpha_bar (1 - alpha_bar)) (1 - w^2) / P x_t`, and its error has the standard deviation `w / sqrt(P)`, by
    which the network's output is scaled (as Karras et al., arXiv 2206.00364, section 5, do). In air the estimate is
    exact.
    """
    signal, level = _amplitudes(alpha_bar[:, None, None, None])
    modulus = weight[:, :1]
    power = (signal * modulus).square() + level.square()
    residual: Tensor = network(x_t * power.rsqrt(), weight, t, conditions).float()
    return signal * level * (1.0 - modulus.square()) / power * x_t + modulus * power.rsqrt() * residual


def _amplitudes(alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    return alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()


class DdpmGenerator(LearnedGenerator):
    """Samples phase by diffusion with phase noise, the published process; see `rephase.diffusion.processes.ddpm`."""

    gain = 1.0

    def __init__(self, checkpoint: Checkpoint, steps: int | None = None, device: str = "cpu") -> None:
        self.config = checkpoint.settings(DdpmConfig)
        steps = self.config.timesteps if steps is None else steps
        choose_timesteps(self.config.timesteps, steps)  # raises if the process has fewer timesteps
        super().__init__(checkpoint, steps, device)

    def _sample(self, slices: TileInputs, keys: Sequence[SliceKey]) -> SampledImage:
        shape = slices.weight.shape
        # keyed by step, as it was when a sampler could add noise in every step: equal keys, equal bytes
        start = random_phasors([step_key(key, 0) for key in keys], Stream.SOURCE, shape[-2], shape[-1], self.device)
        conditions = slices.conditions.expand(self.tile, -1)
        x_0 = sample_ddpm(self.network, self._fill(start), self._fill(slices.weight), self.config, self.nfe, conditions)
        return SampledImage(self._cut(x_0, shape))
