"""Metrics of reconstructions, equal to those of `fastmri.evaluate`, and of segmentations.

The arguments are NumPy arrays or whatever NumPy converts, such as torch tensors on the CPU; the truth comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rephase.errors import RequestError

__all__ = ["dice", "hd95", "nmse", "psnr", "ssim"]

_WINDOW = 7


def nmse(target: ArrayLike, found: ArrayLike) -> float:
    """Compute the squared error relative to the squared target, over a whole volume: fastMRI's NMSE.

    Raises
    ------
    RequestError
        If the shapes differ, a value is complex, NaN or infinite, or the target is 0 everywhere.
    """
    truth, image = _images(target, found)
    energy = float(np.square(truth).sum())
    if energy == 0:
        raise RequestError("target: 0 everywhere; expected an image, since the error is relative to it")
    return float(np.square(truth - image).sum()) / energy


def psnr(target: ArrayLike, found: ArrayLike, maxval: float | None = None) -> float:
    """Compute the peak signal-to-noise ratio in dB; infinite for equal images.

    Parameters
    ----------
    target, found
        Images of one volume.
    maxval
        The peak. Default: maximum of the target. With one slice, pass `attrs["max"]`, that of the volume.

    Raises
    ------
    RequestError
        As for `nmse`, or if the peak is not positive.
    """
    truth, image = _images(target, found)
    peak = _peak(truth, maxval)
    error = float(np.square(truth - image).mean())
    return 10 * math.log10(peak**2 / error) if error else math.inf


def ssim(target: ArrayLike, found: ArrayLike, maxval: float | None = None) -> float:
    """Compute the mean structural similarity of the slices (Wang et al. 2004), 7 x 7 windows, sample covariance.

    Parameters
    ----------
    target, found
        `(slice height width)`, or `(height width)` for one slice.
    maxval
        Data range. Default: maximum of the target. With one slice, pass `attrs["max"]`, that of the volume.

    Raises
    ------
    RequestError
        As for `psnr`, or if the slices are smaller than a window.
    """
    truth, image = _images(target, found)
    if truth.ndim not in (2, 3) or min(truth.shape[-2:]) < _WINDOW:
        raise RequestError(
            f"target {truth.shape}: expected (slice height width) or (height width), with at least "
            f"{_WINDOW} x {_WINDOW} pixels"
        )
    c1, c2 = (constant * _peak(truth, maxval) ** 2 for constant in (0.01**2, 0.03**2))
    slices = zip(truth.reshape(-1, *truth.shape[-2:]), image.reshape(-1, *truth.shape[-2:]), strict=True)
    return float(np.mean([_similarity(x, y, c1, c2) for x, y in slices]))


def dice(truth: ArrayLike, found: ArrayLike) -> float:
    """Compute the overlap of two masks, `2 |A B| / (|A| + |B|)`: 1 if both are empty.

    Parameters
    ----------
    truth, found
        Masks of any equal shape, bool or 0 and 1; of a label map, pass `labels == label`.

    Raises
    ------
    RequestError
        If the shapes differ, or a value is neither 0 nor 1.
    """
    a, b = _masks(truth, found)
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def hd95(truth: ArrayLike, found: ArrayLike, spacing: Sequence[float] | None = None) -> float:
    """Compute the Hausdorff distance at its 95th percentile.

    The larger of the two 95th percentiles, from the surface of each mask to the nearest point of the other's surface
    (as in MONAI and Metrics Reloaded, Maier-Hein et al. 2024). The surface consists of the pixels of the mask with a
    neighbour outside of it along an axis; outside of the image counts as such. 0 if both masks are empty, infinite if
    one is.

    Parameters
    ----------
    truth, found
        Masks of two or three equal axes, bool or 0 and 1.
    spacing
        Size of a pixel along each axis, such as `attrs["spacing_mm"]` of a volume. Default: 1, a distance in pixels.

    Raises
    ------
    RequestError
        As for `dice`, or if spacing and axes do not agree.
    """
    a, b = _masks(truth, found)
    sizes = np.ones(a.ndim) if spacing is None else np.asarray(spacing, np.float64)
    if a.ndim not in (2, 3) or sizes.shape != (a.ndim,) or not (np.isfinite(sizes).all() and (sizes > 0).all()):
        raise RequestError(
            f"masks {a.shape}, spacing {spacing}: expected masks of two or three axes, and one size > 0 for each axis"
        )
    if not (a.any() and b.any()):
        return math.inf if a.any() or b.any() else 0.0
    surfaces = _surface(a), _surface(b)
    # nothing outside of the box around both surfaces has an effect
    points = np.argwhere(surfaces[0] | surfaces[1])
    box = tuple(slice(low, high + 1) for low, high in zip(points.min(0), points.max(0), strict=True))
    order = np.argsort([side.stop - side.start for side in box])  # the slowest pass is along the first axis
    first, second = (surface[box].transpose(order) for surface in surfaces)
    return max(
        float(np.percentile(_nearest(one, other, sizes[order]), 95))
        for one, other in ((first, second), (second, first))
    )


def _nearest(start: NDArray[np.bool_], end: NDArray[np.bool_], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance from each point of `start` to the nearest point of `end`, exactly, axis by axis."""
    # along the last axis: the distance to the last point before, or to the first one after
    place = np.arange(end.shape[-1], dtype=np.float64)
    before = np.maximum.accumulate(np.where(end, place, -np.inf), axis=-1)
    after = np.flip(np.minimum.accumulate(np.flip(np.where(end, place, np.inf), -1), axis=-1), -1)
    squared = np.square(np.minimum(place - before, after - place) * spacing[-1])
    if end.ndim == 3:
        squared = _lowest(squared, np.arange(len(squared))[:, None, None], spacing[0])
    # along the axis before the last, at the points alone
    points = np.nonzero(start)
    columns = np.moveaxis(squared, -2, 0)[(slice(None), *points[:-2], points[-1])]
    return np.sqrt(_lowest(columns, points[-2], spacing[-2]))


def _lowest(squared: NDArray[np.float64], place: NDArray[Any], spacing: float) -> NDArray[np.float64]:
    """Return the minimum, over the rows along the first axis, of their values and the squared distance to a place."""
    lowest = np.asarray(np.inf)
    for row, values in enumerate(squared):
        if np.isfinite(values).any():
            lowest = np.minimum(lowest, values + np.square((place - row) * spacing))
    return lowest


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inside = mask.copy()
    padded = np.pad(mask, 1)
    for axis, shift in product(range(mask.ndim), (0, 2)):
        window = [slice(1, -1)] * mask.ndim
        window[axis] = slice(shift, shift + mask.shape[axis])
        inside &= padded[tuple(window)]
    return mask & ~inside


def _similarity(x: NDArray[np.float64], y: NDArray[np.float64], c1: float, c2: float) -> float:
    mean_x, mean_y = _mean(x), _mean(y)
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1)
    var_x, var_y = unbiased * (_mean(x * x) - mean_x**2), unbiased * (_mean(y * y) - mean_y**2)
    covariance = unbiased * (_mean(x * y) - mean_x * mean_y)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float((luminance * (2 * covariance + c2) / (var_x + var_y + c2)).mean())


def _mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of every window inside the image."""
    height, width = (size - _WINDOW + 1 for size in image.shape)
    rows = sum(image[shift : shift + height] for shift in range(_WINDOW))
    total = sum(np.asarray(rows)[:, shift : shift + width] for shift in range(_WINDOW))
    return np.asarray(total) / _WINDOW**2


def _peak(truth: NDArray[np.float64], maxval: float | None) -> float:
    peak = float(truth.max()) if maxval is None else float(maxval)
    if not 0 < peak < math.inf:
        raise RequestError(f"maximum {peak}: expected a number > 0")
    return peak


def _pair(truth: ArrayLike, found: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    a, b = np.asarray(truth), np.asarray(found)
    if a.shape != b.shape or not a.size:
        raise RequestError(f"truth {a.shape}, found {b.shape}: expected equal shapes, with at least one pixel")
    return a, b


def _images(target: ArrayLike, found: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pair = _pair(target, found)
    for name, image in zip(("target", "found"), pair, strict=True):
        if image.dtype.kind not in "fiub":
            raise RequestError(f"{name}: has values of type {image.dtype}; expected a real image; take its magnitude")
        if not np.isfinite(image).all():
            raise RequestError(f"{name}: has NaN or infinity at {_first(~np.isfinite(image))}; expected finite values")
    return pair[0].astype(np.float64), pair[1].astype(np.float64)


def _masks(truth: ArrayLike, found: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    pair = _pair(truth, found)
    for name, mask in zip(("truth", "found"), pair, strict=True):
        strange = (mask != 0) & (mask != 1)
        if strange.any():
            raise RequestError(
                f"{name}: has {mask[strange][0]} at {_first(strange)}; expected a mask of 0 and 1; of a label map, "
                "compare one label: labels == label"
            )
    return pair[0] == 1, pair[1] == 1


def _first(where: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(place) for place in np.argwhere(where)[0])
