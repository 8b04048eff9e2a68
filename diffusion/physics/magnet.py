"""The field of a scanner's magnet: even in the middle, steep at its rim, and what its weak gradients do there.

Far from the axis of the bore the gradients weaken, so what is seen there comes from farther away, where the field is
steeper, and from more tissue: it is bright.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_FAR = 1.6
_FOLD_MM, _FOLD_RIM_MM = 145.0, 8.0
"""How far from the axis of the bore, and within how much, what is bright begins to come from farther away."""
_FOLD = 0.6
"""By what part of its distance."""


class Magnet(NamedTuple):
    """A magnet's field, each `(batch)`.

    `rim_ppm` is its deviation at the `radius` (mm), `power` says how it grows. `centre` `(batch 3)` is that of its even
    middle, in mm along slice, height and width, `stretch` `(batch 2)` its shape along the last two.
    """

    rim_ppm: Tensor
    power: Tensor
    radius: Tensor
    centre: Tensor
    stretch: Tensor


class Places:
    """Where the pixels of slices `(batch height width)` are, in mm from the middle of the scanner.

    Parameters
    ----------
    shape
        Of the slices.
    spacing
        Along height and width, `(batch 2)`.
    place_mm
        Of the middle of each slice, along slice, height and width, `(batch 3)`.
    """

    def __init__(self, shape: torch.Size, spacing: Tensor, place_mm: Tensor) -> None:
        self.through = place_mm[:, 0]
        self.y, self.x = (
            (torch.arange(size, device=spacing.device) - size // 2) * spacing[:, axis, None]
            + place_mm[:, axis + 1, None]
            for axis, size in enumerate(shape[1:])
        )

    def from_axis(self, axis: Tensor) -> Tensor:
        """Distance within the plane from an axis that is 0 along height, 1 along width, 2 through the slice."""
        y, x = (torch.where((axis == one)[:, None], 0.0, here) for one, here in enumerate((self.y, self.x)))
        return (y.square()[:, :, None] + x.square()[:, None, :]).sqrt()


def magnet_field(places: Places, magnet: Magnet, farther: Tensor | float = 1.0) -> Tensor:
    """In ppm, `(batch height width)`: even within an ellipsoid, and beyond it growing with a power of the distance.

    `farther`, of that shape, is how many times as far within the plane as it is seen a pixel is.
    """
    y, x = (
        (here - magnet.centre[:, axis + 1, None]) * magnet.stretch[:, axis, None]
        for axis, here in enumerate((places.y, places.x))
    )
    square = (y.square()[:, :, None] + x.square()[:, None, :]) * farther**2
    square = square + (places.through - magnet.centre[:, 0]).square()[:, None, None]
    distance = square.sqrt() / magnet.radius[:, None, None]
    return magnet.rim_ppm[:, None, None] * distance.clamp(max=_FAR) ** magnet.power[:, None, None]


def gradient_fold(places: Places, axis: Tensor, bright: Tensor) -> Tensor:
    """How many times as far as it is seen a pixel is, 1 or more, for `magnet_field`.

    Parameters
    ----------
    places
        Of the pixels.
    axis
        Of the bore, as for `Places.from_axis`.
    bright
        How sure it is that a pixel is too bright for its place, 0 to 1, `(batch height width)`.
    """
    far = torch.sigmoid((places.from_axis(axis) - _FOLD_MM) / _FOLD_RIM_MM)
    return 1.0 + _FOLD * far * bright
