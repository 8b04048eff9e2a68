"""Phase singularities: points around which the phase changes by one cycle (residues: Goldstein et al., 1988).

At such a point the signal is zero, so a measured image is dark at it, by noise or by cancellation within a pixel. In
bright tissue, measured phase has very few.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

DARK_SNR = 10.0
"""A pixel whose signal is below this many standard deviations of the noise may be next to a singularity."""
DARK_SHARE = 0.25
"""A pixel darker than this fraction of its neighbourhood (root mean square) may be next to a singularity, too."""
_NEIGHBOURHOOD = 7


def find_singularities(phasor: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Find the squares of four pixels around which the wrapped differences of the phase sum to one cycle.

    Parameters
    ----------
    phasor
        Complex, `(*batch height width)`; only the angle counts.
    inside
        bool, same shape: a square counts if all its pixels are inside.

    Returns
    -------
    singular, counted
        bool `(*batch height-1 width-1)`: the singularities among the squares that count, and those squares.
    """
    counted = torch.stack(_corners(inside)).all(dim=0)
    return singular_squares(phasor.angle()) & counted, counted


def bright_squares(magnitude: Tensor, sigma: Tensor) -> Tensor:
    """Find the squares of four pixels in which a measured phase has very few singularities.

    Parameters
    ----------
    magnitude
        `(batch height width)`.
    sigma
        Noise level from `rephase.diffusion.physics.measurement.estimate_sigma`, `(batch)`.

    Returns
    -------
    bright
        bool `(batch height-1 width-1)`: all pixels are above `DARK_SNR` and `DARK_SHARE`.
    """
    power = magnitude.square()[:, None]
    for window in ((_NEIGHBOURHOOD, 1), (1, _NEIGHBOURHOOD)):  # two one-dimensional means are faster than a square
        margins = (window[0] // 2, window[1] // 2)
        power = functional.avg_pool2d(power, window, 1, margins, count_include_pad=False)
    bright = (magnitude > DARK_SNR * sigma[:, None, None]) & (magnitude > DARK_SHARE * power[:, 0].sqrt())
    return torch.stack(_corners(bright)).all(dim=0)


def singular_squares(angle: Tensor) -> Tensor:
    """Find the squares of four pixels that enclose a singularity, bool `(*batch height-1 width-1)`, from the angle."""
    return are_singular(_corners(angle))


def are_singular(angles: list[Tensor]) -> Tensor:
    """Find where the wrapped differences of the phase around four corners sum to one cycle, from their angles.

    Without wrapping the differences sum to 0, so the sum counts the cycles that wrapping removes.
    """
    cycles = [
        ((there - here) / (2.0 * torch.pi)).round() for here, there in zip(angles, angles[1:] + angles[:1], strict=True)
    ]
    return torch.stack(cycles).sum(dim=0).abs() > 0.5


def _corners(image: Tensor) -> list[Tensor]:
    """Return the four pixels of every square, in the order around it."""
    return [image[..., :-1, :-1], image[..., :-1, 1:], image[..., 1:, 1:], image[..., 1:, :-1]]
