"""Audit of values: what a magnitude tells of its own history, without any header.

k-space of images that were interpolated, filtered, compressed or masked is not that of a scanner, and what is trained
on it looks better than it is (Shimron et al., PNAS 2022). Thresholds are those of `tests/benchmarks/pixel_audit.py`,
which prints how much is found in real images whose history is known. A missing flag is no evidence of raw data: only
of a factor of two and more does a magnitude keep a proof, since its square has twice the bandwidth of the image. A
strong low-pass filter empties the end of k-space as well, and may be reported as zero-filling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.physics.phase_noise import background_sigma
from rephase.pipeline.spectral_edge import EdgeFigures, acquired_of_complex, measure_edge

_SLICES, _FEWEST_SLICES = 8, 3
_PIXELS = 300_000
"""Pixels that are enough: fewer slices of a large matrix are measured, so that a build takes little longer."""
_LEAST_SIZE = 40
"""Pixels along an axis below which spectra are too short to judge."""

BLOCK_CONTRAST = 0.35
"""Least fall of the logarithm of high frequencies in aligned blocks of 8 pixels, along each axis."""
_BLOCK_DEVIATIONS = 3.0
_FEW_LEVELS = 256
_BACKGROUND = 0.02
_HARD_RIM = 0.2
_SATURATED = 5e-4
_LOW_SNR = 20.0


@dataclass(frozen=True)
class PixelFigures:
    """What was measured in a volume; None where it cannot be.

    Attributes
    ----------
    stored, acquired
        Matrix [height, width], and the estimate of the acquired one; None if no edge was located.
    is_filled
        Whether the image was zero-filled.
    edge
        What the spectra show.
    block_contrast, block_deviations
        How much smoother blocks of 8 pixels are on one grid than on the seven others, along height and width, as a
        difference of logarithms and in standard deviations.
    levels
        Different values, at most 4096 are counted.
    saturated
        Share of the object's voxels at the largest value, if far more than at those next to it, else 0.
    background, rim
        Share of voxels in areas of one constant lowest value; median of the voxels next to them relative to the bright
        level.
    sigma, snr
        Noise of real and imaginary part from air, in units of the magnitude, and the bright level divided by it.
    """

    stored: tuple[int, int]
    acquired: tuple[int, int] | None
    is_filled: bool
    edge: EdgeFigures | None
    block_contrast: tuple[float, float]
    block_deviations: tuple[float, float]
    levels: int
    saturated: float
    background: float
    rim: float | None
    sigma: float | None
    snr: float | None

    def flags(self) -> dict[str, Any]:
        """Return the findings as JSON values; a key exists only if something was found."""
        found: dict[str, Any] = {}
        if self.is_filled:
            located = {} if self.acquired is None else {"acquired": list(self.acquired)}
            found["zero_filled"] = {"stored": list(self.stored), **located}
        elif self.edge is not None and self.edge.history() == "smoothed":
            found["smoothed"] = {"roll_off_db": _rounded(self.edge.roll_off_db)}
        if min(self.block_contrast) > BLOCK_CONTRAST and min(self.block_deviations) > _BLOCK_DEVIATIONS:
            found["block_edges"] = {"contrast": _rounded(self.block_contrast)}
        if self.levels <= _FEW_LEVELS:
            found["quantised"] = {"levels": self.levels}
        if self.saturated > _SATURATED:
            found["saturated"] = {"share": round(self.saturated, 5)}
        if self.background > _BACKGROUND and self.rim is not None:
            name = "hard_edges" if self.rim > _HARD_RIM else "masked_background"
            found[name] = {"share": round(self.background, 3), "rim": round(self.rim, 3)}
        if self.snr is not None and self.snr < _LOW_SNR:
            found["noise_floor"] = {"sigma": self.sigma, "snr": round(self.snr, 1)}
        return found


PIXEL_FLAGS = (
    "zero_filled", "smoothed", "block_edges", "quantised", "saturated", "masked_background", "hard_edges",
    "noise_floor",
)  # fmt: skip


def measure_pixels(magnitude: NDArray[np.float32], phase: NDArray[np.float32] | None = None) -> PixelFigures:
    """Measure a volume, in 3 to 8 slices of its middle.

    Parameters
    ----------
    magnitude
        float32 `(slice height width)`, finite.
    phase
        Measured phase in radians of the same shape; the acquired matrix is then exact. None without.
    """
    part = _middle(magnitude)
    stored = (int(part.shape[1]), int(part.shape[2]))
    bright = float(np.percentile(part, 99.0))
    acquired, is_filled, edge = None, False, None
    if min(stored) >= _LEAST_SIZE and bright > 0:
        edge = measure_edge(part, bright)
        is_filled = edge.history() == "zero_filled"
        acquired = edge.acquired(stored) if is_filled else None
        if phase is not None:
            measured = acquired_of_complex(part * np.exp(1j * _middle(phase)))
            if measured != stored:
                acquired, is_filled = measured, True
    contrast, deviations = zip(*(_blocks(np.moveaxis(part, axis, -1)) for axis in (1, 2)), strict=True)
    background, rim = _background(part, bright)
    sigma = background_sigma(torch.from_numpy(part)).nanmedian().item() if bright > 0 else math.nan
    known = math.isfinite(sigma) and sigma > 0
    return PixelFigures(
        stored, acquired, is_filled, edge, _pair(contrast), _pair(deviations), _levels(part),
        _saturated(part, bright), background, rim, sigma if known else None, bright / sigma if known else None,
    )  # fmt: skip


def acquired_share(magnitude: NDArray[np.float32]) -> tuple[float, float] | None:
    """Estimate the share of k-space along height and width that was acquired, of `(slice height width)`; None: all."""
    part = _middle(magnitude)
    if min(part.shape[1:]) < _LEAST_SIZE or not np.percentile(part, 99.0) > 0:
        return None
    edge = measure_edge(part, float(np.percentile(part, 99.0)))
    acquired = edge.acquired((part.shape[1], part.shape[2])) if edge.history() == "zero_filled" else None
    return None if acquired is None else (acquired[0] / part.shape[1], acquired[1] / part.shape[2])


def audit_pixels(magnitude: NDArray[np.float32]) -> dict[str, Any]:
    """Return the flags of a volume, `(slice height width)`, as JSON values."""
    return measure_pixels(magnitude).flags()


def _middle(magnitude: NDArray[np.float32]) -> NDArray[np.float32]:
    count = len(magnitude)
    wanted = min(max(_PIXELS // magnitude[0].size, _FEWEST_SLICES), _SLICES)
    if count <= wanted:
        return np.ascontiguousarray(magnitude)
    numbers = np.linspace(0.2 * (count - 1), 0.8 * (count - 1), wanted).round().astype(int)
    return np.ascontiguousarray(magnitude[np.unique(numbers)])


def _blocks(part: NDArray[np.float32]) -> tuple[float, float]:
    """Compare high frequencies of eight neighbours along the last axis among the eight grids: contrast, deviations."""
    if part.shape[-1] < 32:
        return 0.0, 0.0
    number = np.arange(8)
    waves = np.cos((2 * number + 1) * number[5:, None] * math.pi / 16)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    windows = np.lib.stride_tricks.sliding_window_view(part, 8, axis=-1)
    high = np.abs(windows[:, ::2] @ waves.T.astype(np.float32)).mean(axis=-1)
    floor = 1e-3 * float(high.mean()) + 1e-30
    grids = np.array([float(np.log(high[..., first::8] + floor).mean()) for first in range(8)])
    others = np.delete(grids, grids.argmin())
    contrast = float(np.median(others) - grids.min())
    return contrast, contrast / (float(others.std()) + 1e-9)


def _levels(part: NDArray[np.float32]) -> int:
    return min(len(np.unique(part.ravel()[:: max(part.size // 200_000, 1)])), 4096)


def _saturated(part: NDArray[np.float32], bright: float) -> float:
    most = float(part.max())
    at_most = int(np.count_nonzero(part == most))
    below = int(np.count_nonzero((part >= 0.98 * most) & (part < most)))
    objects = int(np.count_nonzero(part > 0.1 * bright))
    return at_most / objects if bright > 0 and at_most >= 8 and at_most > below else 0.0


def _background(part: NDArray[np.float32], bright: float) -> tuple[float, float | None]:
    """Return the share of areas at the lowest value, and the relative median next to them."""
    least = float(part.min())
    low = np.pad(part == least, ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = part.shape[1:]
    around = [low[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    area = np.logical_and.reduce(around)
    share = float(area.mean())
    # an area without its own rim of lowest values is widened by it again
    wide = np.pad(area, ((0, 0), (1, 1), (1, 1)))
    grown = np.logical_or.reduce([wide[:, i : i + height, j : j + width] for i in range(3) for j in range(3)])
    wider = np.pad(grown, ((0, 0), (1, 1), (1, 1)))
    beside = (wider[:, :-2, 1:-1] | wider[:, 2:, 1:-1] | wider[:, 1:-1, :-2] | wider[:, 1:-1, 2:]) & ~grown
    if not beside.any() or bright <= least:
        return share, None
    return share, (float(np.median(part[beside])) - least) / (bright - least)


def _pair(values: Any) -> tuple[float, float]:  # noqa: ANN401 - any sequence of two numbers
    first, second = values
    return float(first), float(second)


def _rounded(values: tuple[float, float]) -> list[float]:
    return [round(value, 2) for value in values]
