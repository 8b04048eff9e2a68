"""Pictures of complex slices as PNG data URIs: magnitude, phase on a colour circle, log k-space."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rephase.pipeline.magnitude import SUPPORT

NUM_HUES = 120
"""Levels of the colour circle; a PNG palette has them twice, plain and faded."""
NOTHING = 2 * NUM_HUES
"""Palette index of pixels with zero magnitude up to rounding, which have no phase."""
FADE = 0.82
"""Fraction of grey in the colour of pixels without signal."""
DECADES = 5
"""Dynamic range of k-space pictures, decades."""
MAX_SIDE = 512
"""Larger matrices are subsampled: averages of phase would be wrong, and a page must remain small."""

_T = TypeVar("_T", bound=np.generic)
_GREY = 0.5
_PERCENTILE = 99.5
_NOISE_OF_MAXIMUM = 1e-3
_ROUNDING_OF_MAXIMUM = 1e-5


@dataclass(frozen=True)
class Picture:
    """One image in a page.

    Attributes
    ----------
    uri
        `data:image/png;base64,...`
    step
        Every `step`-th pixel of both axes is shown.
    caption
        Description of the grey scale or colours.
    """

    uri: str
    step: int
    caption: str


def phase_palette() -> NDArray[np.uint8]:
    """Return the colours of the phase, uint8 `(2 * NUM_HUES + 1, 3)`: plain, faded (no signal), `NOTHING`.

    Entry k is the angle `2 pi k / NUM_HUES - pi`. The chroma is constant in OKLab, so that equal phase steps look
    equal; the lightness is largest at 0 and smallest at +-pi, so that it can be read without colour vision.
    """
    angle = np.arange(NUM_HUES) * (2 * np.pi / NUM_HUES) - np.pi
    lightness = 0.68 + 0.12 * np.cos(angle)
    chroma = 0.115
    hue = angle + math.radians(75.0)
    plain = _oklab_to_srgb(lightness, chroma * np.cos(hue), chroma * np.sin(hue))
    faded = plain * (1 - FADE) + _GREY * FADE
    nothing = np.full((1, 3), _GREY)
    palette: NDArray[np.uint8] = np.rint(255 * np.concatenate([plain, faded, nothing])).astype(np.uint8)
    return palette


def phase_index(image: NDArray[np.complex64]) -> NDArray[np.uint8]:
    """Return the index into `phase_palette` (plain colours) of each pixel's angle; pi and -pi are equal."""
    steps = np.rint((np.angle(image) + np.pi) * (NUM_HUES / (2 * np.pi)))
    index: NDArray[np.uint8] = (steps % NUM_HUES).astype(np.uint8)
    return index


def signal_mask(magnitude: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the object mask of a slice, bool `(height width)`.

    The threshold is relative to the 99th percentile; at least 0.1 % of the maximum, for slices that are almost empty.
    """
    limit = max(SUPPORT * float(np.percentile(magnitude, 99.0)), _NOISE_OF_MAXIMUM * float(magnitude.max()))
    mask: NDArray[np.bool_] = magnitude > limit
    return mask


def picture_magnitude(magnitude: NDArray[np.float32]) -> Picture:
    """Render a magnitude slice `(height width)`, white at the 99.5th percentile of its object."""
    inside = magnitude[signal_mask(magnitude)]
    white = float(np.percentile(inside, _PERCENTILE)) if inside.size else 0.0
    shown, step = _thinned(magnitude)
    grey = np.clip(shown / white, 0.0, 1.0) if white > 0 else np.zeros(shown.shape)
    return Picture(_png(np.rint(255 * grey).astype(np.uint8)), step, f"white: {white:.3g}")


def picture_phase(image: NDArray[np.complex64], signal: NDArray[np.bool_]) -> Picture:
    """Render the phase of a complex slice `(height width)`, faded without signal, grey where it is zero."""
    magnitude = np.abs(image)
    index = phase_index(image) + NUM_HUES * (~signal).astype(np.uint8)
    index[magnitude <= _ROUNDING_OF_MAXIMUM * magnitude.max()] = NOTHING
    shown, step = _thinned(index)
    return Picture(_png(shown, phase_palette()), step, "faded: no signal")


def picture_kspace(magnitude: NDArray[np.float32]) -> Picture:
    """Render log `|kspace|` `(height width)`, white at its maximum, black `DECADES` powers of ten below."""
    shown, step = _thinned(magnitude)
    peak = float(magnitude.max())
    grey = np.zeros(shown.shape)
    if peak > 0:
        floor = 10.0**-DECADES
        grey = 1 + np.log10(np.maximum(shown.astype(np.float64) / peak, floor)) / DECADES
    return Picture(_png(np.rint(255 * grey).astype(np.uint8)), step, f"log, {DECADES} decades")


def colour_wheel(side: int = 120) -> Picture:
    """Render the legend of the phase colours: a ring, angle 0 on the right, increasing counter-clockwise."""
    position = np.arange(side) - (side - 1) / 2
    points = (position[None, :] - 1j * position[:, None]).astype(np.complex64)
    radius = np.abs(points) / (side / 2)
    index = np.where((radius <= 1) & (radius >= 0.55), phase_index(points), NOTHING).astype(np.uint8)
    return Picture(_png(index, phase_palette(), transparent=NOTHING), 1, "colours of the phase")


def phase_counts(
    image: NDArray[np.complex64], signal: NDArray[np.bool_], num_bins: int = NUM_HUES // 2
) -> NDArray[np.int64]:
    """Count the object's pixels by phase, in equal bins from -pi to pi."""
    counts, _ = np.histogram(np.angle(image[signal]), bins=num_bins, range=(-np.pi, np.pi))
    return counts.astype(np.int64)


def _oklab_to_srgb(
    lightness: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Convert colours as in Ottosson (2020), https://bottosson.github.io/posts/oklab/: `(n 3)`, from 0 to 1."""
    cone = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    matrix = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(matrix @ cone**3, 0.0, 1.0)
    encoded: NDArray[np.float64] = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return encoded.T


def _thinned(values: NDArray[_T]) -> tuple[NDArray[_T], int]:
    step = -(-max(values.shape) // MAX_SIDE)
    return values[::step, ::step], step


def _png(values: NDArray[np.uint8], palette: NDArray[np.uint8] | None = None, transparent: int | None = None) -> str:
    picture = Image.fromarray(np.ascontiguousarray(values))
    if palette is not None:
        picture.putpalette(palette.tobytes())
    file = io.BytesIO()
    options = {} if transparent is None else {"transparency": transparent}
    picture.save(file, format="PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
