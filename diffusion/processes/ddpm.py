"""The published process (PhaseGen, Rempe et al., arXiv 2504.07560), made consistent: diffusion with phase noise.

`x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise` with the cosine schedule of Nichol & Dhariwal (arXiv
2102.09672), and noise of modulus one and independent uniform phase in every pixel. Here `x_0` is the data, as in the
papers on diffusion, not the source as in those on flows. The network sees `x_t` and the magnitude; what is predicted is
`v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0` (Salimans & Ho, arXiv 2202.00512), which unlike the noise itself
is worth predicting at every noise level. README.md says where the published code differs, and why this does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from rephase.diffusion.checkpoint import Checkpoint
from rephase.diffusion.generators import SliceKey
from rephase.diffusion.learned import Drawn, LearnedGenerator, Slices
from rephase.diffusion.networks.layers import pad_to_multiple, to_real
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.noise import Stream, complex_normals, random_phasors, step_key
from rephase.diffusion.processes.config import DdpmConfig
from rephase.diffusion.processes.objective import Batch, Objective, drop_conditions, make_target

_OFFSET = 0.008
_LARGEST_BETA = 0.999
Network: TypeAlias = ComplexUNet | Callable[..., Tensor]


def cosine_alpha_bar(timesteps: int) -> Tensor:
    """The cosine schedule: `alpha_bar` of the steps 0 (no noise) to `timesteps`, float64 `(timesteps + 1)`."""
    time = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((time + _OFFSET) / (1.0 + _OFFSET) * math.pi / 2.0).square()
    betas = (1.0 - f[1:] / f[:-1]).clamp(max=_LARGEST_BETA)
    return torch.cat((torch.ones(1, dtype=torch.float64), torch.cumprod(1.0 - betas, dim=0)))


def choose_timesteps(timesteps: int, steps: int) -> list[int]:
    """Choose `steps` of the process's timesteps, evenly spaced, from the last one downwards.

    Raises
    ------
    ValueError
        There are not so many.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps = {steps}: expected 1 to {timesteps}, the timesteps of the weights")
    return [round(timesteps * (steps - index) / steps) for index in range(steps)]


class DdpmObjective(Objective):
    """The prediction of `v`; see `rephase.diffusion.processes.objective.Objective`."""

    def __init__(self, config: DdpmConfig) -> None:
        self.config = config
        self.alpha_bar = cosine_alpha_bar(config.timesteps)

    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """Make `x_0`, noise and magnitude as real blocks, `alpha_bar`, times and conditions."""
        weight, target = make_target(batch.image)
        number = torch.randint(1, self.config.timesteps + 1, (len(weight),), generator=generator)
        conditions = drop_conditions(batch.conditions, dropout, generator)
        if self.config.noise == "unit":
            angle = 2.0 * math.pi * torch.rand(weight.shape, generator=generator)
            noise = torch.polar(torch.ones_like(angle), angle)
        else:
            noise = torch.view_as_complex(torch.randn((*weight.shape, 2), generator=generator)) * math.sqrt(0.5)
        images = (target, noise, weight.to(torch.complex64))
        blocks = [to_real(pad_to_multiple(image, multiple)[:, None]) for image in images]
        return *blocks, self.alpha_bar[number].float(), number / self.config.timesteps, conditions

    def error(self, network: Network, tensors: tuple[Tensor, ...]) -> Tensor:
        """Mean squared error of `v`, `(batch)`, relative to the mean power of the target."""
        x_0, noise, weight, alpha_bar, t, conditions = tensors
        signal, level = _amplitudes(alpha_bar[:, None, None, None])
        v = predict_v(network, signal * x_0 + level * noise, weight, alpha_bar, t, conditions)
        error: Tensor = (v - (signal * noise - level * x_0)).square().mean(dim=(1, 2, 3))
        return error / weight.square().mean(dim=(1, 2, 3)).clamp(min=1e-4)


@torch.no_grad()
def sample_ddpm(
    network: Network,
    noise: Callable[[int], Tensor],
    weight: Tensor,
    config: DdpmConfig,
    steps: int,
    conditions: Tensor,
) -> Tensor:
    """Run the process backwards.

    Parameters
    ----------
    network
        The predictor of `v`.
    noise
        Gives the noise of a step, complex64 `(batch 1 height width)`: that of step 0 is the start, the others are asked
        for by the ancestral sampler alone.
    weight
        Compressed magnitude, float32 `(batch 1 height width)`.
    config
        The process that the network was trained for.
    steps
        Evaluations of the network; the timesteps are thinned out evenly.
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
    x_t = math.sqrt(1.0 - schedule[-1]) * to_real(noise(0))
    for index, (here, there) in enumerate(zip(chosen, [*chosen[1:], 0], strict=True)):
        t = torch.full((len(x_t),), here / config.timesteps, device=x_t.device)
        alpha_bar = torch.full_like(t, schedule[here])
        v = predict_v(network, x_t, condition, alpha_bar, t, conditions)
        old, new = schedule[here], schedule[there]
        x_0 = math.sqrt(old) * x_t - math.sqrt(1.0 - old) * v
        estimate = math.sqrt(1.0 - old) * x_t + math.sqrt(old) * v
        if config.sampler == "deterministic" or not there:
            x_t = math.sqrt(new) * x_0 + math.sqrt(1.0 - new) * estimate  # Song et al., arXiv 2010.02502, eq. 12
            continue
        variance = (1.0 - new) / (1.0 - old) * (1.0 - old / new)  # the same, eq. 16 with eta = 1
        kept = math.sqrt(max(1.0 - new - variance, 0.0))
        x_t = math.sqrt(new) * x_0 + kept * estimate + math.sqrt(variance) * to_real(noise(index + 1))
    return x_t


def predict_v(
    network: Network, x_t: Tensor, weight: Tensor, alpha_bar: Tensor, t: Tensor, conditions: Tensor
) -> Tensor:
    """Estimate `v`, real blocks `(batch 2 height width)`.

    The modulus w of `x_0` is known, so with P = alpha_bar w^2 + 1 - alpha_bar the best linear estimate of v is
    `sqrt(alpha_bar (1 - alpha_bar)) (1 - w^2) / P x_t`, and its error has the deviation `w / sqrt(P)`: that is what the
    network's output is scaled by (as Karras et al., arXiv 2206.00364, section 5, do). In air the estimate is exact.
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
        self.config = DdpmConfig(**checkpoint.card.get("ddpm", {}))
        steps = self.config.timesteps if steps is None else steps
        choose_timesteps(self.config.timesteps, steps)  # refuses what cannot be
        super().__init__(checkpoint, steps, device)

    def _draw(self, slices: Slices, keys: Sequence[SliceKey]) -> Drawn:
        shape = slices.weight.shape
        draw = random_phasors if self.config.noise == "unit" else _unit_normals

        def noise(step: int) -> Tensor:
            step_keys = [step_key(key, step) for key in keys]
            return self._fill(draw(step_keys, Stream.SOURCE, shape[-2], shape[-1], self.device))

        conditions = slices.conditions.expand(self.tile, -1)
        x_0 = sample_ddpm(self.network, noise, self._fill(slices.weight), self.config, self.nfe, conditions)
        return Drawn(self._cut(x_0, shape))


def _unit_normals(keys: Sequence[SliceKey], stream: Stream, height: int, width: int, device: torch.device) -> Tensor:
    return complex_normals(keys, stream, height, width, device) * math.sqrt(0.5)
