"""Where the flow starts: a random phase that is smooth on the scale of anatomy, with some grain.

Flow matching holds for any source. From independent uniform phases, few evaluations leave the source's grain in the
picture; from a smooth random phase with a little grain, what is left over is smooth, and the grain is what the noise
of a real phase is made from.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.fourier import fft2c, ifft2c
from diffusion.generators import SliceKey
from diffusion.noise import Stream, anchor_key, normal

CORRELATION_MM = 50.0
"""Distance at which the correlation of the smooth part has fallen to 1/e."""
TYPICAL_SPACING_MM = 1.5
TYPICAL_SLICE_MM = 5.0
"""Taken where the spacing is not known."""
GRAIN = 0.2
"""Standard deviation of the independent part, relative to the smooth part."""


def shape_source(smooth: Tensor, grain: Tensor, spacing_mm: Tensor) -> Tensor:
    """Make source phasors from independent complex normals.

    Parameters
    ----------
    smooth, grain
        complex64 `(*batch height width)`, real and imaginary parts standard normal.
    spacing_mm
        Along height and width, `(*batch 2)`; NaN where not known.

    Returns
    -------
    phasor
        Same shape, unit modulus: the sum of `smooth`, low-pass filtered with a Gaussian, and `GRAIN` times `grain`.
    """
    height, width = smooth.shape[-2:]
    y = (torch.arange(height, device=smooth.device) - height // 2) / height
    x = (torch.arange(width, device=smooth.device) - width // 2) / width
    length = math.pi * CORRELATION_MM / torch.nan_to_num(spacing_mm, nan=TYPICAL_SPACING_MM)
    exponent = (length[..., 0, None, None] * y[:, None]) ** 2 + (length[..., 1, None, None] * x) ** 2
    low_pass = torch.exp(-0.5 * exponent)
    low_pass = low_pass / low_pass.square().mean(dim=(-2, -1), keepdim=True).sqrt()
    field = ifft2c(fft2c(smooth) * low_pass) + GRAIN * grain
    modulus = field.abs()
    return torch.where(modulus > 0, field / modulus.clamp(min=1e-20), torch.ones_like(field))


def source_phasor(key: SliceKey, height: int, width: int, spacing_mm: Tensor, slice_mm: float | None) -> Tensor:
    """The source of a slice: a function of its key and place.

    The smooth part passes over, every `CORRELATION_MM` through the volume, from one field to the next, so that
    neighbouring slices start alike; the grain is the slice's own.

    Parameters
    ----------
    key
        Of the slice.
    height, width
        Its size.
    spacing_mm
        Along height and width, `(2)`; NaN where not known. The result is on its device.
    slice_mm
        Distance of neighbouring slices; `TYPICAL_SLICE_MM` where None.

    Returns
    -------
    phasor
        complex64 `(height width)`.
    """
    position = key.slice_index * (slice_mm or TYPICAL_SLICE_MM) / CORRELATION_MM
    anchor = math.floor(position)
    turn = (position - anchor) * math.pi / 2.0  # cos^2 + sin^2 = 1 keeps the variance between two anchors
    device = spacing_mm.device
    here, there = (_complex_normal(anchor_key(key, anchor + step), height, width, device) for step in (0, 1))
    smooth = math.cos(turn) * here + math.sin(turn) * there
    return shape_source(smooth, _complex_normal(key, height, width, device), spacing_mm)


def _complex_normal(key: SliceKey, height: int, width: int, device: torch.device) -> Tensor:
    draws = normal(key, Stream.SOURCE, 2 * height * width, device).reshape(2, height, width)
    return torch.complex(draws[0], draws[1])


def training_source(shape: tuple[int, ...], spacing_mm: Tensor, generator: torch.Generator) -> Tensor:
    """Sources for training, complex64 of the given shape `(*batch height width)`; spacing `(*batch 2)`."""
    draws = torch.randn((4, *shape), generator=generator)
    return shape_source(torch.complex(draws[0], draws[1]), torch.complex(draws[2], draws[3]), spacing_mm)
