"""Convert a volume as read to the stored magnitude: check it, and scale it losslessly by a power of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.readers.volume import CLIP_LIMIT

NegativeRule = Literal["refuse", "clip"]

_PERCENTILE = 99.5
_LARGEST_EXPONENT = 127  # float32: values are below 2 ** 128
_FINEST_BIT = -149  # float32: the last bit of a subnormal
_MANTISSA_BITS = 23


@dataclass(frozen=True)
class PreparedMagnitude:
    """A magnitude in stored units.

    Attributes
    ----------
    stored
        float32 `(slice height width)`, finite, >= 0, zeros are +0.0. `stored * scale` is the input bit for bit, apart
        from clipped values and the sign of zeros.
    scale
        A power of two.
    clipped
        `{"count", "min"}` of the negative values that were set to zero; None without any.
    """

    stored: NDArray[np.float32]
    scale: float
    clipped: dict[str, float] | None = None


def prepare_magnitude(magnitude: NDArray[np.float32], negative: NegativeRule = "refuse") -> PreparedMagnitude:
    """Check a magnitude volume and convert it to stored units.

    Parameters
    ----------
    magnitude
        float32 `(slice height width)`, any scale; not changed.
    negative
        Treatment of negative values: `"refuse"`, or `"clip"` them to zero if none is below -5 % of the maximum.

    Returns
    -------
    prepared
        The scale is the power of two nearest (in its logarithm) the 99.5th percentile of all voxels; if that
        percentile is zero, nearest the maximum; 1 for a volume of zeros. If float32 could not represent every voxel
        exactly at that scale (subnormal or extreme values), the nearest power of two at which it can.

    Raises
    ------
    VolumeError
        `not_finite`, `negative`, or `unsupported` for an array that is not a volume or cannot be scaled exactly.
    """
    magnitude = np.asarray(magnitude, dtype=np.float32)
    if magnitude.ndim != 3 or magnitude.size == 0:
        raise VolumeError(
            "unsupported",
            f"the volume has shape {magnitude.shape}; expected (slice, height, width), none of them zero; name one "
            "volume of the file in the manifest",
        )
    _check_finite(magnitude)
    clipped = _check_negative(magnitude, negative)
    if clipped is not None:
        magnitude = np.maximum(magnitude, np.float32(0))
    exponent = _scale_exponent(magnitude)
    # Multiplying by a power of two is exact in the range that _scale_exponent allows; + 0.0 changes -0.0 to +0.0.
    stored = np.ldexp(magnitude, -exponent)
    stored += np.float32(0)
    return PreparedMagnitude(stored=stored, scale=float(2.0**exponent), clipped=clipped)


def _check_finite(magnitude: NDArray[np.float32]) -> None:
    finite = np.isfinite(magnitude)
    if finite.all():
        return
    num_bad = finite.size - int(np.count_nonzero(finite))
    slice_index, row, column = (int(i) for i in np.unravel_index(int(np.argmin(finite)), finite.shape))
    raise VolumeError(
        "not_finite",
        f"{num_bad} of {finite.size} voxels are not finite, the first ({magnitude[slice_index, row, column]}) at slice "
        f"{slice_index}, row {row}, column {column}; expected finite values; fix the source or remove the row",
    )


def _check_negative(magnitude: NDArray[np.float32], rule: NegativeRule) -> dict[str, float] | None:
    least = float(magnitude.min())
    if least >= 0:
        return None
    count, most = int(np.count_nonzero(magnitude < 0)), float(magnitude.max())
    found = f"{count} of {magnitude.size} voxels are negative, the least is {least:g} with a maximum of {most:g}"
    small = -least <= CLIP_LIMIT * most
    if not small:
        raise VolumeError(
            "negative",
            f"{found}; expected a magnitude, at most {CLIP_LIMIT:.0%} of the maximum below zero; name its magnitude",
        )
    if rule != "clip":
        raise VolumeError("negative", f"{found}; expected none below zero; allow them with --negative clip")
    return {"count": count, "min": least}


def _scale_exponent(magnitude: NDArray[np.float32]) -> int:
    most = float(magnitude.max())
    if most == 0:
        return 0
    percentile = float(np.percentile(magnitude, _PERCENTILE))
    wanted = round(np.log2(percentile if percentile > 0 else most))
    least = float(np.min(magnitude, where=magnitude > 0, initial=most))
    lowest = int(np.frexp(most)[1]) - 1 - _LARGEST_EXPONENT
    last_bit = max(int(np.frexp(least)[1]) - 1 - _MANTISSA_BITS, _FINEST_BIT)
    highest = last_bit - _FINEST_BIT
    if lowest > highest:
        raise VolumeError(
            "unsupported",
            f"voxels range from {least:g} to {most:g}, more than float32 can hold at one scale; expected a magnitude "
            "image; look for damaged voxels",
        )
    return int(min(max(wanted, lowest), highest))


SUPPORT = 0.05
"""Threshold of the object, as a fraction of the volume's 99th percentile."""


def object_support(magnitude: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the object mask of a volume, bool `(slice height width)`."""
    support: NDArray[np.bool_] = magnitude > SUPPORT * np.percentile(magnitude, 99.0)
    return support
