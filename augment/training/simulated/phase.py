"""Simulated phase on real magnitudes: real anatomy, and the phase that its susceptibility would cause.

Weak signal is classified as air, and bright signal near the surface as fat, with thresholds sampled
per volume. They determine a susceptibility, its field, and the phase at an echo time, as in
`rephase.training.simulated.anatomy`. This adds pairs of real magnitude and plausible phase to the few real ones.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rephase.diffusion.physics.anatomy import estimate_air
from rephase.diffusion.physics.field_phase import near_surface
from rephase.diffusion.physics.measurement import estimate_sigma
from rephase.training.batches import TrainingSlice
from rephase.training.simulated.anatomy import (
    AIR,
    FAT,
    dephased,
    dipole_field,
    magnet_field,
    phase_phasor,
    receive,
    sample_echo,
    sample_strength,
    shim,
    smooth_field,
    white_noise,
)

_EXTENT_MM = 160.0
"""Extent to which the slab is continued through the slices: a body does not end with the field of view."""
_MARGIN = 0.25
_MOST_SLICES = 30
_FINEST_MM = (1.4, 2.4)
_NEARLY_CUBIC = 1.7
_EMPTY = 1e-4


def simulate_on(
    magnitude: Tensor,
    spacing_mm: tuple[float, float, float],
    random: np.random.Generator,
) -> list[TrainingSlice]:
    """Simulate the phase of a real magnitude.

    Parameters
    ----------
    magnitude
        `(slice height width)`.
    spacing_mm
        Along (slice, height, width).
    random
        Source of thresholds, direction of the main field, echo time, coils and noise.

    Returns
    -------
    slices
        Slices with signal, at most about 60, no finer than 2.4 mm; their magnitude is the given one with noise, dark
        where the phase is steep through the slice.
    """
    magnitude, spacing_mm = _turn(*_coarsen(magnitude, spacing_mm, random), random)
    air, fat = estimate_tissues(magnitude, spacing_mm[1:], random)
    margins = _margins(magnitude.shape, spacing_mm)
    body = _continue(torch.stack((air, fat)), margins)
    susceptibility = random.uniform(*AIR.susceptibility) * body[0] + random.uniform(*FAT.susceptibility) * body[1]
    susceptibility = susceptibility + 0.05 * (1.0 - body[0]) * smooth_field(body[0].shape, spacing_mm, 8.0, random)
    axis = int(random.choice(3, p=(0.2, 0.6, 0.2)))
    field = dipole_field(susceptibility, spacing_mm, axis)
    field = field + magnet_field(body[0].shape, spacing_mm, random)
    inner = tuple(slice(margin, margin + size) for margin, size in zip(margins, magnitude.shape, strict=True))
    field = sample_strength(random) * shim(field[inner], magnitude, random.uniform(0.7, 1.0))
    echo = sample_echo(random)
    # a gradient echo is dark where its phase is steep through the slice
    thickness = max(random.uniform(1.0, 5.0) / spacing_mm[0], 1.0)
    magnitude = magnitude * dephased(field, echo, thickness)
    coils = receive(magnitude.shape, spacing_mm, echo.field_t, random, magnitude=False)
    image = magnitude * phase_phasor(field, fat, echo) * coils
    sigma = estimate_sigma(magnitude).median()
    image = image + sigma * torch.view_as_complex(white_noise((*image.shape, 2), random))
    every = max(1, len(image) // _MOST_SLICES)
    least = _EMPTY * float(magnitude.amax())
    kept = [one for one, whole in zip(image[::every], magnitude[::every], strict=True) if float(whole.amax()) > least]
    return [TrainingSlice(one.clone(), spacing_mm[1:], echo.te_ms, echo.field_t, "simulated phase") for one in kept]


def _coarsen(
    magnitude: Tensor, spacing_mm: tuple[float, float, float], random: np.random.Generator
) -> tuple[Tensor, tuple[float, float, float]]:
    """Crop the k-space of a volume that is finer than most gradient echoes, to a random resolution."""
    finest = random.uniform(*_FINEST_MM)
    sizes = [
        max(1, round(size * step / finest)) if step < finest else size
        for size, step in zip(magnitude.shape, spacing_mm, strict=True)
    ]
    if sizes == list(magnitude.shape):
        return magnitude, spacing_mm
    kspace = torch.fft.fftshift(torch.fft.fftn(magnitude))
    middle = tuple(
        slice(size // 2 - new // 2, size // 2 - new // 2 + new)
        for size, new in zip(magnitude.shape, sizes, strict=True)
    )
    coarse = torch.fft.ifftn(torch.fft.ifftshift(kspace[middle])).real * (math.prod(sizes) / magnitude.numel())
    steps = [step * size / new for step, size, new in zip(spacing_mm, magnitude.shape, sizes, strict=True)]
    return coarse.clamp(min=0.0), (steps[0], steps[1], steps[2])


def _turn(
    magnitude: Tensor, spacing_mm: tuple[float, float, float], random: np.random.Generator
) -> tuple[Tensor, tuple[float, float, float]]:
    """Exchange the axes of a volume with nearly cubic voxels at random: sagittal slices become axial or coronal."""
    if max(spacing_mm) > _NEARLY_CUBIC * min(spacing_mm):
        return magnitude, spacing_mm
    first, second, third = (int(axis) for axis in random.permutation(3))
    turned = magnitude.permute(first, second, third).contiguous()
    return turned, (spacing_mm[first], spacing_mm[second], spacing_mm[third])


def estimate_tissues(
    magnitude: Tensor,
    spacing_mm: tuple[float, float],
    random: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Estimate fractions of air and fat, 0 to 1, of the shape of the magnitude `(slice height width)`."""
    bright = float(np.percentile(magnitude.numpy(), 99.0)) or 1.0
    threshold = math.exp(random.uniform(math.log(0.03), math.log(0.12)))
    air = estimate_air(magnitude / bright, spacing_mm, torch.tensor(threshold))
    # bright tissue near the surface; how bright and how near differs from volume to volume
    fat = torch.sigmoid((magnitude / bright - random.uniform(0.36, 0.78)) / 0.0125)
    depth_mm = torch.full((len(air),), random.uniform(10.0, 60.0))
    fat = fat * near_surface(air, torch.tensor([spacing_mm]).expand(len(air), -1), depth_mm)
    return air, fat * float(random.random() < 0.7) * (1.0 - air)


def _margins(shape: torch.Size, spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    through = math.ceil(max(_EXTENT_MM / spacing_mm[0] - shape[0], 2.0) / 2.0)
    return through, math.ceil(_MARGIN * shape[1]), math.ceil(_MARGIN * shape[2])


def _continue(maps: Tensor, margins: tuple[int, int, int]) -> Tensor:
    """Pad maps `(map slice height width)` by their edge values."""
    pads = [pad for margin in reversed(margins) for pad in (margin, margin)]
    return functional.pad(maps, pads, mode="replicate")
