"""Convolutions of pixels that are doubled before, in 4 of every 9 multiplications.

Over doubled pixels, 3 x 3 weights see 2 x 2 different ones, of which some count twice; which, differs for the four
pixels that come of one.
"""

from __future__ import annotations

import torch
from torch import Tensor


def upsample_weight(weight: Tensor) -> Tensor:
    """Arrange a weight `(out_channels in_channels 3 3)` for pixels that are not doubled: `(4*out_channels ... 2 2)`.

    The convolution is to be padded by one pixel; its result is for `pixel_shuffle_crop`.
    """
    return torch.cat([one for rows in _add_twins(weight, 2) for one in _add_twins(rows, 3)])


def pixel_shuffle_crop(parts: Tensor) -> Tensor:
    """Put the four pixels that come of each in their places.

    Parameters
    ----------
    parts
        What the convolution gives, `(batch 4*channel height+1 width+1)`.

    Returns
    -------
    doubled
        `(batch channel 2*height 2*width)`.
    """
    height, width = parts.shape[2] - 1, parts.shape[3] - 1
    shape = (len(parts), parts.shape[1] // 4, 2 * height, 2 * width)
    doubled = torch.empty(shape, dtype=parts.dtype, device=parts.device, memory_format=torch.channels_last)
    for index, part in enumerate(parts.chunk(4, dim=1)):
        down, right = divmod(index, 2)
        doubled[:, :, down::2, right::2] = part[:, :, down : down + height, right : right + width]
    return doubled


def _add_twins(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Of three weights along an axis, the two that a first and a second of doubled pixels sees."""
    before, here, after = weight.unbind(dim)
    return torch.stack((before, here + after), dim), torch.stack((before + here, after), dim)
