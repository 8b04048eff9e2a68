"""The grid on which phasors are generated: that of the slice, or a coarser one of fixed physical resolution.

Phase is smooth on the scale of a millimetre, and networks are trained at 1.5 to 3 mm. So slices that are clearly finer
than the grid are resampled to it by cropping k-space, and phasors back to the matrix of the slice by zero-filling.
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
    """Compute the size of the grid.

    Parameters
    ----------
    height, width
        Matrix size of the slice.
    spacing_mm
        Along height and width; None or NaN if unknown.
    grid_mm
        Resolution of the grid; 0 keeps that of the slice.

    Returns
    -------
    size
        Along height and width; an axis that is not at least 25 % finer than the grid, or of unknown spacing, is kept.
    """
    if spacing_mm is None:
        return height, width
    sizes = zip((height, width), spacing_mm, strict=True)
    return tuple(  # type: ignore[return-value]
        max(1, round(size * step / grid_mm)) if 0 < step < grid_mm / _CLEARLY else size for size, step in sizes
    )


def to_grid(magnitude: Tensor, height: int, width: int) -> Tensor:
    """Resample magnitudes `(*batch height width)` to the grid; negative values from ringing are set to zero."""
    if magnitude.shape[-2:] == (height, width):
        return magnitude
    return ifft2c(resize_kspace(fft2c(magnitude.to(torch.complex64)), height, width)).real.clamp(min=0.0)


def from_grid(image: Tensor, height: int, width: int) -> Tensor:
    """Resample complex images `(*batch height width)` from the grid to the matrix of the slice."""
    if image.shape[-2:] == (height, width):
        return image
    return ifft2c(resize_kspace(fft2c(image), height, width))
