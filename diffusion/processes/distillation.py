"""Distillation: training a student that samples in few long steps where a flow needs many short ones.

The student is initialised with its teacher's weights, and learns to produce phase that is distributed like real phase,
by a proper score of its samples (`rephase.diffusion.processes.energy`). Gradients pass through all its evaluations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor

from rephase.config import NonNegative, Whole
from rephase.diffusion.checkpoint import MOST_STEPS
from rephase.diffusion.networks.layers import pad_to_multiple, to_complex, to_real
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.physics.measurement import compress_magnitude, estimate_sigma, noise_modulus
from rephase.diffusion.physics.phase_noise import measure_noise, noise_angle
from rephase.diffusion.physics.source import DEFAULT_SOURCE, SOURCES, training_source
from rephase.diffusion.processes.energy import (
    calm_places,
    energy_score,
    frequency_score,
    modulus_error,
    spectrum_score,
    to_modulus,
)
from rephase.diffusion.processes.flow import FlowConfig, integrate, prepare_batch, sample_flow, time_grid
from rephase.diffusion.processes.objective import Batch, Objective, drop_conditions, known_to_source


@dataclass(frozen=True)
class DistillationConfig:
    """How a student is distilled; stored with its checkpoint."""

    evaluations: Annotated[int, Ge(1), Le(MOST_STEPS)] = 2
    """Network evaluations per slice of the student."""
    draws: Annotated[int, Ge(2), Le(1024)] = 2
    """Samples of each slice that the score compares with its real phase."""
    source: str = ""
    """The student's own source; that of its teacher if empty."""
    modulus: NonNegative = 0.25
    """Weight of the error of the modulus of its ends."""
    frequency: NonNegative = 1.0
    """Weight of the score of local frequencies."""
    spectrum: NonNegative = 0.0
    """Weight of the score of the radial spectrum."""
    near: Whole = 17
    """The modulus counts where the real phase has no singularity within a square of this side (odd number of
    pixels); with 0, none in the slice."""
    kept: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the initial weights in the mean that is saved, as Wortsman et al. do (arXiv 2109.01903)."""

    def __post_init__(self) -> None:
        if self.source and self.source not in SOURCES:
            raise ValueError(
                f"source {self.source!r}: expected one of {', '.join(SOURCES)}; leave it out to take the teacher's"
            )
        if self.near and self.near % 2 == 0:
            raise ValueError(f"near = {self.near!r}: expected an odd number of pixels, or 0 for the whole slice")


class EnergyObjective(Objective):
    """Trains a student by the energy score of several samples of each slice.

    `flow` are the settings of the student: those of the teacher, with the student's source.
    """

    def __init__(self, teacher: FlowConfig, config: DistillationConfig) -> None:
        self.config, self.flow = config, replace(teacher, source=config.source or teacher.source)
        self.grid_mm = self.flow.grid_mm

    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """Return the flow's tensors, each slice `draws` times, with independent sources and the same conditions."""
        count = self.config.draws
        conditions = drop_conditions(batch.conditions, dropout, generator)
        known = known_to_source(batch.conditions, conditions)
        place = None if batch.place_mm is None else batch.place_mm.repeat(count, 1)
        repeated = Batch(batch.image.repeat(count, 1, 1), known.repeat(count, 1), place)
        tensors = prepare_batch(repeated, 0.0, generator, multiple, self.flow)
        prepared = tuple(tensors._replace(conditions=conditions.repeat(count, 1)))
        return prepared if self.flow.noise else (*prepared, self._noise(batch, generator, multiple))

    def _noise(self, batch: Batch, generator: torch.Generator, multiple: int) -> Tensor:
        """Sample the noise of the phase for each draw: phasors as real blocks, padded."""
        magnitude = batch.image.abs()
        sigma = measure_noise(magnitude) if batch.sigma is None else batch.sigma
        drawn = torch.rand((self.config.draws, *magnitude.shape), generator=generator)
        angle = torch.cat([noise_angle(magnitude, sigma, one) for one in drawn])
        return to_real(pad_to_multiple(torch.polar(torch.ones_like(angle), angle), multiple)[:, None])

    def error(self, network: ComplexUNet, tensors: tuple[Tensor, ...]) -> Tensor:
        """Compute the energy score of each slice and the weighted terms of `DistillationConfig`, `(batch)`."""
        x_0, x_1, weight, _, conditions, *noise = tensors
        ends = integrate(network, x_0, weight, time_grid(self.config.evaluations), conditions)
        count = len(x_0) // self.config.draws
        drawn = to_modulus(ends, weight)
        samples = torch.split(_times(drawn, noise[0]) if noise else drawn, count)
        real, scale = x_1[:count], weight[:count]
        calm = calm_places(real, scale, self.config.near).repeat(self.config.draws, 1, 1)
        lost = modulus_error(ends, weight, calm).reshape(-1, count).mean(dim=0)
        score = energy_score(samples, real, scale)
        if self.config.frequency:
            score = score + self.config.frequency * frequency_score(samples, real, scale)
        if self.config.spectrum:
            score = score + self.config.spectrum * spectrum_score(samples, real, scale)
        return score + self.config.modulus * lost

    def loss(self, error: Tensor) -> Tensor:
        """Return the mean, without a logarithm, since a score may be below 0."""
        return error.mean()

    def measure(self, student: ComplexUNet, batches: Iterable[Batch], seed: int) -> dict[str, Any]:
        """Return the entries of the model card on a finished student; see `measure_noise_gain`."""
        if not self.flow.noise:
            return {"noise_gain": 0.0}
        gain = measure_noise_gain(student, batches, self.config.evaluations, seed, self.flow.source)
        return {"noise_gain": gain}


def _times(one: Tensor, other: Tensor) -> Tensor:
    """Multiply real blocks `(batch 2 height width)`."""
    return torch.stack(
        (one[:, 0] * other[:, 0] - one[:, 1] * other[:, 1], one[:, 0] * other[:, 1] + one[:, 1] * other[:, 0]), dim=1
    )


_BRIGHT = 0.2
_NORMAL_MEDIAN = 0.6745


def measure_noise_gain(
    network: ComplexUNet,
    batches: Iterable[Batch],
    steps: int,
    seed: int,
    source: str = DEFAULT_SOURCE,
) -> float:
    """Measure the fraction of the source's noise, in amplitude, that remains in a network's samples.

    Two samples from one source phase and different noise differ by the noise alone: in bright tissue the angle
    between them has the standard deviation `gain * sqrt(2) * sigma / magnitude`. For a network that was trained to
    follow the entire flow, `rephase.diffusion.processes.flow.noise_gain` is known; for a student it is unknown.

    Parameters
    ----------
    network
        The student.
    batches
        Batches of real slices.
    steps
        Network evaluations per slice of the student.
    seed
        Seed of sources and noise.
    source
        That of the student, as in `rephase.diffusion.physics.source.training_source`.

    Returns
    -------
    gain
        Median over bright pixels, at most 1.
    """
    generator = torch.Generator().manual_seed(seed)
    ratios = [_noise_ratios(network, batch, steps, generator, source) for batch in batches]
    return min(float(torch.cat(ratios).median()) / _NORMAL_MEDIAN, 1.0)


def _noise_ratios(network: ComplexUNet, batch: Batch, steps: int, generator: torch.Generator, kind: str) -> Tensor:
    """Return angles between pairs of samples over their standard deviation at gain 1, bright pixels only, `(pixel)`."""
    magnitude = batch.image.abs()
    weight, sigma = compress_magnitude(magnitude), estimate_sigma(magnitude)
    source = weight * training_source(magnitude, batch.conditions, generator, kind, batch.place_mm)
    device = next(network.parameters()).device
    multiple = network.config.multiple
    ends = []
    for _ in range(2):
        normals = torch.view_as_complex(torch.randn((*magnitude.shape, 2), generator=generator))
        x_0 = source + noise_modulus(magnitude, weight, sigma) * normals
        start, modulus = (pad_to_multiple(image, multiple)[:, None].to(device) for image in (x_0, weight))
        end = sample_flow(network, start, modulus, time_grid(steps), batch.conditions.to(device))
        ends.append(to_complex(end)[:, 0].cpu())
    angle = (ends[0] * ends[1].conj()).angle()[..., : magnitude.shape[-2], : magnitude.shape[-1]]
    bright = magnitude > _BRIGHT * magnitude.amax(dim=(-2, -1), keepdim=True)
    ratios: Tensor = angle.abs() * magnitude / (2.0**0.5 * sigma[:, None, None])
    return ratios[bright]
