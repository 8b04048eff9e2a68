"""The energy score of generated images: the distance of a distribution from a real image, over patches.

For samples x, x' of a generator and a real image y, `E d(x, y) - E d(x, x') / 2` is smallest, on average over the y,
where the samples have the distribution of y, if d is a distance of negative type (Gneiting and Raftery, J Am Stat Assoc
2007, section 5). So a generator of few evaluations can learn the spread of its samples, which a squared error averages
away. Distances are computed for patches from 2 x 2 pixels to the entire image, between the projections on their
directions, `||a a* - b b*||`, a Euclidean distance that ignores the global phase of a patch. Small patches capture
gradients and singularities, large ones the course of the phase over the anatomy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rephase.diffusion.fourier import fft2c, radial_rings
from rephase.diffusion.networks.layers import to_complex
from rephase.diffusion.physics.singularities import find_singularities

PATCHES = ((2, 1, 4.0), (4, 1, 2.5), (8, 2, 1.5), (16, 4, 1.0), (32, 8, 1.0), (64, 16, 1.0))
"""Side of a patch in pixels, stride in pixels, and weight; each side is twice the one before.

The phases of two samples barely differ within small patches, and are nearly orthogonal in large ones: without weights
the large ones would dominate. The entire image has weight 1.
"""
RINGS = 24
"""Rings of k-space from its centre to its nearer edge; the corners are not used."""
_LOWEST = 1e-6
"""Smallest noise power of a ring, relative to the mean power: zero-filled k-space has none."""
_SOFT = 1e-6
_WEAKEST = 0.05
_TISSUE = 0.2875
_FEW = 1e-3
"""Density of singularities per pixel that counts as low."""


def energy_score(samples: Sequence[Tensor], real: Tensor, weight: Tensor) -> Tensor:
    """Compute the energy score of samples against a real image of the same magnitude; lower is better.

    Parameters
    ----------
    samples
        Two or more independent samples, each real blocks `(batch 2 height width)`.
    real
        `(batch 2 height width)`.
    weight
        Their modulus, `(batch 2 height width)` with imaginary part zero.

    Returns
    -------
    score
        `(batch)`, in units of the image's power; unbiased in the number of samples.
    """
    return _score(samples, real, lambda one, other: patch_distance(one, other, weight))


def _score(samples: Sequence[Tensor], real: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    fit = [distance(one, real) for one in samples]
    spread = [distance(one, other) for one, other in itertools.combinations(samples, 2)]
    return torch.stack(fit).mean(dim=0) - 0.5 * torch.stack(spread).mean(dim=0)


def patch_distance(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Return the distance of two images, `(batch)`: the weighted mean over patch sizes, relative to the power.

    Arguments as in `energy_score`. Patches that do not fit into the image are skipped; the entire image is always
    included.
    """
    power, other_power = one.square().sum(dim=1), other.square().sum(dim=1)
    products = torch.stack((power, other_power, *_conjugate_product(one, other), weight[:, 0].square()), dim=1)
    total, whole = _mean_distance(products.mean(dim=(2, 3), keepdim=True)), 1.0
    pooled, reach = products, 1
    for size, step, counts in PATCHES:
        if size > min(products.shape[-2:]):
            break
        pooled, reach = _pool_halves(_pool_halves(pooled, 2, size, step, reach), 3, size, step, reach), step
        total, whole = total + counts * _mean_distance(pooled), whole + counts
    return total / whole


def _pool_halves(pooled: Tensor, axis: int, size: int, step: int, reach: int) -> Tensor:
    """Return means over `size` pixels along an axis, every `step`, from means over `size / 2` pixels, every `reach`.

    The patches overlap, so reusing the sums is several times faster on a CPU than pooling for each size.
    """
    away, stride = size // 2 // reach, step // reach
    length = pooled.shape[axis] - away
    here, there = pooled.narrow(axis, 0, length), pooled.narrow(axis, away, length)
    every = [slice(None)] * axis + [slice(None, None, stride)]
    return 0.5 * (here[tuple(every)] + there[tuple(every)])


def frequency_score(samples: Sequence[Tensor], real: Tensor, weight: Tensor) -> Tensor:
    """Return the energy score of local frequencies: each pixel's product with the conjugate of its neighbour.

    In patches, two waves of different directions are as far apart as a wave and speckle, so the score of the images
    barely distinguishes a wave of a wrong direction from islands. Local frequencies do: those of a wave are the same
    everywhere, and the distance ignores a common factor.

    Arguments as in `energy_score`; the result, `(batch)`, is the mean of both directions.
    """
    scores = []
    for axis in (2, 3):
        power = _steps(weight, axis)
        *sampled, true = (_steps(one, axis) * (power[:, :1] + _SOFT).rsqrt() for one in (*samples, real))
        scores.append(energy_score(sampled, true, power.sqrt()))
    return 0.5 * (scores[0] + scores[1])


def spectrum_score(samples: Sequence[Tensor], real: Tensor, weight: Tensor) -> Tensor:
    """Return the energy score of the radial power spectrum of k-space.

    Outer k-space contains little of an image's power, so the score of the images ignores its errors. This score
    compares the logarithms of the power of rings, by a Euclidean distance. Power below the weakest ring of the
    magnitude is noise and has little weight. Images are multiplied by `weight`, whose square is about the magnitude.

    Arguments as in `energy_score`; the result, `(batch)`, is in nepers of power.
    """
    images = torch.stack((*samples, real, weight)) * weight[:, :1]
    *levels, magnitude = _ring_levels(images)
    floor = magnitude.amin(dim=1, keepdim=True).clamp(min=_LOWEST)
    *sampled, true = ((level + floor).log() for level in levels)
    return _score(sampled, true, _root_mean_square)


def _ring_levels(images: Tensor) -> Tensor:
    """Return the mean power on rings of k-space over the total mean: `(*batch 2 height width)` to `(*batch ring)`."""
    power = fft2c(torch.complex(*images.float().unbind(dim=-3))).abs().square()
    height, width = power.shape[-2:]
    ring = radial_rings(height, width, RINGS, power.device).flatten()
    sums = torch.zeros((*power.shape[:-2], RINGS + 1), device=power.device).index_add(-1, ring, power.flatten(-2))
    counts = torch.bincount(ring, minlength=RINGS + 1).clamp(min=1)
    return (sums / counts)[..., :RINGS] / power.mean(dim=(-2, -1)).clamp(min=1e-8)[..., None]


def _root_mean_square(one: Tensor, other: Tensor) -> Tensor:
    return ((one - other).square().mean(dim=1) + _SOFT).sqrt()


def _steps(image: Tensor, axis: int) -> Tensor:
    """Return `z(x + 1) conj z(x)` along an axis, as real blocks; of a weight again without imaginary part."""
    length = image.shape[axis] - 1
    here, there = image.narrow(axis, 0, length), image.narrow(axis, 1, length)
    return torch.stack(_conjugate_product(there, here), dim=1)


def _conjugate_product(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return real and imaginary part of `one conj other`, `(batch height width)`, of real blocks."""
    return (one * other).sum(dim=1), one[:, 1] * other[:, 0] - one[:, 0] * other[:, 1]


def modulus_error(image: Tensor, weight: Tensor, where: Tensor) -> Tensor:
    """Compute the error of an image's modulus, `(batch)`: the squared error over `weight`, relative to its mean.

    The score ignores the modulus, because only the angle of a sample is used. But a phase singularity needs a modulus
    of 0: while the modulus stays near `weight`, none arises by chance.

    Real blocks `(batch 2 height width)`, as in `energy_score`; `where`, `(batch height width)`, weights the pixels.
    """
    scale = weight[:, 0]
    modulus = (image.square().sum(dim=1) + (_WEAKEST * scale).square() + _SOFT).sqrt()
    error = where * (modulus - scale).square() / (scale + _WEAKEST)
    return error.mean(dim=(1, 2)) / scale.mean(dim=(1, 2)).clamp(min=1e-4)


def calm_places(image: Tensor, weight: Tensor, side: int) -> Tensor:
    """Compute weights of pixels without a phase singularity nearby: 1 (none) to 0 (many), `(batch height width)`.

    Nearby is within a square of `side` pixels, an odd number; with 0, anywhere in the slice. Only singularities in
    tissue count, where the magnitude is at least 5 % of the bright level. Real blocks as in `energy_score`.
    """
    singular, counted = find_singularities(to_complex(image)[:, 0], weight[:, 0] >= _TISSUE)
    if side:
        padded = functional.pad(singular[:, None].float(), (0, 1, 0, 1))
        density = functional.avg_pool2d(padded, side, 1, side // 2)[:, 0]
    else:
        density = singular.sum(dim=(1, 2), keepdim=True) / counted.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    return torch.exp(-density / _FEW).expand(weight[:, 0].shape)


def _mean_distance(products: Tensor) -> Tensor:
    """Return the distance from pooled products `(batch 5 rows columns)`: two powers, product, power of the weight."""
    power, other_power, real, imag, scale = products.unbind(dim=1)
    # ||a a* - b b*||^2 = |a|^4 + |b|^4 - 2 |a.b|^2
    square = power.square() + other_power.square() - 2.0 * (real.square() + imag.square())
    distance = (square.clamp(min=0.0) + _SOFT).sqrt().mean(dim=(1, 2))
    return distance / scale.mean(dim=(1, 2)).clamp(min=1e-4)


def to_modulus(image: Tensor, weight: Tensor) -> Tensor:
    """Project an image onto the modulus `weight`, as sampling does; softly where it is almost 0 and has no angle.

    Real blocks `(batch 2 height width)`, as in `energy_score`.
    """
    modulus = weight[:, :1]
    floor = _WEAKEST * modulus.clamp(min=1e-3)
    return image * modulus / (image.square().sum(dim=1, keepdim=True) + floor.square()).sqrt()
