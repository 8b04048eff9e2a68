"""Estimate measurement properties from a magnitude: the bright level, the noise level, and the noise of the phase.

A scanner adds complex Gaussian noise of uniform standard deviation to the entire image, so the phase is noisy where the
magnitude is weak and random in air. The same noise roughens the magnitude, from which its level is estimated.
"""

from __future__ import annotations

import torch
from torch import Tensor

COMPRESSION = 0.15
_BRIGHT = 0.1
_FLOOR = 0.003
_NORMAL_MEDIAN = 0.6745


def bright_level(magnitude: Tensor) -> Tensor:
    """Return the 99th percentile of slices `(*batch height width)`, `(*batch 1 1)`, always above 0.

    It is the maximum if less than 1 % of the pixels have signal, and 1 for an empty slice.
    """
    flat = magnitude.flatten(-2)
    rank = max(int(0.99 * flat.shape[-1]), 1)
    level = flat.kthvalue(rank, dim=-1).values[..., None, None]
    level = torch.where(level > 0, level, flat.amax(dim=-1)[..., None, None])
    return torch.where(level > 0, level, torch.ones_like(level))


def compress_magnitude(magnitude: Tensor) -> Tensor:
    """Compute the modulus `w` of the flow: the relative magnitude, compressed so that weak tissue counts.

    Parameters
    ----------
    magnitude
        float32 `(*batch height width)`, >= 0.

    Returns
    -------
    weight
        Same shape, 0 in empty pixels, about 1 in bright ones; all zero for an empty slice.
    """
    relative = magnitude / bright_level(magnitude)
    return compress(relative.clamp(max=4.0))


def compress(relative: Tensor) -> Tensor:
    """Compress relative magnitudes: 0 to 0, 1 to 1, steep for weak tissue."""
    return relative * (1.0 + COMPRESSION) / (relative + COMPRESSION)


def estimate_sigma(magnitude: Tensor) -> Tensor:
    """Estimate the noise of the real and of the imaginary part from the magnitude.

    In bright tissue the noise of a magnitude is normal with the same standard deviation (Gudbjartsson and Patz, Magn
    Reson Med 1995). The second difference along a diagonal removes smooth structure, and the median of its absolute
    value ignores edges.

    Parameters
    ----------
    magnitude
        float32 `(*batch height width)`.

    Returns
    -------
    sigma
        `(*batch)`, in units of the magnitude; never below 0.3 % of its maximum, so that the phase of air is random.
    """
    peak = magnitude.flatten(-2).amax(dim=-1)
    if min(magnitude.shape[-2:]) < 2:
        return _FLOOR * peak
    parts = [magnitude[..., i:, j:] for i in (0, 1) for j in (0, 1)]
    height, width = parts[3].shape[-2:]
    a, b, c, d = (part[..., :height, :width] for part in parts)
    bright = torch.minimum(torch.minimum(a, b), torch.minimum(c, d)) > _BRIGHT * peak[..., None, None]
    rough = torch.where(bright, (a - b - c + d).abs() / 2.0, torch.nan).flatten(-2)
    sigma = torch.nan_to_num(rough.nanmedian(dim=-1).values / _NORMAL_MEDIAN)
    return torch.maximum(sigma, _FLOOR * peak)


def noise_modulus(magnitude: Tensor, weight: Tensor, sigma: Tensor) -> Tensor:
    """Compute the standard deviation of the noise in an image whose modulus is a compressed magnitude.

    Parameters
    ----------
    magnitude, weight
        The magnitude and the compressed magnitude, `(*batch height width)`.
    sigma
        Noise level from `estimate_sigma`, `(*batch)`.

    Returns
    -------
    modulus
        `(*batch height width)`: the noise-to-signal ratio, at most 1, times the weight; 0 in empty pixels.
    """
    level = sigma[..., None, None]
    return weight * level / torch.maximum(magnitude, level).clamp(min=torch.finfo(torch.float32).tiny)


def add_noise(phasor: Tensor, magnitude: Tensor, sigma: Tensor, normals: Tensor) -> Tensor:
    """Compute `magnitude * phasor + sigma * normals`.

    Parameters
    ----------
    phasor, magnitude
        `(*batch height width)`.
    sigma
        `(*batch)`.
    normals
        complex64 `(*batch height width)`, real and imaginary parts standard normal.
    """
    return magnitude * phasor + sigma[..., None, None] * normals
