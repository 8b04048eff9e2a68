"""Phase singularities: points around which the phase turns once (Goldstein et al., Radio Science 1988: residues).

At such a point the signal is zero, so a measured image is dark there: by its noise, or by what cancels within a pixel.
A sampled phase that turns around a point in bright tissue is one that no scanner measures.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from diffusion.measurement import unit_phasor

DARK_SNR = 8.0
"""A pixel whose signal is below this many standard deviations of the noise may be beside a singularity."""
DARK_SHARE = 0.3
"""So may one that is darker than this share of its neighbourhood (root mean square)."""
REACH_MM = 12.0
"""How far around a singularity the phase may change for its removal."""
_NEIGHBOURHOOD = 7
_MOST_PIXELS = 16
_ROUNDS = 4
"""Of smoothing, before the neighbourhood that is smoothed grows by a pixel."""


def find_singularities(phasor: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Find the squares of four pixels around which the wrapped differences of the phase sum to a full turn.

    Parameters
    ----------
    phasor
        Complex, `(*batch height width)`; only the angle counts.
    inside
        bool, same shape: a square counts where all its pixels are.

    Returns
    -------
    singular, counted
        bool `(*batch height-1 width-1)`: the singularities among the squares that count, and these squares.
    """
    counted = torch.stack(_corners(inside)).all(dim=0)
    return _turns(_corners(phasor)) & counted, counted


def bright_squares(magnitude: Tensor, sigma: Tensor) -> Tensor:
    """Find the squares of four pixels in which a measured phase has no singularity.

    Parameters
    ----------
    magnitude
        `(batch height width)`.
    sigma
        Of `diffusion.measurement.estimate_sigma`, `(batch)`.

    Returns
    -------
    bright
        bool `(batch height-1 width-1)`: all pixels are above `DARK_SNR` and `DARK_SHARE`.
    """
    power = functional.avg_pool2d(
        magnitude.square()[:, None], _NEIGHBOURHOOD, 1, _NEIGHBOURHOOD // 2, count_include_pad=False
    )[:, 0]
    bright = (magnitude > DARK_SNR * sigma[:, None, None]) & (magnitude > DARK_SHARE * power.sqrt())
    return torch.stack(_corners(bright)).all(dim=0)


def remove_singularities(phasor: Tensor, magnitude: Tensor, bright: Tensor, spacing_mm: float) -> Tensor:
    """Smooth the phase around singularities of bright squares until they meet one of the other sense, and vanish.

    A singularity alone does not vanish, it moves; the neighbourhood that is smoothed grows, up to `REACH_MM`, until
    it holds both, or the singularity is in a dark place. What changes in a slice is a function of that slice.

    Parameters
    ----------
    phasor
        Complex64 `(batch height width)`; only the angle counts.
    magnitude
        Of the same shape: what the phase is worth in the mean of nine pixels that replaces it.
    bright
        Of `bright_squares`.
    spacing_mm
        Of the pixels.

    Returns
    -------
    phasor
        The same, but for unit phasors around what was removed.
    """
    reach = min(max(1, round(REACH_MM / spacing_mm)), _MOST_PIXELS)
    # a dark rim, wide enough that no mean goes beyond it
    rim = reach + _tap_distance(reach)
    height, width = phasor.shape[1] + 2 * rim, phasor.shape[2] + 2 * rim
    weight = functional.pad(magnitude, (rim, rim, rim, rim)).flatten()
    image = functional.pad(unit_phasor(phasor), (rim, rim, rim, rim)).flatten() * weight
    bright = functional.pad(bright, (rim, rim + 1, rim, rim + 1)).flatten()
    squares = bright.nonzero()[:, 0]
    found = squares[_turns(_at(image, squares, width))]
    if not len(found):
        return phasor
    changed = torch.zeros_like(bright)
    for away in (step for step in range(1, reach + 1) for _ in range(_ROUNDS)):
        near = _around(found, range(1 - away, away + 1), width)
        taps = _tap_distance(away)
        mean = image[near[:, None] + _offsets(range(-taps, taps + 1, taps), width, near.device)].sum(dim=1)
        image[near] = weight[near] * unit_phasor(mean)
        changed[near] = True
        squares = _around(found, range(-away, away + 1), width)
        squares = squares[bright[squares]]
        found = squares[_turns(_at(image, squares, width))]
        if not len(found):
            break
    shape, inside = (len(phasor), height, width), (..., slice(rim, height - rim), slice(rim, width - rim))
    return torch.where(changed.reshape(shape)[inside], unit_phasor(image.reshape(shape)[inside]), phasor)


def _tap_distance(away: int) -> int:
    """How far apart the nine pixels of a mean are, where the phase is smoothed so far around a singularity."""
    return (away + 3) // 4


def _turns(corners: list[Tensor]) -> Tensor:
    """Where the wrapped differences around four corners sum to a full turn."""
    steps = [(there * here.conj()).angle() for here, there in zip(corners, corners[1:] + corners[:1], strict=True)]
    return torch.stack(steps).sum(dim=0).abs() > torch.pi


def _corners(image: Tensor) -> list[Tensor]:
    """The four pixels of every square, in the order around it."""
    return [image[..., :-1, :-1], image[..., :-1, 1:], image[..., 1:, 1:], image[..., 1:, :-1]]


def _at(image: Tensor, squares: Tensor, width: int) -> list[Tensor]:
    """The corners of squares of a flat image."""
    return [image[squares + step] for step in (0, 1, width + 1, width)]


def _offsets(steps: range, width: int, device: torch.device) -> Tensor:
    one = torch.arange(steps.start, steps.stop, steps.step, device=device)
    return (one[:, None] * width + one).flatten()


def _around(places: Tensor, steps: range, width: int) -> Tensor:
    """All places of a flat image that are so many steps along height and along width from one of these."""
    around: Tensor = torch.unique(places[:, None] + _offsets(steps, width, places.device))
    return around
