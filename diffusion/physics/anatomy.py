"""Estimate anatomy from a magnitude: air, and the axis along which the object extends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_SMALLEST_MM = 10.0
"""Smallest size of air; smaller dark regions are noise or vessels."""
_OBJECT = 0.1
_RIM = 2
_CLEARLY_MORE = 0.1


def estimate_air(relative: Tensor, spacing_mm: Sequence[float], threshold: Tensor) -> Tensor:
    """Estimate the fraction of air, 0 to 1, `(batch height width)`: air has a low mean over a centimetre.

    Parameters
    ----------
    relative
        Magnitude relative to the bright level, `(batch height width)`.
    spacing_mm
        Along height and width.
    threshold
        Relative magnitude below which a mean counts as air; broadcastable.
    """
    return share_below(local_mean(relative, spacing_mm), threshold)


def estimate_axis(relative: Tensor, sampled: Tensor) -> Tensor:
    """Estimate the axis of the main field, encoded as in `FieldSample`: the object extends beyond the image along it.

    Parameters
    ----------
    relative
        Magnitude relative to the bright level, `(batch height width)`.
    sampled
        Axes `(batch)`, used if as much of the object is at the upper and lower rim as at the sides.
    """
    inside = (relative > _OBJECT).float()
    along, across = (
        torch.cat((image[:, :_RIM], image[:, -_RIM:]), dim=1).mean(dim=(1, 2))
        for image in (inside, inside.transpose(1, 2))
    )
    axis = torch.where(along - across > _CLEARLY_MORE, 0, sampled)
    return torch.where(across - along > _CLEARLY_MORE, 1, axis)


def share_below(level: Tensor, threshold: Tensor) -> Tensor:
    """Return a soft comparison of a level with a threshold, 1 far below it, 0 far above, of the broadcast shape."""
    return torch.sigmoid(6.0 * (threshold - level) / threshold)


def local_mean(relative: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Compute the mean over a centimetre, `(batch height width)`, of images with a spacing along height and width."""
    reach = [max(1, round((_SMALLEST_MM / step - 1.0) / 2.0)) for step in spacing_mm]
    reach = [min(away, size // 2) for away, size in zip(reach, relative.shape[1:], strict=True)]
    window = [2 * away + 1 for away in reach]
    return functional.avg_pool2d(relative[:, None], window, 1, reach, count_include_pad=False)[:, 0]
