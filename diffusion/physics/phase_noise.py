"""The phase noise for a given noisy magnitude: von Mises, as follows from complex Gaussian noise.

For a signal of modulus `a` with complex Gaussian noise of standard deviation `sigma` in each part, and measured modulus
`m`, the phase error has the density `exp(kappa cos(error))` with `kappa = m a / sigma^2` (Gudbjartsson and Patz, Magn
Reson Med 1995, eq. 4, conditioned on `m`). Where tissue has no signal, such as cortical bone, `a` is 0 and the phase is
uniform, although `m` is of the order of `sigma`: adding noise to `m` would leave such a phase partly coherent.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from rephase.diffusion.physics.measurement import bright_level, estimate_sigma

_BLOCK = 8
_LEAST_BLOCKS = 8
_NEAR = 1.4
_TISSUE = 0.1
_PHASE_FACTOR = 1.6
_FLOOR = 0.001
_MOST_AIR = 1.5
_RAYLEIGH_VARIATION = math.sqrt(4.0 / math.pi - 1.0)
_TOLERANCE = 0.08
_LEAST_KAPPA, _MOST_KAPPA = 1e-2, 50.0
"""Below the first the density is uniform to 1 %, above the second it is normal to 1 %."""
_KAPPAS, _QUANTILES, _ANGLES = 96, 512, 4096


def background_sigma(magnitude: Tensor) -> Tensor:
    """Estimate the noise of real and imaginary part from air, in which a magnitude has a Rayleigh distribution.

    Blocks of 8 x 8 pixels that are about as dark as the darkest count as air if their coefficient of variation is that
    of a Rayleigh distribution, 0.52. Masked, filtered or combined backgrounds have a different one.

    Parameters
    ----------
    magnitude
        float32 `(batch height width)`.

    Returns
    -------
    sigma
        `(batch)`; NaN if a slice has no such background.
    """
    height, width = (size // _BLOCK * _BLOCK for size in magnitude.shape[-2:])
    unknown = torch.full(magnitude.shape[:1], torch.nan, device=magnitude.device)
    if height * width < 4 * _LEAST_BLOCKS * _BLOCK**2:
        return unknown
    blocks = _blocks(magnitude[:, :height, :width])
    means = blocks.mean(dim=-1)
    darkest = means.sort(dim=-1).values[:, : max(means.shape[1] // 20, 4)].mean(dim=-1)
    for _ in range(3):  # the darkest blocks are dark partly by chance, so their level is too low
        air = means < _NEAR * darkest[:, None]
        darkest = torch.where(air, means, torch.nan).nanmedian(dim=-1).values
    variation = torch.where(air, blocks.std(dim=-1) / means, torch.nan).nanmedian(dim=-1).values
    power = (blocks.square().mean(dim=-1) * air).sum(dim=-1) / air.sum(dim=-1)
    is_rayleigh = ((variation - _RAYLEIGH_VARIATION).abs() < _TOLERANCE) & (air.sum(dim=-1) >= _LEAST_BLOCKS)
    return torch.where(is_rayleigh, (power / 2.0).sqrt(), unknown)


def tissue_sigma(magnitude: Tensor) -> Tensor:
    """Estimate the noise of real and imaginary part from the most homogeneous tissue.

    The second difference along a diagonal removes smooth structure; its root mean square over blocks of 8 x 8 pixels is
    smallest where there is no other texture. The lowest tenth of the blocks is below the noise of the phase, by a
    factor of 1.2 to 2.2 in 26 volumes with real phase (median 1.6): images combined from several coils are smoother in
    the magnitude than in the phase.

    Parameters
    ----------
    magnitude
        float32 `(batch height width)`.

    Returns
    -------
    sigma
        `(batch)`, in units of the magnitude; that of `estimate_sigma` for slices with fewer than 8 blocks of tissue.
    """
    texture = estimate_sigma(magnitude)
    height, width = ((size - 1) // _BLOCK * _BLOCK for size in magnitude.shape[-2:])
    if height * width < _LEAST_BLOCKS * _BLOCK**2:
        return texture
    corners = [magnitude[:, i : i + height, j : j + width] for i in (0, 1) for j in (0, 1)]
    a, b, c, d = (_blocks(part) for part in corners)
    bright = torch.minimum(torch.minimum(a, b), torch.minimum(c, d)) > _TISSUE * bright_level(magnitude)
    rough = ((a - b - c + d) / 2.0).square().mean(dim=-1).sqrt()
    tissue = torch.where(bright.float().mean(dim=-1) > 0.99, rough, torch.nan)
    lowest = torch.nanquantile(tissue, 0.1, dim=-1) * _PHASE_FACTOR
    return torch.where(tissue.isfinite().sum(dim=-1) >= _LEAST_BLOCKS, lowest, texture)


def _blocks(image: Tensor) -> Tensor:
    """Divide `(batch height width)` into blocks: `(batch block pixel)`."""
    count, height, width = image.shape
    parts = image.reshape(count, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    return parts.transpose(2, 3).reshape(count, -1, _BLOCK**2)


def measure_noise(magnitude: Tensor) -> Tensor:
    """Estimate the noise of real and imaginary part: from air if present, else from homogeneous tissue.

    Parameters
    ----------
    magnitude
        float32 `(batch height width)`.

    Returns
    -------
    sigma
        `(batch)`, in units of the magnitude.
    """
    air = background_sigma(magnitude)
    # a background that is noisier than tissue is not that of this image
    air = torch.where(air <= _MOST_AIR * estimate_sigma(magnitude), air, torch.nan)
    sigma = torch.where(air.isnan(), tissue_sigma(magnitude), air)
    # never 0, so that the phase of air is random
    return torch.maximum(sigma, _FLOOR * bright_level(magnitude)[:, 0, 0])


def noise_angle(magnitude: Tensor, sigma: Tensor, uniforms: Tensor) -> Tensor:
    """Sample the phase errors of a noisy magnitude.

    Parameters
    ----------
    magnitude
        float32 `(batch height width)`; its mean square over 3 x 3 pixels yields the noise-free modulus, at most the
        magnitude itself: a pixel darker than its neighbours is the rim of something.
    sigma
        Noise of real and imaginary part, `(batch)`.
    uniforms
        Uniform numbers on [0, 1), same shape as the magnitude.

    Returns
    -------
    angle
        Radians, float32, same shape: von Mises, uniform without signal.
    """
    square = functional.avg_pool2d(magnitude.square()[:, None], 3, stride=1, padding=1, count_include_pad=False)[:, 0]
    variance = sigma.square()[:, None, None].clamp(min=torch.finfo(torch.float32).tiny)
    excess = square - 2.0 * variance
    # the mean of nine pixels of noise has a relative deviation of 1/3: a smaller excess is not signal
    signal = torch.where(excess > 2.0 / 3.0 * variance, excess, 0.0).sqrt()
    return von_mises(magnitude * torch.minimum(signal, magnitude) / variance, uniforms)


def von_mises(kappa: Tensor, uniforms: Tensor) -> Tensor:
    """Compute the quantiles of von Mises distributions around 0, by a table for small and a normal for large `kappa`.

    Parameters
    ----------
    kappa
        Concentration, >= 0, any shape.
    uniforms
        Uniform numbers on [0, 1), same shape.
    """
    table = _quantile_table(kappa.device)
    half = (2.0 * uniforms - 1.0).abs()  # |angle| from |2 u - 1|: the density is even
    place = 1.0 - (1.0 - half).pow(1.0 / 3.0)  # quantiles are dense where the tail is
    column = place * (_QUANTILES - 1)
    log_kappa = kappa.clamp(_LEAST_KAPPA, _MOST_KAPPA).log()
    row = (log_kappa - math.log(_LEAST_KAPPA)) / math.log(_MOST_KAPPA / _LEAST_KAPPA) * (_KAPPAS - 1)
    left, top = column.long().clamp(max=_QUANTILES - 2), row.long().clamp(max=_KAPPAS - 2)
    across, down = column - left, row - top
    upper = torch.lerp(table[top, left], table[top, left + 1], across)
    lower = torch.lerp(table[top + 1, left], table[top + 1, left + 1], across)
    angle = torch.lerp(upper, lower, down)
    # the uniform number 0 would have an infinite quantile; half of 1 - 2^-23 is exact in float32
    normal = torch.special.ndtri(0.5 + 0.5 * half.clamp(max=1.0 - 2.0**-23)) / kappa.clamp(min=_MOST_KAPPA).sqrt()
    return torch.where(kappa > _MOST_KAPPA, normal, angle) * torch.where(uniforms < 0.5, -1.0, 1.0)


@cache
def _quantile_table(device: torch.device) -> Tensor:
    """Compute quantiles of `|angle|`, float32 `(kappa quantile)`, by numerical integration of the density."""
    kappa = torch.logspace(
        math.log10(_LEAST_KAPPA), math.log10(_MOST_KAPPA), _KAPPAS, dtype=torch.float64
    )[:, None]  # fmt: skip
    angle = torch.linspace(0.0, math.pi, _ANGLES, dtype=torch.float64)
    density = torch.exp(kappa * (torch.cos(angle) - 1.0))
    steps = torch.cumsum((density[:, 1:] + density[:, :-1]) / 2.0, dim=1)
    distribution = torch.cat((torch.zeros(_KAPPAS, 1, dtype=torch.float64), steps / steps[:, -1:]), dim=1)
    place = torch.linspace(0.0, 1.0, _QUANTILES, dtype=torch.float64)
    wanted = (1.0 - (1.0 - place) ** 3).expand(_KAPPAS, -1).contiguous()
    after = torch.searchsorted(distribution, wanted).clamp(1, _ANGLES - 1)
    low, high = distribution.gather(1, after - 1), distribution.gather(1, after)
    share = ((wanted - low) / (high - low).clamp(min=1e-300)).clamp(0.0, 1.0)
    return ((after - 1 + share) * (math.pi / (_ANGLES - 1))).float().to(device)
