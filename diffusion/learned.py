"""The learned phase generators: tiles, what is drawn for a slice, the process, gauge, and the noise of air."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rephase.diffusion.checkpoint import Checkpoint
from rephase.diffusion.devices import from_scalars, one_thread
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.networks.inference import fix_weights
from rephase.diffusion.networks.layers import pad_to_multiple, to_complex
from rephase.diffusion.noise import Stream, complex_normals
from rephase.diffusion.physics.gauge import ramp_phasor
from rephase.diffusion.physics.gauge_pool import draw_gauge
from rephase.diffusion.physics.grid import GRID_MM, from_grid, grid_size, to_grid
from rephase.diffusion.physics.measurement import add_noise, compress_magnitude, estimate_sigma

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

    def __init__(self, checkpoint: Checkpoint, steps: int, device: str, grid_mm: float = GRID_MM) -> None:
        self.nfe = steps
        self.device = torch.device(device)
        self.tile = 1 if self.device.type == "cpu" else GPU_TILE
        self.gauge, self.grid_mm = checkpoint.gauge, grid_mm
        self.network = fix_weights(checkpoint.network, self.device)

    def sample_phase(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        """Sample phasors; see `rephase.diffusion.generators.PhaseGenerator`."""
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
        grid = grid_size(height, width, conditions.spacing_mm, self.grid_mm)
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


def _unit(image: Tensor) -> Tensor:
    """Project on the unit circle; exact zeros become 1. What is not finite becomes NaN, not a phase."""
    modulus = image.abs()
    safe = torch.where(modulus == 0, torch.ones_like(modulus), modulus)
    return torch.where(modulus == 0, torch.ones_like(image), image / safe)
