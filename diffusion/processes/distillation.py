"""Distillation: a student that needs few long steps where the teacher needs many short ones.

Two ways. The flow's path from a source is deterministic, so its end is a function of the start: the student learns that
function by regression, segment by segment (as progressive distillation does, Salimans & Ho, arXiv 2202.00512, but in
one go). Or the student keeps the teacher's weights as a start only, and learns to land on phase that is distributed as
real phase is, by a proper score of its samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from rephase.diffusion.checkpoint import MOST_STEPS
from rephase.diffusion.networks.layers import pad_to_multiple, to_complex
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.physics.measurement import compress_magnitude, estimate_sigma, noise_modulus
from rephase.diffusion.physics.source import DEFAULT_SOURCE, SOURCES, FatGuess, training_source
from rephase.diffusion.processes.energy import (
    calm_places,
    energy_score,
    frequency_score,
    modulus_error,
    spectrum_score,
    to_modulus,
)
from rephase.diffusion.processes.flow import (
    euler_step,
    integrate,
    interpolate,
    prepare_batch,
    sample_flow,
    time_grid,
    velocity_error,
)
from rephase.diffusion.processes.objective import Batch, Objective, drop_conditions, known_to_source
from rephase.diffusion.training.checks import check_number, check_whole

METHODS = ("energy", "path", "data")


@dataclass(frozen=True)
class DistillationConfig:
    """How a student is taught; stored with its checkpoint.

    The student makes `evaluations` steps where the teacher makes `teacher_steps`. With `method = "path"` it is taught
    to land where the teacher does, from the states that the teacher passes through on its way from the source, with
    "data" from mixtures of source and real phase, which cost a part of the evaluations of the teacher only. With
    "energy" it starts from the teacher's weights, and is taught that its ends have the distribution of real phase, by
    `rephase.diffusion.processes.energy` with `draws` samples of each slice; it may have a `source` of its own. Beside
    that score count, times `frequency`, that of its local frequencies, times `spectrum`, that of its radial spectrum,
    and, times `modulus`, the error of the modulus of its ends where the real phase has no singularity within a square
    of `near` pixels, or, with 0, none in the slice. The student that ships is the mean of what was learned and, times
    `kept`, the weights that it started from, as Wortsman et al. do (arXiv 2109.01903).
    """

    evaluations: int = 2
    teacher_steps: int = 16
    method: str = "energy"
    draws: int = 2
    source: str = ""
    modulus: float = 0.25
    frequency: float = 1.0
    spectrum: float = 0.0
    near: int = 17
    kept: float = 0.0

    def __post_init__(self) -> None:
        check_whole(self, 1, "evaluations", "teacher_steps", most=MOST_STEPS)
        if self.teacher_steps <= self.evaluations or self.teacher_steps % self.evaluations:
            raise ValueError(
                f"teacher_steps = {self.teacher_steps}: expected a multiple of evaluations = {self.evaluations}, at "
                "least twice as many"
            )
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r}: expected one of {', '.join(METHODS)}")
        if self.source and (self.source not in SOURCES or self.method != "energy"):
            raise ValueError(
                f"source {self.source!r}: expected one of {', '.join(SOURCES)}, with method energy; leave it out to "
                "take the teacher's"
            )
        check_whole(self, 2, "draws")
        check_whole(self, 0, "near")
        if self.near and self.near % 2 == 0:
            raise ValueError(f"near = {self.near!r}: expected an odd number of pixels, or 0 for the whole slice")
        if type(self.kept) not in (int, float) or not 0 <= self.kept < 1 or (self.kept and self.method != "energy"):
            raise ValueError(f"kept = {self.kept!r}: expected a share from 0 to below 1, with method energy")
        check_number(self, "modulus", "frequency", "spectrum")


def make_objective(
    teacher: ComplexUNet, config: DistillationConfig, source: str, fat: FatGuess | None = None
) -> Objective:
    """Give the objective of a configuration; `source` is that of the student, `fat` what it needs for that."""
    if config.method == "energy":
        return EnergyObjective(config, source, fat)
    return DistillationObjective(teacher, config, source, fat)


class EnergyObjective(Objective):
    """The energy score of where the student lands from several sources, against real phase."""

    def __init__(self, config: DistillationConfig, source: str, fat: FatGuess | None = None) -> None:
        self.config, self.source, self.fat = config, source, fat

    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """As for the flow, each slice `draws` times with a source of its own and the same conditions."""
        count = self.config.draws
        conditions = drop_conditions(batch.conditions, dropout, generator)
        known = known_to_source(batch.conditions, conditions)
        place = None if batch.place_mm is None else batch.place_mm.repeat(count, 1)
        repeated = Batch(batch.image.repeat(count, 1, 1), known.repeat(count, 1), place)
        tensors = prepare_batch(repeated, 0.0, generator, multiple, self.source, self._guess_once())
        return tuple(tensors._replace(conditions=conditions.repeat(count, 1)))

    def _guess_once(self) -> FatGuess | None:
        """The guess of fat for a batch that holds its slices `draws` times."""
        guess, count = self.fat, self.config.draws
        if guess is None:
            return None

        def once(magnitude: Tensor, known: Tensor) -> Tensor:
            few = len(magnitude) // count
            return guess(magnitude[:few], known[:few]).repeat(count, 1, 1)

        return once

    def error(self, network: ComplexUNet, tensors: tuple[Tensor, ...]) -> Tensor:
        """The energy score of each slice and what else counts; see `DistillationConfig`; `(batch)`."""
        x_0, x_1, weight, _, conditions = tensors
        ends = integrate(network, x_0, weight, time_grid(self.config.evaluations), conditions)
        count = len(x_0) // self.config.draws
        samples = torch.split(to_modulus(ends, weight), count)
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
        """The mean: a score may be below 0."""
        return error.mean()


class DistillationObjective(Objective):
    """To land where the teacher does; the student starts from the source that its teacher starts from."""

    def __init__(
        self,
        teacher: ComplexUNet,
        config: DistillationConfig,
        source: str = DEFAULT_SOURCE,
        fat: FatGuess | None = None,
    ) -> None:
        self.teacher, self.config, self.source, self.fat = teacher, config, source, fat

    def prepare(self, batch: Batch, dropout: float, generator: torch.Generator, multiple: int) -> tuple[Tensor, ...]:
        """As for the flow; the times become those of the student's evaluations."""
        tensors = prepare_batch(batch, dropout, generator, multiple, self.source, self.fat)
        segments = self.config.evaluations
        return tuple(tensors._replace(t=(tensors.t * segments).floor() / segments))

    def error(self, network: ComplexUNet, tensors: tuple[Tensor, ...]) -> Tensor:
        """Error of the student's mean velocity over a segment: `(batch)`, or `(evaluations * batch)` on the path."""
        x_0, x_1, weight, t, conditions = tensors
        self.teacher.to(x_0.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.config.method == "data":
            start = interpolate(x_0, x_1, t)
            velocity = self._teach(start, weight, t, conditions)
            return velocity_error(network, start, velocity, weight, t, conditions)
        errors, state = [], x_0
        for here in time_grid(self.config.evaluations):
            time = torch.full_like(t, here)
            velocity = self._teach(state, weight, time, conditions)
            errors.append(velocity_error(network, state, velocity, weight, time, conditions))
            state = state + velocity / self.config.evaluations
        return torch.cat(errors)

    @torch.no_grad()
    def _teach(self, start: Tensor, weight: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
        """The mean velocity of the teacher's path over one segment of the student's."""
        state = start
        for index in range(self.config.teacher_steps // self.config.evaluations):
            here = t + index / self.config.teacher_steps
            left = (1.0 - 1.0 / (self.config.teacher_steps * (1.0 - here)))[:, None, None, None]
            state = euler_step(self.teacher, state, weight, here, left, conditions)
        return (state - start) * self.config.evaluations


_BRIGHT = 0.2
_NORMAL_MEDIAN = 0.6745


def measure_noise_gain(
    network: ComplexUNet,
    batches: Iterable[Batch],
    steps: int,
    seed: int,
    source: str = DEFAULT_SOURCE,
    fat: FatGuess | None = None,
) -> float:
    """Measure how much of the source's noise a network carries to the end, as a factor of its amplitude.

    Two samples from one source phase and different noise differ by that noise alone: in bright tissue the angle
    between them has the standard deviation `gain * sqrt(2) * sigma / magnitude`. For a network that was trained to
    follow the whole flow, `rephase.diffusion.processes.flow.noise_gain` is known; for a student it is not.

    Parameters
    ----------
    network
        The student.
    batches
        Of real slices.
    steps
        Its evaluations.
    seed
        Of sources and noise.
    source, fat
        As in `make_objective`.

    Returns
    -------
    gain
        Median over bright pixels, at most 1.
    """
    generator = torch.Generator().manual_seed(seed)
    ratios = [_noise_ratios(network, batch, steps, generator, source, fat) for batch in batches]
    return min(float(torch.cat(ratios).median()) / _NORMAL_MEDIAN, 1.0)


def _noise_ratios(
    network: ComplexUNet, batch: Batch, steps: int, generator: torch.Generator, kind: str, fat: FatGuess | None
) -> Tensor:
    """The angles between pairs of samples over their deviation at gain 1, for the bright pixels of a batch; flat."""
    magnitude = batch.image.abs()
    weight, sigma = compress_magnitude(magnitude), estimate_sigma(magnitude)
    source = weight * training_source(magnitude, batch.conditions, generator, kind, batch.place_mm, fat)
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
