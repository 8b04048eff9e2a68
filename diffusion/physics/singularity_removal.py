"""Removal of singularities in bright tissue from a sampled phase.

Around a singularity the phase is smoothed by means of nine pixels: at first in the nearest pixels, then farther away,
until it meets one of the opposite sign. On a CPU only these pixels are computed. Their number is known on the device
alone, and reading it would synchronise with a GPU, so on a GPU entire slices are smoothed and masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rephase.diffusion.physics.singularities import are_singular, singular_squares

REACH_MM = 9.0
"""Distance from a singularity within which its removal may change the phase."""
_MOST_PIXELS = 6
"""Largest distance in pixels: in fine slices, more would be visible as a square around an unpaired singularity."""
_ROUNDS = 4
"""Rounds of smoothing before the neighbourhood grows by a pixel."""


def remove_singularities(phasor: Tensor, magnitude: Tensor, bright: Tensor, spacing_mm: float) -> Tensor:
    """Smooth the phase around singularities of bright squares until they meet one of the opposite sign, and vanish.

    A single singularity does not vanish but moves. The smoothed neighbourhood grows, up to `REACH_MM`, until it
    contains both, or the singularity is in a dark place. The result of a slice depends on that slice alone.

    Parameters
    ----------
    phasor
        Complex64 `(batch height width)`; only the angle counts.
    magnitude
        Weights of the phase in the means of nine pixels; same shape.
    bright
        Squares from `bright_squares`.
    spacing_mm
        Pixel spacing.

    Returns
    -------
    phasor
        The input, with unit phasors around the removed singularities.
    """
    reach = min(max(1, round(REACH_MM / spacing_mm)), _MOST_PIXELS)
    remove = remove_sparsely if phasor.device.type == "cpu" else remove_densely
    return remove(phasor, magnitude, bright, reach)


def remove_sparsely(phasor: Tensor, magnitude: Tensor, bright: Tensor, reach: int) -> Tensor:
    """Remove singularities with a reach in pixels, computing only pixels near them."""
    rim = _rim(reach)
    height, width = phasor.shape[1] + 2 * rim, phasor.shape[2] + 2 * rim
    angle, weight, bright = (part.flatten() for part in _with_rims(phasor, magnitude, bright, rim))
    found = _singular(bright.nonzero()[:, 0], angle, width)
    if not len(found):
        return phasor
    flat = _Flat(angle, torch.polar(weight, angle), weight, bright, torch.zeros_like(bright), width)
    for away in range(1, reach + 1):
        found = _smooth_around(found, away, flat)
    shape, inside = (len(phasor), height, width), (..., slice(rim, height - rim), slice(rim, width - rim))
    smoothed = torch.polar(torch.ones_like(angle), angle).reshape(shape)[inside]
    return torch.where(flat.changed.reshape(shape)[inside], smoothed, phasor)


def remove_densely(phasor: Tensor, magnitude: Tensor, bright: Tensor, reach: int) -> Tensor:
    """Remove singularities as `remove_sparsely` does, within rounding; the operations do not depend on the data."""
    rim = _rim(reach)
    angle, weight, bright = _with_rims(phasor, magnitude, bright, rim)
    image, changed = torch.polar(weight, angle), torch.zeros_like(bright)
    for away in (step for step in range(1, reach + 1) for _ in range(_ROUNDS)):
        found = functional.pad(singular_squares(angle), (0, 1, 0, 1)) & bright
        # dilate: pixels from `1 - away` to `away` next to a square, along each axis
        near = functional.pad(found.float()[:, None], (away, away - 1, away, away - 1))
        near = functional.max_pool2d(functional.max_pool2d(near, (2 * away, 1), 1), (1, 2 * away), 1)[:, 0] > 0
        smoothed = _mean_of_nine(image, _tap_distance(away)).angle()
        angle = torch.where(near, smoothed, angle)
        image = torch.where(near, torch.polar(weight, smoothed), image)
        changed = changed | near
    inside = (..., slice(rim, angle.shape[1] - rim), slice(rim, angle.shape[2] - rim))
    return torch.where(changed[inside], torch.polar(torch.ones_like(angle), angle)[inside], phasor)


def _rim(reach: int) -> int:
    """Return the width of a dark rim that covers all means."""
    return reach + _tap_distance(reach)


def _with_rims(phasor: Tensor, magnitude: Tensor, bright: Tensor, rim: int) -> Iterator[Tensor]:
    """Yield angle, modulus and bright squares, padded by a dark rim to one size."""
    for image, more in ((phasor.angle(), 0), (magnitude, 0), (bright, 1)):
        yield functional.pad(image, (rim, rim + more, rim, rim + more))


def _mean_of_nine(image: Tensor, taps: int) -> Tensor:
    """Return sums of nine pixels, `taps` apart along height and width; only the angle is used, and not in the rim."""
    rows = image[:, : -2 * taps] + image[:, taps:-taps] + image[:, 2 * taps :]
    nine = rows[..., : -2 * taps] + rows[..., taps:-taps] + rows[..., 2 * taps :]
    return functional.pad(nine, (taps, taps, taps, taps))


class _Flat(NamedTuple):
    """Flattened slices with dark rims: angle, image and modulus, bright squares, changed pixels, and the width."""

    angle: Tensor
    image: Tensor
    weight: Tensor
    bright: Tensor
    changed: Tensor
    width: int


def _smooth_around(found: Tensor, away: int, flat: _Flat) -> Tensor:
    """Smooth the phase at a distance from the squares `found`, and return the squares that are still singular.

    Only smoothed pixels change, so squares that become singular touch them.
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
    """Return the spacing of the nine pixels of a mean for a distance from the singularity."""
    return (away + 3) // 4


def _singular(squares: Tensor, angle: Tensor, width: int) -> Tensor:
    """Return the singular squares among squares of a flat image, identified by their first corner."""
    return squares[are_singular([angle[squares + step] for step in (0, 1, width + 1, width)])]


def _offsets(steps: range, width: int, device: torch.device) -> Tensor:
    one = torch.arange(steps.start, steps.stop, steps.step, device=device)
    return (one[:, None] * width + one).flatten()


def _places(centres: Tensor, offsets: Tensor) -> Tensor:
    """Return all indices of a flat image that are at one of the offsets from one of the centres."""
    places: Tensor = torch.unique(centres[:, None] + offsets)
    return places
