"""The grid on which phasors are generated: the slice's own, or a coarser one of fixed physical resolution.

Phase is smooth on the scale of a millimetre and the network has learned it at 1.5 to 3 mm, so finer slices are brought
to about `GRID_MM` by cropping k-space; the phasor comes back to the slice's own matrix by zero-filling k-space.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.fourier import fft2c, ifft2c, resize_kspace

GRID_MM = 1.5
_FINEST_MM = 1.2


def grid_size(height: int, width: int, spacing_mm: tuple[float, float] | None) -> tuple[int, int]:
    """Choose the size of the grid; axes whose spacing is 1.2 mm or more, or not known, keep their own."""
    if spacing_mm is None:
        return height, width
    sizes = zip((height, width), spacing_mm, strict=True)
    return tuple(  # type: ignore[return-value]
        max(1, round(size * step / GRID_MM)) if 0 < step < _FINEST_MM else size for size, step in sizes
    )


def to_grid(magnitude: Tensor, height: int, width: int) -> Tensor:
    """Bring magnitudes `(*batch height width)` to the grid; what rings below zero becomes zero."""
    if magnitude.shape[-2:] == (height, width):
        return magnitude
    return ifft2c(resize_kspace(fft2c(magnitude.to(torch.complex64)), height, width)).real.clamp(min=0.0)


def from_grid(image: Tensor, height: int, width: int) -> Tensor:
    """Bring complex images `(*batch height width)` from the grid to the slice's own matrix."""
    if image.shape[-2:] == (height, width):
        return image
    return ifft2c(resize_kspace(fft2c(image), height, width))
