"""Flow matching in the complex plane, from a random phase to a real one of the same magnitude.

With `x_0 = w exp(i psi) + noise`, psi random, and `x_1 = w exp(i phase)`, the path is
`x_t = (1 - t) x_0 + t x_1` (Lipman et al., arXiv 2210.02747; flow matching is valid for any source). Both ends have the
same modulus `w`, a compressed magnitude, so air remains air; both contain the measurement noise, so the flow need not
create noise from a smooth source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

import torch
from annotated_types import Ge, Le
from torch import Tensor

from rephase.diffusion.checkpoint import Checkpoint
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.learned import LearnedGenerator, SampledImage, TileInputs
from rephase.diffusion.networks.layers import pad_to_multiple, to_real
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.noise import Stream, anchored_normals, complex_normals
from rephase.diffusion.physics.field_phase import TYPICAL_SPACING_MM
from rephase.diffusion.physics.grid import GRID_MM
from rephase.diffusion.physics.measurement import estimate_sigma, noise_modulus
from rephase.diffusion.physics.singularities import bright_squares
from rephase.diffusion.physics.singularity_removal import remove_singularities
from rephase.diffusion.physics.source import (
    DEFAULT_SOURCE,
    OF_MAGNITUDE,
    SOURCES,
    TYPICAL_SLICE_MM,
    source_phasors,
    training_source,
)
from rephase.diffusion.processes.objective import (
    Batch,
    Objective,
    drop_conditions,
    known_to_source,
    make_target,
)

Network: TypeAlias = ComplexUNet | Callable[..., Any]
_COARSEST_MM = 100.0


@dataclass(frozen=True)
class FlowConfig:
    """Settings of the flow, in a training file and in a model card."""

    RETIRED: ClassVar[dict[str, tuple[str, ...]]] = {"loss": ("power", "log")}
    """Entries of cards of earlier versions, with the values that sample identically in this version."""
    source: str = DEFAULT_SOURCE
    """Source phase that the flow starts from: narrow, scales or field."""
    grid_mm: Annotated[float, Ge(0), Le(_COARSEST_MM)] = GRID_MM
    """Slices finer than this by a quarter are trained on and sampled at this spacing; 0 keeps the spacing of each."""
    noise: bool = True
    """Whether the source contains measurement noise; without, the samples are smooth and all noise is added to them."""

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source {self.source!r}: expected one of {', '.join(SOURCES)}")


def interpolate(x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    """Return the point of the path at the times `t`, `(batch)`: `(1 - t) x_0 + t x_1`."""
    time = t[:, None, None, None]
    return (1.0 - time) * x_0 + time * x_1


def flow_loss(network: Network, x_0: Tensor, x_1: Tensor, weight: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
    """Compute the mean squared error of the velocity, `(batch)`, relative to the mean power of the target.

    All but `t`, `(batch)`, and `conditions`, `(batch 4)`, are real blocks `(batch 2 height width)`.
    """
    x_t = interpolate(x_0, x_1, t)
    time = t[:, None, None, None]
    power = time.square() + (1.0 - time).square()
    residual = network(x_t * power.rsqrt(), weight, t, conditions).float()
    # The estimated end of `integrate`, written as a velocity: its error is that of the residual over sqrt(D).
    velocity = (2.0 * time - 1.0) / power * x_t + power.rsqrt() * residual
    error = (velocity - (x_1 - x_0)).square().mean(dim=(1, 2, 3))
    relative: Tensor = error / weight.square().mean(dim=(1, 2, 3)).clamp(min=1e-4)
    return relative


def time_grid(steps: int) -> list[float]:
    """Return the times of the network evaluations: `steps` points from 0, evenly spaced, without the end."""
    if steps < 1:
        raise ValueError(f"steps = {steps}: expected at least 1")
    return [index / steps for index in range(steps)]


def noise_gain(times: list[float]) -> float:
    """Return the fraction of the source's noise, in amplitude, that remains after Euler steps over `times`.

    If the noise of both ends is independent and of one level, the mean of the end given x_t is `t / D x_t`, the first
    term of x_1 in `integrate`. With many steps the factor approaches 1, because a flow preserves the distribution. Few
    steps average noise away; the remainder has to be added.
    """
    amplitude = 1.0
    for here, there in zip(times, [*times[1:], 1.0], strict=True):
        mean = here / (here**2 + (1.0 - here) ** 2)
        left = (1.0 - there) / (1.0 - here)
        amplitude *= mean + left * (1.0 - mean)
    return amplitude


@torch.no_grad()
def sample_flow(network: Network, x_0: Tensor, weight: Tensor, times: list[float], conditions: Tensor) -> Tensor:
    """Sample from the flow, without gradients.

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


def integrate(network: Network, x_0: Tensor, weight: Tensor, times: list[float], conditions: Tensor) -> Tensor:
    """Integrate the flow with Euler steps over `times`; the last step yields the estimated end.

    Like `sample_flow`, but from real blocks `(batch 2 height width)`, and with gradients.
    """
    x_t = x_0
    for t, t_next in zip(times, [*times[1:], 1.0], strict=True):
        time = torch.full((len(x_t), 1, 1, 1), t, device=x_t.device)
        # Karras et al. (arXiv 2206.00364, section 5): input and output of the network have unit variance at every t.
        power = time.square() + (1.0 - time).square()  # D
        residual = network(x_t * power.rsqrt(), weight, time[:, 0, 0, 0], conditions).float()  # F
        x_1 = time / power * x_t + (1.0 - time) * power.rsqrt() * residual
        # Euler step along the straight line to the estimated end.
        x_t = x_1 + (1.0 - t_next) / (1.0 - t) * (x_t - x_1)
    return x_t


class Tensors(NamedTuple):
    """A prepared batch: source, target and weight as real blocks, times and conditions."""

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
    config: FlowConfig,
) -> Tensors:
    """Prepare a batch: fix its gauge, compress and pad it, and sample source phases, times and dropped conditions."""
    magnitude = batch.image.abs()
    weight, target = make_target(batch.image)
    t = torch.rand(len(magnitude), generator=generator)
    conditions = drop_conditions(batch.conditions, dropout, generator)
    known = known_to_source(batch.conditions, conditions)
    x_0 = weight * training_source(magnitude, known, generator, config.source, batch.place_mm)
    if config.noise:
        normals = torch.randn((*magnitude.shape, 2), generator=generator)
        x_0 = x_0 + noise_modulus(magnitude, weight, estimate_sigma(magnitude)) * torch.view_as_complex(normals)
    blocks = [to_real(pad_to_multiple(image, multiple)[:, None]) for image in (x_0, target, weight.to(torch.complex64))]
    return Tensors(blocks[0], blocks[1], blocks[2], t, conditions)


class FlowObjective(Objective):
    """Learns the velocity of the flow, by `flow_loss`."""

    def __init__(self, config: FlowConfig | None = None) -> None:
        self.config = config or FlowConfig()
        self.grid_mm = self.config.grid_mm

    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """Return the tensors of `prepare_batch`."""
        return prepare_batch(batch, dropout, generator, multiple, self.config)

    def error(self, network: ComplexUNet, tensors: tuple[Tensor, ...]) -> Tensor:
        """Compute `flow_loss` of a prepared batch, `(batch)`."""
        x_0, x_1, weight, t, conditions = tensors
        return flow_loss(network, x_0, x_1, weight, t, conditions)

    def loss(self, error: Tensor) -> Tensor:
        """Return the mean."""
        return error.mean()


DEFAULT_STEPS = 16
NOISE_ANCHOR_MM = 20.0
"""Distance of the anchors between which the noise of the source is interpolated in contiguous slices."""


def _source_noise(keys: Sequence[SliceKey], slices: TileInputs, height: int, width: int) -> Tensor:
    """Sample the noise of the source, which the grain of a sample follows, complex64 `(slice height width)`.

    It is correlated through contiguous slices (`anchored_normals`) and equal in the volumes of an exam. The noise of
    the measurement, added to the sample, is independent, as in a scan.
    """
    device = slices.magnitude.device
    if slices.volume is None and keys[0].exam is None:
        return complex_normals(keys, Stream.SOURCE_NOISE, height, width, device)
    places = [key.slice_index * (slices.slice_mm or TYPICAL_SLICE_MM) for key in keys]
    white = anchored_normals(keys, places, NOISE_ANCHOR_MM, Stream.SOURCE_NOISE, 2 * height * width, device)
    return torch.complex(*white.reshape(len(keys), 2, height, width).unbind(dim=1))


class FlowGenerator(LearnedGenerator):
    """Samples phase by flow matching."""

    def __init__(self, checkpoint: Checkpoint, steps: int | None = None, device: str = "cpu") -> None:
        if checkpoint.distilled and steps not in (None, checkpoint.steps):
            raise ValueError(
                f"steps = {steps}: the weights are distilled for {checkpoint.steps}; leave the steps out, or take "
                "weights that were not distilled, which take any number"
            )
        self.times = time_grid((checkpoint.steps or DEFAULT_STEPS) if steps is None else steps)
        self.flow = checkpoint.settings(FlowConfig)
        self.own_ramp = self.flow.source in OF_MAGNITUDE
        super().__init__(checkpoint, len(self.times), device, self.flow.grid_mm)
        # A student retains about as much noise as its many-step teacher; the exact amount was measured.
        measured = checkpoint.noise_gain
        self.gain = noise_gain(time_grid(checkpoint.teacher_steps or self.nfe)) if measured is None else measured

    def _sample(self, slices: TileInputs, keys: Sequence[SliceKey]) -> SampledImage:
        weight, (height, width) = slices.weight, slices.weight.shape[-2:]
        source = source_phasors(
            keys, slices.magnitude, slices.conditions[0], slices.slice_mm, self.flow.source, slices.volume
        )
        x_0 = weight * source.phasor
        if self.flow.noise:
            source_noise = _source_noise(keys, slices, height, width)
            x_0 = x_0 + noise_modulus(slices.magnitude, weight, slices.sigma) * source_noise
        conditions = slices.conditions.expand(self.tile, -1)
        x_1 = sample_flow(self.network, self._fill(x_0), self._fill(weight), self.times, conditions)
        return SampledImage(self._cut(x_1, weight.shape) * source.gauge, source.rim_phase)

    def _finish(self, image: Tensor, magnitude: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """Remove the singularities of bright tissue, as algorithms before 12 did: it comes no nearer to real phase."""
        if not self.before_12:
            return image
        spacing = min(conditions.spacing_mm or (TYPICAL_SPACING_MM,))
        return remove_singularities(image, magnitude, bright_squares(magnitude, sigma), spacing)
