"""The learned phase generator: tiles, source noise, flow, gauge, and the noise of air."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.checkpoint import Checkpoint
from diffusion.flow import compress_magnitude, noise_gain, sample_flow, time_grid
from diffusion.gauge import ramp_phasor
from diffusion.generators import Conditions, SliceKey
from diffusion.grid import GRID_MM, from_grid, grid_size, to_grid
from diffusion.layers import to_complex
from diffusion.measurement import add_noise, estimate_sigma, noise_modulus
from diffusion.noise import Stream, complex_normal, uniform, volume_key
from diffusion.objective import pad_to_multiple
from diffusion.source import source_phasor

DEFAULT_STEPS = 4
GPU_TILE = 16
_FEWEST_RAMPS = 8


class FlowGenerator:
    """Samples phase by flow matching.

    The network is called in tiles: one slice on CPU (with one thread), `GPU_TILE` slices on a GPU, the last tile filled
    up with empty ones. So the bytes of a slice do not depend on how many slices are asked for.
    """

    name = "diffusion"

    def __init__(self, checkpoint: Checkpoint, steps: int | None = None, device: str = "cpu") -> None:
        self.times = time_grid(_choose_steps(checkpoint, steps))
        self.nfe = len(self.times)
        # a student has learned to carry as much noise to the end as its teacher does in many steps
        self.gain = noise_gain(time_grid(checkpoint.teacher_steps) if checkpoint.teacher_steps else self.times)
        self.device = torch.device(device)
        self.tile = 1 if self.device.type == "cpu" else GPU_TILE
        self.gauge = checkpoint.gauge
        self.network = checkpoint.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def sample_phase(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        """Sample phasors; see `diffusion.generators.PhaseGenerator`."""
        parts = []
        threads = torch.get_num_threads()
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # convolutions may differ in the last bits with another number
        try:
            for start in range(0, len(keys), self.tile):
                part = slice(start, start + self.tile)
                parts.append(self._sample_tile(magnitude[part].to(self.device), keys[part], conditions))
        finally:
            torch.set_num_threads(threads)
        return torch.cat(parts).to(magnitude.device)

    def _sample_tile(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        height, width = magnitude.shape[-2:]
        grid = grid_size(height, width, conditions.spacing_mm)
        on_grid = to_grid(magnitude, *grid)
        weight = compress_magnitude(on_grid)
        known = self._conditions(conditions, (height, width), grid)
        sigma = estimate_sigma(on_grid)
        source = torch.stack([source_phasor(key, *grid, known[0, :2], conditions.slice_mm) for key in keys])
        grain = torch.stack([complex_normal(key, Stream.GRAIN, *grid, self.device) for key in keys])
        x_0 = weight * source + noise_modulus(on_grid, weight, sigma) * grain
        phasor = _unit(from_grid(self._flow(x_0, weight, known), height, width))
        noise = torch.stack([complex_normal(key, Stream.NOISE, height, width, self.device) for key in keys])
        # what few steps averaged away, and what a coarser grid does not hold
        missing = (estimate_sigma(magnitude).square() - (self.gain * sigma).square()).clamp(min=0.0).sqrt()
        noisy = add_noise(phasor, magnitude, missing, noise)
        return _unit(noisy * self._gauge(keys[0], conditions, height, width))

    def _flow(self, x_0: Tensor, weight: Tensor, conditions: Tensor) -> Tensor:
        """Pad to the tile's size, sample, crop: complex64 `(slice height width)`."""
        count, height, width = x_0.shape
        multiple = self.network.config.multiple
        fill = self.tile - count
        x_0, weight = (
            torch.nn.functional.pad(pad_to_multiple(x, multiple), (0, 0, 0, 0, 0, fill))[:, None] for x in (x_0, weight)
        )
        result = sample_flow(self.network, x_0, weight, self.times, conditions.expand(self.tile, -1))
        return to_complex(result)[:count, 0, :height, :width]

    def _conditions(self, conditions: Conditions, own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        """`(1 4)`: grid spacing in mm, TE, field strength; NaN where not known."""
        spacing = conditions.spacing_mm or (math.nan, math.nan)
        steps = [s * n / g for s, n, g in zip(spacing, own, grid, strict=True)]
        rest = [math.nan if value is None else value for value in (conditions.te_ms, conditions.field_t)]
        return torch.tensor([steps + rest], dtype=torch.float32, device=self.device)

    def _gauge(self, key: SliceKey, conditions: Conditions, height: int, width: int) -> Tensor:
        """Draw the volume's global and linear phase, phasors `(height width)`.

        The ramp is that of a training volume, of similar TE where it is known, with random signs.
        """
        pool = self.gauge
        if conditions.te_ms is not None and conditions.te_ms > 0:
            near = (torch.log(pool[:, 0] / conditions.te_ms).abs() < math.log(2.0)).nonzero()[:, 0]
            pool = pool[near] if len(near) >= _FEWEST_RAMPS else pool
        first, *signs, phase = uniform(volume_key(key), Stream.GAUGE, 4).tolist()
        ramp = pool[int(first * len(pool)), 1:] * torch.tensor([1.0 if sign < 0.5 else -1.0 for sign in signs])
        ramp = ramp * torch.tensor(conditions.spacing_mm or (GRID_MM, GRID_MM))
        angle = 2.0 * math.pi * phase
        return ramp_phasor(ramp.to(self.device), height, width) * complex(math.cos(angle), math.sin(angle))


def _choose_steps(checkpoint: Checkpoint, steps: int | None) -> int:
    if checkpoint.teacher_steps and steps not in (None, checkpoint.steps):
        raise ValueError(f"steps = {steps}: the weights are distilled for {checkpoint.steps}; leave the steps out")
    return (checkpoint.steps or DEFAULT_STEPS) if steps is None else steps


def _unit(image: Tensor) -> Tensor:
    """Project on the unit circle; exact zeros become 1."""
    modulus = image.abs()
    safe = torch.where(modulus > 0, modulus, torch.ones_like(modulus))
    return torch.where(modulus > 0, image / safe, torch.ones_like(image))
