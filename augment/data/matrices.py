"""Change the matrix, the field of view or the direction of k-space and of what belongs to its image.

Images keep their intensity: the transform pair is orthonormal, so k-space is scaled where its number of samples
changes. Arrays are `(*batch height width)`; the zero frequency is at index `size // 2`, and images are cropped about
their centre as fastMRI crops.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import RequestError
from rephase.numpy_fourier import fft2c_array, ifft2c_array

Size = tuple[int, int]
_AXES = {"height": -2, "width": -1}


def change_resolution(kspace: NDArray[np.complex64], size: Size) -> NDArray[np.complex64]:
    """Crop k-space about its centre, or fill it up with zeros: the field of view stays, the voxels change.

    Parameters
    ----------
    kspace
        complex64 `(*batch height width)`.
    size
        New height and width.

    Returns
    -------
    kspace
        complex64 `(*batch *size)`, scaled by the square root of the ratio of sizes, so that the image keeps its
        intensity.
    """
    for axis, new in zip((-2, -1), _checked(size), strict=True):
        old = kspace.shape[axis]
        kspace = _placed(kspace, axis, new, abs(old // 2 - new // 2))
        if new != old:
            kspace = kspace * np.float32(math.sqrt(new / old))
    return np.ascontiguousarray(kspace)


def change_field_of_view(kspace: NDArray[np.complex64], size: Size) -> NDArray[np.complex64]:
    """Crop the image of k-space about its centre, or surround it with zeros: the voxels stay.

    Parameters
    ----------
    kspace
        complex64 `(*batch height width)`, fully sampled.
    size
        New height and width.

    Returns
    -------
    kspace
        complex64 `(*batch *size)`, of the cropped or padded image.
    """
    if tuple(kspace.shape[-2:]) == _checked(size):
        return kspace
    return fft2c_array(change_extent(ifft2c_array(kspace), size)) + np.complex64(0)


def change_extent(image: NDArray[Any], size: Size) -> NDArray[Any]:
    """Crop images `(*batch height width)` of any type about their centre, or surround them with zeros."""
    for axis, new in zip((-2, -1), _checked(size), strict=True):
        image = _placed(image, axis, new, abs(image.shape[axis] - new) // 2)
    return np.ascontiguousarray(image)


def flip(kspace: NDArray[np.complex64], axis: str, size: int | None = None) -> NDArray[np.complex64]:
    """Flip the image of k-space along an axis, without transforming it: k-space is mirrored about its centre.

    The centre of an image of even size lies half a pixel beside its middle, so mirrored k-space gets the linear phase
    of one pixel. Columns that are empty stay empty, so masked k-space may be flipped; its mask is `flip_mask`.

    Parameters
    ----------
    kspace
        complex64 `(*batch height width)`.
    axis
        `height` or `width`.
    size
        Size of the central crop of the image along this axis that is flipped in place. Default: the whole image.

    Returns
    -------
    kspace
        complex64 of the same shape.
    """
    along = _axis(axis)
    count = kspace.shape[along]
    mirrored = np.take(kspace, _mirror(count), axis=along)
    if shift := _shift(count, size):
        frequency = np.arange(count) - count // 2
        phasor = np.exp(2j * np.pi * frequency * shift / count).astype(np.complex64)
        mirrored = mirrored * (phasor if along == -1 else phasor[:, np.newaxis])
    return np.asarray(mirrored + np.complex64(0), np.complex64)


def flip_mask(mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mask `(width)` of k-space that was flipped along its width."""
    return mask[_mirror(len(mask))]


def flip_image(image: NDArray[Any], axis: str, size: int | None = None) -> NDArray[Any]:
    """Flip an image `(*batch height width)` of any type on the grid of k-space, as `flip` does with this size."""
    along = _axis(axis)
    count = image.shape[along]
    last = 2 * (count // 2) - _shift(count, size)
    return np.asarray(np.take(image, (last - np.arange(count)) % count, axis=along))


def resample_labels(labels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Take the nearest label for an image of another resolution with the same field of view."""
    for axis, new in zip((-2, -1), size, strict=True):
        old = labels.shape[axis]
        labels = np.take(labels, np.clip(np.rint(_positions(old, new)), 0, old - 1).astype(np.intp), axis=axis)
    return labels


def resample_maps(maps: NDArray[np.complex64], size: Size) -> NDArray[np.complex64]:
    """Interpolate coil maps `(coil height width)` linearly to another resolution with the same field of view."""
    for axis, new in zip((-2, -1), size, strict=True):
        old = maps.shape[axis]
        place = np.clip(_positions(old, new), 0, old - 1)
        below = np.minimum(place.astype(np.intp), max(old - 2, 0))
        part = (place - below).astype(np.float32)
        part = part if axis == -1 else part[:, np.newaxis]
        above = np.minimum(below + 1, old - 1)
        maps = np.take(maps, below, axis=axis) * (1 - part) + np.take(maps, above, axis=axis) * part
    return np.asarray(maps, np.complex64)


def _positions(old: int, new: int) -> NDArray[np.float64]:
    """Return the places of the new pixels along an axis in old pixels; both grids agree at the centre."""
    return np.asarray(old // 2 + (np.arange(new) - new // 2) * (old / new), np.float64)


def _placed(values: NDArray[Any], axis: int, new: int, offset: int) -> NDArray[Any]:
    """Cut out, or surround by zeros, along one axis; the smaller array begins at the offset in the larger one."""
    old = values.shape[axis]
    if new <= old:
        return np.asarray(values[_at(axis, slice(offset, offset + new))])
    shape = list(values.shape)
    shape[axis] = new
    filled = np.zeros(shape, values.dtype)
    filled[_at(axis, slice(offset, offset + old))] = values
    return filled


def _at(axis: int, part: slice) -> tuple[Any, ...]:
    return (..., part, slice(None)) if axis == -2 else (..., part)


def _mirror(count: int) -> NDArray[np.intp]:
    """Return the index of the opposite frequency for every frequency."""
    return (2 * (count // 2) - np.arange(count)) % count


def _shift(count: int, size: int | None) -> int:
    """Return by how many pixels mirroring about the origin misses a flip of the central `size` pixels."""
    kept = count if size is None else min(size, count)
    return 2 * (count // 2) + 1 - 2 * ((count - kept) // 2) - kept


def _axis(axis: str) -> int:
    if axis not in _AXES:
        raise RequestError(f"axis {axis!r}: expected height or width")
    return _AXES[axis]


def _checked(size: Size) -> Size:
    whole = isinstance(size, tuple | list) and all(isinstance(one, int | np.integer) and one > 0 for one in size)
    if not whole or len(size) != 2:
        raise RequestError(f"size {size!r}: expected height and width, whole numbers above 0")
    return int(size[0]), int(size[1])
