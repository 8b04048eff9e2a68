"""The learned phase generators: tiles, what is drawn for a slice, the process, gauge, and the noise of air."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.checkpoint import Checkpoint
from diffusion.ddpm import DdpmConfig, choose_timesteps, sample_ddpm
from diffusion.fat import fat_guess_of
from diffusion.field_phase import TYPICAL_SPACING_MM
from diffusion.fixed_weights import fix_weights
from diffusion.flow import noise_gain, sample_flow, time_grid
from diffusion.gauge import ramp_phasor
from diffusion.gauge_pool import draw_gauge
from diffusion.generators import Conditions, SliceKey
from diffusion.grid import from_grid, grid_size, to_grid
from diffusion.layers import pad_to_multiple, to_complex
from diffusion.measurement import add_noise, compress_magnitude, estimate_sigma, noise_modulus
from diffusion.noise import Stream, complex_normals, random_phasors, step_key
from diffusion.one_thread import one_thread
from diffusion.scalars import from_scalars
from diffusion.singularities import bright_squares
from diffusion.singularity_removal import remove_singularities
from diffusion.source import source_phasors

DEFAULT_STEPS = 16
GPU_TILE = 16


class Slices(NamedTuple):
    """A tile on the grid: `(slice height width)` magnitude and modulus, `(slice)` noise level, `(1 4)` conditions."""

    magnitude: Tensor
    weight: Tensor
    sigma: Tensor
    conditions: Tensor
    slice_mm: float | None


class Drawn(NamedTuple):
    """What was sampled on the grid, complex64 `(slice height width)`: `image`, of which the angle counts.

    `fringes`, if any, are phasors that turn the finished slice.
    """

    image: Tensor
    fringes: Tensor | None = None


class LearnedGenerator(ABC):
    """What the processes share.

    The network is called in tiles: one slice on CPU (with one thread), `GPU_TILE` slices on a GPU, the last tile filled
    up with empty ones. So the bytes of a slice do not depend on how many slices are asked for.
    """

    name = "diffusion"
    gain: float
    """How much of the measurement's noise the process itself gives to a slice."""

    def __init__(self, checkpoint: Checkpoint, steps: int, device: str) -> None:
        self.nfe = steps
        self.device = torch.device(device)
        self.tile = 1 if self.device.type == "cpu" else GPU_TILE
        self.gauge, self.flow = checkpoint.gauge, checkpoint.flow
        self.network = fix_weights(checkpoint.network, self.device)

    def sample_phase(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        """Sample phasors; see `diffusion.generators.PhaseGenerator`."""
        parts = []
        with one_thread(self.device):
            for start in range(0, len(keys), self.tile):
                part = slice(start, start + self.tile)
                parts.append(self._sample_part(magnitude[part].to(self.device), keys[part], conditions))
        return torch.cat(parts).to(magnitude.device)

    def _sample_part(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        """Fill a tile up with empty slices: every operation on it, not only the network, has one shape."""
        empty = self.tile - len(keys)
        if empty:
            magnitude = torch.nn.functional.pad(magnitude, (0, 0, 0, 0, 0, empty))
        return self._sample_tile(magnitude, [*keys, *([keys[-1]] * empty)], conditions)[: len(keys)]

    def _sample_tile(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        height, width = magnitude.shape[-2:]
        grid = grid_size(height, width, conditions.spacing_mm, self.flow.grid_mm)
        on_grid = to_grid(magnitude, *grid)
        weight = compress_magnitude(on_grid)
        known = self._conditions(conditions, (height, width), grid)
        sigma = estimate_sigma(on_grid)
        drawn = self._draw(Slices(on_grid, weight, sigma, known, conditions.slice_mm), keys)
        phasor = _unit(from_grid(drawn.image, height, width))
        noise = complex_normals(keys, Stream.NOISE, height, width, self.device)
        # what few steps averaged away, and what a coarser grid does not hold
        own = sigma if on_grid is magnitude else estimate_sigma(magnitude)
        missing = (own.square() - (self.gain * sigma).square()).clamp(min=0.0).sqrt()
        noisy = self._finish(add_noise(phasor, magnitude, missing, noise), magnitude, own, conditions)
        if drawn.fringes is not None:
            noisy = noisy * from_grid(drawn.fringes, height, width)
        return _unit(noisy * self._gauges(keys, conditions, height, width))

    @abstractmethod
    def _draw(self, slices: Slices, keys: Sequence[SliceKey]) -> Drawn:
        """Sample on the grid."""

    def _finish(self, image: Tensor, magnitude: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """Give the image whose angle is the phase of the tile, but for the gauge: as it is."""
        return image

    def _fill(self, image: Tensor) -> Tensor:
        """Pad `(slice height width)` to the tile's size: `(tile 1 height width)`."""
        padded = pad_to_multiple(image, self.network.config.multiple)
        return torch.nn.functional.pad(padded, (0, 0, 0, 0, 0, self.tile - len(image)))[:, None]

    def _cut(self, blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Take from real blocks of the tile what is no padding, as complex64."""
        count, height, width = shape
        return to_complex(blocks)[:count, 0, :height, :width]

    def _conditions(self, conditions: Conditions, own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        """`(1 4)`: grid spacing in mm, TE, field strength; NaN where not known."""
        *spacing, te_ms, field_t = conditions.numbers()
        steps = [s * n / g for s, n, g in zip(spacing, own, grid, strict=True)]
        return from_scalars([*steps, te_ms, field_t], self.device)[None]

    def _gauges(self, keys: Sequence[SliceKey], conditions: Conditions, height: int, width: int) -> Tensor:
        """Draw the global and linear phase of the slices of a volume: phasors `(slice height width)`."""
        gauge = draw_gauge(self.gauge, keys[0], conditions)
        angles = [gauge.phase + gauge.turn * key.slice_index for key in keys]
        turns = from_scalars([f(angle) for angle in angles for f in (math.cos, math.sin)], self.device)
        ramp = ramp_phasor(from_scalars(gauge.ramp, self.device), height, width)
        return torch.view_as_complex(turns.reshape(-1, 2))[:, None, None] * ramp


class FlowGenerator(LearnedGenerator):
    """Samples phase by flow matching."""

    def __init__(self, checkpoint: Checkpoint, steps: int | None = None, device: str = "cpu") -> None:
        self.times = time_grid(_choose_steps(checkpoint, steps))
        super().__init__(checkpoint, len(self.times), device)
        self.fat_guess = fat_guess_of(checkpoint, self.device)
        # a student does in few steps what its teacher does in many, as well as it has learned that
        measured = checkpoint.noise_gain
        self.gain = noise_gain(time_grid(checkpoint.teacher_steps or self.nfe)) if measured is None else measured

    def _draw(self, slices: Slices, keys: Sequence[SliceKey]) -> Drawn:
        weight, (height, width) = slices.weight, slices.weight.shape[-2:]
        fat = None if self.fat_guess is None else self.fat_guess(slices.magnitude, slices.conditions)
        source = source_phasors(keys, slices.magnitude, slices.conditions[0], slices.slice_mm, self.flow.source, fat)
        grain = complex_normals(keys, Stream.GRAIN, height, width, self.device)
        x_0 = weight * source.phasor + noise_modulus(slices.magnitude, weight, slices.sigma) * grain
        conditions = slices.conditions.expand(self.tile, -1)
        x_1 = sample_flow(self.network, self._fill(x_0), self._fill(weight), self.times, conditions)
        return Drawn(self._cut(x_1, weight.shape) * source.gauge, source.fringes)

    def _finish(self, image: Tensor, magnitude: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """Remove the singularities of bright tissue, also those that the noise made of a steep place."""
        spacing = min(conditions.spacing_mm or (TYPICAL_SPACING_MM,))
        return remove_singularities(image, magnitude, bright_squares(magnitude, sigma), spacing)


class DdpmGenerator(LearnedGenerator):
    """Samples phase by diffusion with phase noise, the published process; see `diffusion.ddpm`."""

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


BY_PROCESS: dict[str, type[FlowGenerator] | type[DdpmGenerator]] = {"flow": FlowGenerator, "ddpm": DdpmGenerator}
"""By the process of the checkpoint."""


def _unit_normals(keys: Sequence[SliceKey], stream: Stream, height: int, width: int, device: torch.device) -> Tensor:
    return complex_normals(keys, stream, height, width, device) * math.sqrt(0.5)


def _choose_steps(checkpoint: Checkpoint, steps: int | None) -> int:
    if checkpoint.teacher_steps and steps not in (None, checkpoint.steps):
        raise ValueError(
            f"steps = {steps}: the weights are distilled for {checkpoint.steps}; leave the steps out, or take weights "
            "that were not distilled, which take any number"
        )
    return (checkpoint.steps or DEFAULT_STEPS) if steps is None else steps


def _unit(image: Tensor) -> Tensor:
    """Project on the unit circle; exact zeros become 1. What is not finite becomes NaN, not a phase."""
    modulus = image.abs()
    safe = torch.where(modulus == 0, torch.ones_like(modulus), modulus)
    return torch.where(modulus == 0, torch.ones_like(image), image / safe)
