"""What a magnitude tells of the body in it: where air is, and along which side of the slice it lies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_SMALLEST_MM = 10.0
"""Of what counts as air: where a magnitude is weak over less, noise or a vessel made it so."""
_OBJECT = 0.1
_RIM = 2
_CLEARLY_MORE = 0.1


def estimate_air(relative: Tensor, spacing_mm: Sequence[float], threshold: Tensor) -> Tensor:
    """Guess the share of air, 0 to 1: where the mean over a centimetre is weak.

    Parameters
    ----------
    relative
        Magnitude relative to a bright one, `(batch height width)`.
    spacing_mm
        Along height and width.
    threshold
        Below which it is weak; of a shape that broadcasts.
    """
    return share_below(local_mean(relative, spacing_mm), threshold)


def estimate_axis(relative: Tensor, drawn: Tensor) -> Tensor:
    """Guess the axis of the main field, as in `FieldSample`: a body lies along it, and goes on beyond the slice.

    Parameters
    ----------
    relative
        Magnitude relative to a bright one, `(batch height width)`.
    drawn
        Axes `(batch)`, taken where as much of the object is at the upper and lower rim as at the sides.
    """
    inside = (relative > _OBJECT).float()
    along, across = (
        torch.cat((image[:, :_RIM], image[:, -_RIM:]), dim=1).mean(dim=(1, 2))
        for image in (inside, inside.transpose(1, 2))
    )
    axis = torch.where(along - across > _CLEARLY_MORE, 0, drawn)
    return torch.where(across - along > _CLEARLY_MORE, 1, axis)


def share_below(level: Tensor, threshold: Tensor) -> Tensor:
    """How sure it is that a level is below a threshold, 0 to 1; of the shape of both."""
    return torch.sigmoid(6.0 * (threshold - level) / threshold)


def local_mean(relative: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """The mean over a centimetre, of an image `(batch height width)`, whose spacing along height and width is given."""
    reach = [max(1, round((_SMALLEST_MM / step - 1.0) / 2.0)) for step in spacing_mm]
    reach = [min(away, size // 2) for away, size in zip(reach, relative.shape[1:], strict=True)]
    window = [2 * away + 1 for away in reach]
    return functional.avg_pool2d(relative[:, None], window, 1, reach, count_include_pad=False)[:, 0]
