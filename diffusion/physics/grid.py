"""The grid on which phasors are generated: the slice's own, or a coarser one of fixed physical resolution.

Phase is smooth on the scale of a millimetre and the network has learned it at 1.5 to 3 mm, so slices that are clearly
finer than the grid (`GRID_MM` where a checkpoint says nothing) are brought to it by cropping k-space; the phasor comes
back to the slice's own matrix by zero-filling k-space.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rephase.diffusion.fourier import fft2c, ifft2c, resize_kspace

GRID_MM = 1.5
_CLEARLY = 1.25


def grid_size(
    height: int, width: int, spacing_mm: tuple[float, float] | None, grid_mm: float = GRID_MM
) -> tuple[int, int]:
    """Choose the size of the grid.

    Parameters
    ----------
    height, width
        Of the slice.
    spacing_mm
        Along height and width; None or NaN where not known.
    grid_mm
        Resolution of the grid; 0 for that of the slice, always.

    Returns
    -------
    size
        Along height and width; an axis that is not finer by a quarter than the grid, or not known, keeps its own.
    """
    if spacing_mm is None:
        return height, width
    sizes = zip((height, width), spacing_mm, strict=True)
    return tuple(  # type: ignore[return-value]
        max(1, round(size * step / grid_mm)) if 0 < step < grid_mm / _CLEARLY else size for size, step in sizes
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
