"""The centred, orthonormal Fourier pair of the project."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_AXES = (-2, -1)


def fft2c(image: Tensor) -> Tensor:
    """Transform complex images to k-space, with the zero frequency in the centre.

    Parameters
    ----------
    image
        Complex images, `(*batch height width)`.

    Returns
    -------
    kspace
        Same shape and dtype; orthonormal, so the energy is preserved.
    """
    kspace: Tensor = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image, dim=_AXES), norm="ortho"), dim=_AXES)
    return kspace


def ifft2c(kspace: Tensor) -> Tensor:
    """Transform k-space to complex images: the inverse of `fft2c`.

    Parameters
    ----------
    kspace
        Complex k-space, `(*batch height width)`, zero frequency in the centre.

    Returns
    -------
    image
        Same shape and dtype.
    """
    image: Tensor = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(kspace, dim=_AXES), norm="ortho"), dim=_AXES)
    return image


def resize_kspace(kspace: Tensor, height: int, width: int) -> Tensor:
    """Crop or zero-fill centred k-space, which resamples its image without a shift.

    The image keeps its values (the orthonormal scale is corrected); the pixel at index `n // 2` remains at the centre.

    Parameters
    ----------
    kspace
        Complex k-space, `(*batch height width)`.
    height, width
        The new size.

    Returns
    -------
    kspace
        `(*batch, height, width)`.
    """
    old_height, old_width = kspace.shape[-2:]
    result = kspace.new_zeros((*kspace.shape[:-2], height, width))
    old_rows, new_rows = _overlap(old_height, height)
    old_columns, new_columns = _overlap(old_width, width)
    result[..., new_rows, new_columns] = kspace[..., old_rows, old_columns]
    return result * math.sqrt(height * width / (old_height * old_width))


def _overlap(old: int, new: int) -> tuple[slice, slice]:
    """Return the overlapping index ranges of the old and the new axis, with index `n // 2` of both as the centre."""
    count = min(old, new)
    old_start, new_start = old // 2 - count // 2, new // 2 - count // 2
    return slice(old_start, old_start + count), slice(new_start, new_start + count)


def radial_rings(height: int, width: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the ring of k-space of each pixel, int64 `(height width)`: 0 in the centre, `count` beyond the last.

    All rings have the same width relative to the matrix, up to the nearer edge; the corners are beyond.
    """
    sizes = (height, width)
    y, x = (2.0 * (torch.arange(n, dtype=torch.float64, device=device) - n // 2) / n for n in sizes)
    return (torch.hypot(y[:, None], x) * count).long().clamp(max=count)
