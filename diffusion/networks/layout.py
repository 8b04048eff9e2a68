"""Memory layouts of complex channels in real tensors: blocks, or planes for sampling on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Layout(NamedTuple):
    """The functions of a network that depend on the layout of its channels.

    `fold` takes noisy image and magnitude, real blocks `(batch 2 height width)`, and the side of the patches that
    become channels; `unfold` is its inverse for one image; `join` concatenates the channels of two tensors.
    """

    fold: Callable[[Tensor, Tensor, int], Tensor]
    join: Callable[[Tensor, Tensor], Tensor]
    unfold: Callable[[Tensor, int], Tensor]


def fold_patches(channels: Tensor, patch: int) -> Tensor:
    """Gather patches into channels, `(batch c height width)` to `(batch c*patch^2 height/patch width/patch)`."""
    folded: Tensor = functional.pixel_unshuffle(channels, patch)
    return folded


def unfold_patches(channels: Tensor, patch: int) -> Tensor:
    """Undo `fold_patches`."""
    unfolded: Tensor = functional.pixel_shuffle(channels, patch)
    return unfolded


def _parts(noisy: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Return the real parts of both, and the imaginary parts of both."""
    return torch.cat((noisy[:, :1], magnitude[:, :1]), dim=1), torch.cat((noisy[:, 1:], magnitude[:, 1:]), dim=1)


def _fold_blocks(noisy: Tensor, magnitude: Tensor, patch: int) -> Tensor:
    real, imag = (fold_patches(part, patch) for part in _parts(noisy, magnitude))
    return torch.cat((real, imag), dim=1)


def _join_blocks(hidden: Tensor, skip: Tensor) -> Tensor:
    (real, imag), (skip_real, skip_imag) = hidden.chunk(2, dim=1), skip.chunk(2, dim=1)
    return torch.cat((real, skip_real, imag, skip_imag), dim=1)


def _unfold_blocks(channels: Tensor, patch: int) -> Tensor:
    real, imag = channels.chunk(2, dim=1)
    return torch.cat((unfold_patches(real, patch), unfold_patches(imag, patch)), dim=1)


def _fold_planes(noisy: Tensor, magnitude: Tensor, patch: int) -> Tensor:
    planes = fold_patches(torch.cat(_parts(noisy, magnitude)), patch)
    return planes.contiguous(memory_format=torch.channels_last)


def _join_planes(hidden: Tensor, skip: Tensor) -> Tensor:
    return torch.cat((hidden, skip), dim=1)


def _unfold_planes(channels: Tensor, patch: int) -> Tensor:
    return torch.cat(unfold_patches(channels, patch).chunk(2), dim=1)


BLOCKS = Layout(_fold_blocks, _join_blocks, _unfold_blocks)
"""`(batch 2*channel height width)`: the real parts of all channels, then the imaginary ones."""
PLANES = Layout(_fold_planes, _join_planes, _unfold_planes)
"""`(2*batch channel height width)`: the real parts of all slices, then the imaginary ones."""
