"""The field of the magnet: homogeneous at the isocentre, steep at the rim of the bore, with gradient fold-over.

Far from the axis of the bore the gradients weaken. Tissue at that position in the image is actually farther away, where
the field is steeper, and from more tissue, so it is bright.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_FAR = 1.6
_FOLD_MM, _FOLD_RIM_MM = 145.0, 8.0
"""Distance from the axis of the bore at which gradient fold-over begins, and the width of the transition."""
_FOLD = 0.6
"""Additional distance of folded tissue from the axis, as a fraction of its apparent distance."""


class Magnet(NamedTuple):
    """Parameters of the field of a magnet, each `(batch)`.

    Attributes
    ----------
    rim_ppm, radius, power
        The deviation at the radius (mm) in ppm, and the power of the distance with which it grows.
    centre
        Centre of the homogeneous region in mm along slice, height and width, `(batch 3)`.
    stretch
        Stretch of the homogeneous region along height and width, `(batch 2)`.
    """

    rim_ppm: Tensor
    power: Tensor
    radius: Tensor
    centre: Tensor
    stretch: Tensor


class Places:
    """Positions of the pixels of slices `(batch height width)`, in mm from the isocentre.

    Parameters
    ----------
    shape
        Shape of the slices, `(batch height width)`.
    spacing
        Spacing in mm along height and width, `(batch 2)`.
    place_mm
        Position of the centre of each slice along slice, height and width, `(batch 3)`.
    """

    def __init__(self, shape: torch.Size, spacing: Tensor, place_mm: Tensor) -> None:
        self.through = place_mm[:, 0]
        self.y, self.x = (
            (torch.arange(size, device=spacing.device) - size // 2) * spacing[:, axis, None]
            + place_mm[:, axis + 1, None]
            for axis, size in enumerate(shape[1:])
        )

    def from_axis(self, axis: Tensor) -> Tensor:
        """Return the in-plane distance in mm from an axis: 0 along height, 1 along width, 2 through the slice."""
        y, x = (torch.where((axis == one)[:, None], 0.0, here) for one, here in enumerate((self.y, self.x)))
        return (y.square()[:, :, None] + x.square()[:, None, :]).sqrt()


def magnet_field(places: Places, magnet: Magnet, farther: Tensor | float = 1.0) -> Tensor:
    """Compute the deviation of the field in ppm, `(batch height width)`: a power of the distance from its centre.

    `farther`, of the same shape, is the true over the apparent in-plane distance of a pixel, see `gradient_fold`.
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
    """Return the true over the apparent in-plane distance of each pixel, 1 or more, for `magnet_field`.

    Parameters
    ----------
    places
        Positions of the pixels.
    axis
        Axis of the bore, as for `Places.from_axis`.
    bright
        Confidence that a pixel is bright by fold-over, 0 to 1, `(batch height width)`.
    """
    far = torch.sigmoid((places.from_axis(axis) - _FOLD_MM) / _FOLD_RIM_MM)
    return 1.0 + _FOLD * far * bright
