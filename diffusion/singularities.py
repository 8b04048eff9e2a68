"""Phase singularities: points around which the phase turns once (Goldstein et al., Radio Science 1988: residues).

At such a point the signal is zero, so a measured image is dark there: by its noise, or by what cancels within a pixel.
A sampled phase that turns around a point in bright tissue is one that no scanner measures.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

DARK_SNR = 10.0
"""A pixel whose signal is below this many standard deviations of the noise may be beside a singularity."""
DARK_SHARE = 0.25
"""So may one that is darker than this share of its neighbourhood (root mean square)."""
REACH_MM = 9.0
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
    return _turns(_corners(phasor.angle())) & counted, counted


def bright_squares(magnitude: Tensor, sigma: Tensor) -> Tensor:
    """Find the squares of four pixels in which a measured phase has hardly any singularity.

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
    power = magnitude.square()[:, None]
    for window in ((_NEIGHBOURHOOD, 1), (1, _NEIGHBOURHOOD)):  # the mean of means: a square at once takes longer
        margins = (window[0] // 2, window[1] // 2)
        power = functional.avg_pool2d(power, window, 1, margins, count_include_pad=False)
    bright = (magnitude > DARK_SNR * sigma[:, None, None]) & (magnitude > DARK_SHARE * power[:, 0].sqrt())
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
    angle = functional.pad(phasor.angle(), (rim, rim, rim, rim)).flatten()
    bright = functional.pad(bright, (rim, rim + 1, rim, rim + 1)).flatten()
    found = _singular(bright.nonzero()[:, 0], angle, width)
    if not len(found):
        return phasor
    weight = functional.pad(magnitude, (rim, rim, rim, rim)).flatten()
    flat = _Flat(angle, torch.polar(weight, angle), weight, bright, torch.zeros_like(bright), width)
    for away in range(1, reach + 1):
        found = _smooth_around(found, away, flat)
    shape, inside = (len(phasor), height, width), (..., slice(rim, height - rim), slice(rim, width - rim))
    smoothed = torch.polar(torch.ones_like(angle), angle).reshape(shape)[inside]
    return torch.where(flat.changed.reshape(shape)[inside], smoothed, phasor)


class _Flat(NamedTuple):
    """Slices with dark rims, flattened, of a width: angle, image and its modulus, bright squares, changed pixels."""

    angle: Tensor
    image: Tensor
    weight: Tensor
    bright: Tensor
    changed: Tensor
    width: int


def _smooth_around(found: Tensor, away: int, flat: _Flat) -> Tensor:
    """Smooth the phase of pixels that are so far from the squares `found`, some times; give the squares that are left.

    Outside what was smoothed nothing changes, so squares that are singular then touch it.
    """
    taps = _tap_distance(away)
    nine, pixels, squares = (
        _offsets(steps, flat.width, found.device)
        for steps in (range(-taps, taps + 1, taps), range(1 - away, away + 1), range(-away, away + 1))
    )
    for _ in range(_ROUNDS):
        if not len(found):
            break
        near = _places(found, pixels)
        flat.angle[near] = flat.image[near[:, None] + nine].sum(dim=1).angle()
        flat.image[near] = torch.polar(flat.weight[near], flat.angle[near])
        flat.changed[near] = True
        touched = _places(found, squares)
        found = _singular(touched[flat.bright[touched]], flat.angle, flat.width)
    return found


def _tap_distance(away: int) -> int:
    """How far apart the nine pixels of a mean are, where the phase is smoothed so far around a singularity."""
    return (away + 3) // 4


def _turns(angles: list[Tensor]) -> Tensor:
    """Where the wrapped differences around four corners sum to a full turn.

    The differences sum to nothing before they are wrapped, so what they sum to is what wrapping takes.
    """
    turns = [
        ((there - here) / (2.0 * torch.pi)).round() for here, there in zip(angles, angles[1:] + angles[:1], strict=True)
    ]
    return torch.stack(turns).sum(dim=0).abs() > 0.5


def _corners(image: Tensor) -> list[Tensor]:
    """The four pixels of every square, in the order around it."""
    return [image[..., :-1, :-1], image[..., :-1, 1:], image[..., 1:, 1:], image[..., 1:, :-1]]


def _singular(squares: Tensor, angle: Tensor, width: int) -> Tensor:
    """Those of some squares of a flat image, named by their first corner, in which its phase turns once."""
    return squares[_turns([angle[squares + step] for step in (0, 1, width + 1, width)])]


def _offsets(steps: range, width: int, device: torch.device) -> Tensor:
    one = torch.arange(steps.start, steps.stop, steps.step, device=device)
    return (one[:, None] * width + one).flatten()


def _places(centres: Tensor, offsets: Tensor) -> Tensor:
    """All places of a flat image that are at one of the offsets from one of the centres."""
    places: Tensor = torch.unique(centres[:, None] + offsets)
    return places
