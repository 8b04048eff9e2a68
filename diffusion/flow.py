"""Flow matching in the complex plane, from a random phase to a real one at the same magnitude.

With `x_0 = w exp(i psi) + noise`, psi random, and `x_1 = w exp(i phase)`, the path is
`x_t = (1 - t) x_0 + t x_1` (Lipman et al., arXiv 2210.02747; flow matching holds for any source). Both ends have the
same modulus `w`, a compressed magnitude, so air stays air; both hold the measurement's noise, so the flow need not make
fine grain out of a smooth source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.grid import GRID_MM
from diffusion.layers import to_real
from diffusion.network import ComplexUNet
from diffusion.source import DEFAULT_SOURCE, SOURCES

LOSSES = ("log", "power")
_COARSEST_MM = 100.0


@dataclass(frozen=True)
class FlowConfig:
    """The process; stored with the checkpoint.

    `source` is the phase that the flow starts from: one of `diffusion.source.SOURCES`. `loss` is what is averaged over
    slices in training: the squared error over the slice's power ("power"), or its logarithm ("log"). Slices finer than
    `grid_mm` by a quarter are trained on and sampled at that resolution; 0 takes each at its own.
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


def interpolate(x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    """The path: `(1 - t) x_0 + t x_1`, with `t` of shape `(batch)`."""
    time = t[:, None, None, None]
    return (1.0 - time) * x_0 + time * x_1


def predict_x_1(
    network: ComplexUNet | Callable[..., Tensor], x_t: Tensor, weight: Tensor, t: Tensor, conditions: Tensor
) -> Tensor:
    """Estimate the end of the path.

    The network's input and output are scaled to unit size for every t, as Karras et al. (arXiv 2206.00364, section 5)
    do for diffusion: with D = t^2 + (1 - t)^2, `x_1 = t / D x_t + (1 - t) / sqrt(D) F(x_t / sqrt(D))`.

    Parameters
    ----------
    network
        The predictor F.
    x_t, weight
        Real blocks `(batch 2 height width)`; the imaginary part of `weight` is zero.
    t
        `(batch)`.
    conditions
        `(batch 4)`.

    Returns
    -------
    x_1
        `(batch 2 height width)`.
    """
    return _mix(_residual(network, x_t, weight, t, conditions), x_t, t)


def _power(t: Tensor) -> Tensor:
    return (t.square() + (1.0 - t).square())[:, None, None, None]


def _residual(
    network: ComplexUNet | Callable[..., Tensor], x_t: Tensor, weight: Tensor, t: Tensor, conditions: Tensor
) -> Tensor:
    result: Tensor = network(x_t * _power(t).rsqrt(), weight, t, conditions)
    return result.float()


def _mix(residual: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    time, power = t[:, None, None, None], _power(t)
    return time / power * x_t + (1.0 - time) * power.rsqrt() * residual


def flow_loss(
    network: ComplexUNet | Callable[..., Tensor],
    x_0: Tensor,
    x_1: Tensor,
    weight: Tensor,
    t: Tensor,
    conditions: Tensor,
) -> Tensor:
    """Mean squared error of the velocity, `(batch)`, relative to the mean power of the target."""
    x_t = interpolate(x_0, x_1, t)
    return velocity_error(network, x_t, x_1 - x_0, weight, t, conditions)


def velocity_error(
    network: ComplexUNet | Callable[..., Tensor],
    x_t: Tensor,
    velocity: Tensor,
    weight: Tensor,
    t: Tensor,
    conditions: Tensor,
) -> Tensor:
    """Mean squared error of the network's velocity at `x_t` against a given one, as `flow_loss` measures it."""
    residual = _residual(network, x_t, weight, t, conditions)
    # the velocity is (2 t - 1) / D x_t + F / sqrt(D), so its error is that of F over sqrt(D)
    time, power = t[:, None, None, None], _power(t)
    predicted = (2.0 * time - 1.0) / power * x_t + power.rsqrt() * residual
    error = (predicted - velocity).square().mean(dim=(1, 2, 3))
    return error / weight.square().mean(dim=(1, 2, 3)).clamp(min=1e-4)


def time_grid(steps: int) -> list[float]:
    """The times of the evaluations: `steps` points from 0, evenly spaced, the end excluded."""
    if steps < 1:
        raise ValueError(f"steps = {steps}: expected at least 1")
    return [index / steps for index in range(steps)]


def noise_gain(times: list[float]) -> float:
    """How much of the source's noise the Euler steps over `times` carry to the end, as a factor of its amplitude.

    Noise that is independent at the two ends, of one level, has `t / D x_t` as the mean of its end given x_t, which is
    the first term of `predict_x_1`. With many steps the factor goes to 1: a flow keeps the distribution. Few steps
    average noise away; the rest has to be added.
    """
    amplitude = 1.0
    for here, there in zip(times, [*times[1:], 1.0], strict=True):
        mean = here / (here**2 + (1.0 - here) ** 2)
        left = (1.0 - there) / (1.0 - here)
        amplitude *= mean + left * (1.0 - mean)
    return amplitude


@torch.no_grad()
def sample_flow(network: ComplexUNet, x_0: Tensor, weight: Tensor, times: list[float], conditions: Tensor) -> Tensor:
    """Integrate the flow with Euler steps over `times`; the last step lands on the estimated end.

    Parameters
    ----------
    network
        The predictor.
    x_0
        The source, complex64 `(batch 1 height width)`.
    weight
        Compressed magnitude, float32 `(batch 1 height width)`.
    times
        Increasing, the first 0, all below 1; one network evaluation each.
    conditions
        `(batch 4)`.

    Returns
    -------
    x_1
        Real blocks `(batch 2 height width)`.
    """
    condition = torch.cat((weight, torch.zeros_like(weight)), dim=1)
    return integrate(network, to_real(x_0), condition, times, conditions)


def integrate(network: ComplexUNet, x_0: Tensor, weight: Tensor, times: list[float], conditions: Tensor) -> Tensor:
    """The steps of `sample_flow` from and with real blocks `(batch 2 height width)`; gradients go through them."""
    x_t = x_0
    for here, there in zip(times, [*times[1:], 1.0], strict=True):
        t = torch.full((x_t.shape[0],), here, device=x_t.device)
        x_t = euler_step(network, x_t, weight, t, (1.0 - there) / (1.0 - here), conditions)
    return x_t


def euler_step(
    network: ComplexUNet, x_t: Tensor, weight: Tensor, t: Tensor, left: Tensor | float, conditions: Tensor
) -> Tensor:
    """Go along the straight line from `x_t` to the estimated end until the part `left` of the way is left."""
    x_1 = predict_x_1(network, x_t, weight, t, conditions)
    return x_1 + left * (x_t - x_1)
