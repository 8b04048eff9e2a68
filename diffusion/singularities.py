"""Phase singularities: points around which the phase turns once (Goldstein et al., Radio Science 1988: residues)."""

from __future__ import annotations

import torch
from torch import Tensor


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
    corners, pixels = _corners(phasor), _corners(inside)
    steps = [(there * here.conj()).angle() for here, there in zip(corners, corners[1:] + corners[:1], strict=True)]
    counted = torch.stack(pixels).all(dim=0)
    return (torch.stack(steps).sum(dim=0).abs() > torch.pi) & counted, counted


def _corners(image: Tensor) -> list[Tensor]:
    """The four pixels of every square, in the order around it."""
    return [image[..., :-1, :-1], image[..., :-1, 1:], image[..., 1:, 1:], image[..., 1:, :-1]]
