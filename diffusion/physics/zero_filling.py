"""Phase of images whose k-space was filled with zeros: generated for the acquired matrix, and filled in the same way.

The complex image of such a scan has no k-space beyond the acquired box. Phase that is generated pixel by pixel, and its
noise, would fill it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rephase.diffusion.fourier import fft2c, ifft2c, resize_kspace
from rephase.diffusion.generators import Conditions, SliceKey

SamplePhase = Callable[[Tensor, Sequence[SliceKey], Conditions], Tensor]


def sample_filled(sample: SamplePhase, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
    """Sample phasors for the acquired matrix and fill their k-space with zeros; arguments as of `sample`.

    `conditions.acquired` is the share of k-space along height and width that was acquired; `sample` gets conditions
    without it.
    """
    if conditions.acquired is None:
        return sample(magnitude, keys, conditions)
    height, width = magnitude.shape[-2:]
    sizes = [max(1, round(size * share)) for size, share in zip((height, width), conditions.acquired, strict=True)]
    small = acquired_magnitude(magnitude, sizes[0], sizes[1])
    spacing = conditions.spacing_mm
    if spacing is not None:
        spacing = (spacing[0] * height / sizes[0], spacing[1] * width / sizes[1])
    phasor = sample(small, keys, replace(conditions, spacing_mm=spacing, acquired=None))
    angle = ifft2c(resize_kspace(fft2c(small * phasor), height, width)).angle()
    return torch.polar(torch.ones_like(angle), angle)


def acquired_magnitude(magnitude: Tensor, height: int, width: int) -> Tensor:
    """Return the magnitude at the pixels of a smaller, acquired matrix, `(*batch height width)`.

    The square of a magnitude has twice the bandwidth of the image: up to half of the matrix it is sampled exactly,
    where cropping k-space would blur noise and edges.
    """
    kspace = fft2c(magnitude.square().to(torch.complex64))
    for axis, size in ((-2, height), (-1, width)):
        kspace = _fold(kspace, axis, size)
    scale = height * width / (magnitude.shape[-2] * magnitude.shape[-1])
    square: Tensor = ifft2c(kspace).real * scale**0.5
    return square.clamp(min=0.0).sqrt()


def _fold(kspace: Tensor, axis: int, size: int) -> Tensor:
    """Fold the frequencies of centred k-space into `size` ones, as sampling at fewer pixels does."""
    count = kspace.shape[axis]
    frequencies = torch.arange(count, device=kspace.device) - count // 2
    places = (frequencies + size // 2) % size
    shape = list(kspace.shape)
    shape[axis] = size
    return torch.zeros(shape, dtype=kspace.dtype, device=kspace.device).index_add_(axis, places, kspace)
