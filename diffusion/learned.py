"""Code shared by all learned phase generators: tiles, grid, measurement noise, global and linear phase."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rephase.diffusion.checkpoint import Checkpoint
from rephase.diffusion.devices import from_scalars, one_thread
from rephase.diffusion.generators import Conditions, SliceKey, WholeVolume
from rephase.diffusion.networks.inference import for_inference
from rephase.diffusion.networks.layers import pad_to_multiple, to_complex
from rephase.diffusion.noise import Stream, complex_normals, uniforms
from rephase.diffusion.physics.gauge import ramp_phasor
from rephase.diffusion.physics.gauge_pool import sample_gauge
from rephase.diffusion.physics.grid import GRID_MM, from_grid, grid_size, to_grid
from rephase.diffusion.physics.measurement import add_noise, compress_magnitude, estimate_sigma
from rephase.diffusion.physics.phase_noise import measure_noise, noise_angle
from rephase.diffusion.physics.zero_filling import sample_filled
from rephase.sequences import REFOCUSED, SEQUENCES

GPU_TILE = 16
_SEEN = tuple(family for family in SEQUENCES if family not in REFOCUSED)


class TileInputs(NamedTuple):
    """Inputs of a process for the slices of a tile, on the grid.

    Attributes
    ----------
    magnitude, weight
        Magnitude and compressed magnitude, `(slice height width)`.
    sigma
        Standard deviation of the noise, in units of the magnitude, `(slice)`.
    conditions
        Grid spacing in mm, dephasing time in ms, field strength in T, `(1 4)`; NaN if unknown.
    slice_mm
        Distance of neighbouring slices; None if unknown.
    volume
        The volume of the slices, if they are contiguous.
    """

    magnitude: Tensor
    weight: Tensor
    sigma: Tensor
    conditions: Tensor
    slice_mm: float | None
    volume: WholeVolume | None = None


class SampledImage(NamedTuple):
    """The sample of a process on the grid, complex64 `(slice height width)`.

    Only the angle of `image` is used. `rim_phase` contains phasors that multiply the finished slice.
    """

    image: Tensor
    rim_phase: Tensor | None = None


class LearnedGenerator(ABC):
    """Base of the generators of all learned processes; a process implements `_sample`.

    The network is called in tiles: one slice on a CPU (single-threaded), `GPU_TILE` slices on a GPU, the last tile
    padded with empty slices. So the bytes of a slice do not depend on the number of slices per call.
    """

    name = "diffusion"
    gain: float
    """Fraction of the measurement noise, in amplitude, that a sample of the process already contains."""
    own_ramp = False
    """Whether a sample has linear phase of its own, so that none of the training volumes is added."""
    before_12 = False
    """Whether a corpus is continued that was begun before algorithm 12."""

    def __init__(self, checkpoint: Checkpoint, steps: int, device: str, grid_mm: float = GRID_MM) -> None:
        self.nfe = steps
        # weights that were trained before cards named families saw gradient echoes
        self.families: tuple[str, ...] | None = tuple(checkpoint.card.get("families", _SEEN))
        self.device = torch.device(device)
        self.tile = 1 if self.device.type == "cpu" else GPU_TILE
        self.weights_sha256: str | None = checkpoint.sha256
        self.licence, self.seen = checkpoint.licence, checkpoint.seen
        self.gauge, self.grid_mm = checkpoint.gauge, grid_mm
        self.network = for_inference(checkpoint.network, self.device)

    def sample_phase(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        """Sample phasors; see `rephase.diffusion.generators.PhaseGenerator`."""
        return sample_filled(self._sample_tiles, magnitude, keys, conditions)

    def _sample_tiles(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        parts = []
        with one_thread(self.device):
            for start in range(0, len(keys), self.tile):
                part = slice(start, start + self.tile)
                own, slices = keys[part], magnitude[part].to(self.device)
                # every operation on a tile, not only the network, has one shape
                empty = self.tile - len(own)
                slices = torch.nn.functional.pad(slices, (0, 0, 0, 0, 0, empty)) if empty else slices
                parts.append(self._sample_tile(slices, [*own, *([own[-1]] * empty)], conditions)[: len(own)])
        return torch.cat(parts).to(magnitude.device)

    def _sample_tile(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        height, width = magnitude.shape[-2:]
        grid = grid_size(height, width, conditions.spacing_mm, self.grid_mm)
        on_grid = to_grid(magnitude, *grid)
        weight = compress_magnitude(on_grid)
        known = self._conditions(conditions, (height, width), grid)
        sigma = estimate_sigma(on_grid)
        sampled = self._sample(TileInputs(on_grid, weight, sigma, known, conditions.slice_mm, conditions.volume), keys)
        phasor = _unit(from_grid(sampled.image, height, width))
        if self.gain == 0.0 and not conditions.gaussian_noise:
            return self._noisy(sampled, phasor, magnitude, keys, conditions)
        noise = complex_normals(keys, Stream.NOISE, height, width, self.device)
        # few steps average noise away, and a coarser grid does not represent all of it
        own = sigma if on_grid is magnitude else estimate_sigma(magnitude)
        missing = (own.square() - (self.gain * sigma).square()).clamp(min=0.0).sqrt()
        noisy = self._finish(add_noise(phasor, magnitude, missing, noise), magnitude, own, conditions)
        if sampled.rim_phase is not None:
            noisy = noisy * from_grid(sampled.rim_phase, height, width)
        return _unit(noisy * self._gauges(keys, conditions, height, width))

    def _noisy(
        self, sampled: SampledImage, phasor: Tensor, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions
    ) -> Tensor:
        """Add all noise to a sample that has none; the phase error then has the distribution of a measured one."""
        height, width = magnitude.shape[-2:]
        drawn = uniforms(keys, Stream.NOISE, height * width, self.device).reshape(magnitude.shape)
        angle = noise_angle(magnitude, measure_noise(magnitude), drawn)
        image = phasor * torch.polar(torch.ones_like(angle), angle)
        if sampled.rim_phase is not None:
            image = image * from_grid(sampled.rim_phase, height, width)
        return _unit(image * self._gauges(keys, conditions, height, width))

    @abstractmethod
    def _sample(self, slices: TileInputs, keys: Sequence[SliceKey]) -> SampledImage:
        """Sample the phase of a tile on the grid."""

    def _finish(self, image: Tensor, magnitude: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """Return the image whose angle is the phase of the tile without its gauge; `image` unless overridden."""
        return image

    def _fill(self, image: Tensor) -> Tensor:
        """Pad `(slice height width)` to the tile's size: `(tile 1 height width)`."""
        padded = pad_to_multiple(image, self.network.config.multiple)
        return torch.nn.functional.pad(padded, (0, 0, 0, 0, 0, self.tile - len(image)))[:, None]

    def _cut(self, blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Crop the padding of real blocks of the tile, and return them as complex64."""
        count, height, width = shape
        return to_complex(blocks)[:count, 0, :height, :width]

    def _conditions(self, conditions: Conditions, own: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        """Return grid spacing in mm, dephasing time in ms and field strength in T, `(1 4)`; NaN if unknown."""
        *spacing, dephasing_ms, field_t = conditions.numbers()
        steps = [s * n / g for s, n, g in zip(spacing, own, grid, strict=True)]
        return from_scalars([*steps, dephasing_ms, field_t], self.device)[None]

    def _gauges(self, keys: Sequence[SliceKey], conditions: Conditions, height: int, width: int) -> Tensor:
        """Sample the global and linear phase of the slices of a volume: phasors `(slice height width)`."""
        gauge = sample_gauge(self.gauge, keys[0], conditions)
        if self.own_ramp and not self.before_12:
            gauge = gauge._replace(ramp=(0.0, 0.0), phase_step=0.0)
        angles = [gauge.phase + gauge.phase_step * key.slice_index for key in keys]
        offsets = from_scalars([f(angle) for angle in angles for f in (math.cos, math.sin)], self.device)
        ramp = ramp_phasor(from_scalars(gauge.ramp, self.device), height, width)
        return torch.view_as_complex(offsets.reshape(-1, 2))[:, None, None] * ramp


def _unit(image: Tensor) -> Tensor:
    """Project on the unit circle; exact zeros become 1, values that are not finite become NaN."""
    modulus = image.abs()
    safe = torch.where(modulus == 0, torch.ones_like(modulus), modulus)
    return torch.where(modulus == 0, torch.ones_like(image), image / safe)
