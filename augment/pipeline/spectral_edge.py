"""The matrix that was acquired, by the edge of k-space: exact where phase was measured, an estimate of magnitudes.

An image that was filled with zeros has no energy beyond its acquired k-space. A magnitude hides this: where its phase
varies or its signal is within the noise, the modulus creates new frequencies. In bright tissue it hardly does, since
the modulus of signal with little noise is the signal with the real part of the noise. So the step at the edge is looked
for in three spectra together: of bright tissue with soft rims, of the image divided by its local mean, which weights
noise everywhere equally, and of the image itself. The square of a magnitude has twice the bandwidth of the image, so
its spectrum is empty at the end after filling by two or more. A linear classifier of seven figures tells zero-filled
images from those after a low-pass filter; `tests/benchmarks/pixel_audit.py --fit` fits and cross-validates it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

Sizes = tuple[int, int]
History = Literal["plain", "zero_filled", "smoothed"]

HISTORIES: tuple[History, ...] = ("plain", "zero_filled", "smoothed")
"""Classes of the classifier, in the order of its columns."""

EDGE_DB = 20.0
"""Least step at the edge of complex k-space: rounded values of zero-filled images have 35, raw ones at most 5."""
GAP_DB = 10.5
"""Least fall of the squared magnitude's spectrum at its end: it is empty there after filling by two or more."""
_OTHER_GAP_DB = 7.0
"""The same for the second axis, where one has it."""

LOCATED_SCORE = 16.0
"""Least score at which the step is located: 4 % of the estimates are then too small by more than 4 % of the matrix."""

WEIGHTS = np.array([
    [0.82, 2.44, -3.26],
    [-1.68, -0.03, 1.71],
    [9.11, 2.40, -11.51],
    [-3.05, -1.77, 4.83],
    [-7.52, 5.74, 1.78],
    [-3.97, 0.87, 3.10],
    [-4.22, -3.08, 7.30],
    [17.02, -2.05, -14.21],
])  # fmt: skip
"""Weights of the seven figures and of 1 for each class, fitted to real images of known history."""

_PLACES = np.linspace(0.42, 0.95, 54)
_DB = 10 / math.log(10)


@dataclass(frozen=True)
class EdgeFigures:
    """What the spectra of a magnitude show.

    Attributes
    ----------
    fraction
        The most likely edge as a fraction of the stored matrix along both axes.
    score
        t-values of the steps there, summed over spectra and axes.
    gap_db
        Fall of the squared magnitude's spectrum at its end, along height and width.
    roll_off_db
        Fall of that spectrum from a third of it to its end, along height and width.
    falls_db
        Fall of the three spectra from 0.5 to 0.7 to their last tenth, sum over both axes.
    """

    fraction: float
    score: float
    gap_db: tuple[float, float]
    roll_off_db: tuple[float, float]
    falls_db: tuple[float, float, float]

    def vector(self) -> NDArray[np.float64]:
        """Return the figures of the classifier and 1, `(8)`, about as large as 1."""
        figures = (self.score / 10, min(self.gap_db) / 10, max(self.gap_db) / 10, sum(self.roll_off_db) / 20)
        return np.array([*figures, *(fall / 10 for fall in self.falls_db), 1.0])

    def history(self) -> History:
        """Return the most likely history."""
        return HISTORIES[int((self.vector() @ WEIGHTS).argmax())]

    def acquired(self, stored: Sizes) -> Sizes | None:
        """Estimate the acquired matrix of a zero-filled image; None if the edge is not sharp enough to be located.

        The empty end of the square proves half the matrix or less; else the place of the step is taken.
        """
        has_gap = max(self.gap_db) > GAP_DB
        if not has_gap and self.score < LOCATED_SCORE:
            return None
        fraction = self.fraction if self.score >= LOCATED_SCORE else 1.0
        least_db = _OTHER_GAP_DB if has_gap else GAP_DB
        fractions = [min(fraction, 0.5) if gap > least_db else fraction for gap in self.gap_db]
        height, width = (round(size * fraction) for size, fraction in zip(stored, fractions, strict=True))
        return height, width


def measure_edge(magnitude: NDArray[np.float32], bright: float) -> EdgeFigures:
    """Measure the spectra of a magnitude `(slice height width)` whose bright level is above 0."""
    image = torch.from_numpy(np.ascontiguousarray(magnitude, np.float32))[:, None]
    tissue = _soft(_least(image) > 0.12 * bright) * image
    rows = avg_pool2d(image, (7, 1), 1, (3, 0), count_include_pad=False)
    mean = avg_pool2d(rows, (1, 7), 1, (0, 3), count_include_pad=False)
    relative = torch.where(mean > 0, image / mean.clamp_min(1e-9) - 1, 0.0)
    spectra = [_spectra(tissue, 0.45), _spectra(relative, 0.45), _spectra(image, 0.2)]
    curves = [
        weight * np.clip(sum(_step_scores(one) for one in axes), -10, 30)
        for weight, axes in zip((1.0, 1.0, 0.7), spectra, strict=True)
    ]
    total = np.sum(curves, axis=0)
    square = _spectra((image / image.max()).square(), 0.2)
    first, second, third = (sum(_fall(one, 0.5, 0.7, 0.9, 1.0) for one in axes) for axes in spectra)
    return EdgeFigures(
        float(_PLACES[total.argmax()]),
        float(total.max()),
        (_gap(square[0]), _gap(square[1])),
        (_fall(square[0], 0.3, 0.4, 0.9, 1.0), _fall(square[1], 0.3, 0.4, 0.9, 1.0)),
        (first, second, third),
    )


def acquired_of_complex(image: NDArray[np.complex64]) -> Sizes:
    """Return the acquired matrix of complex images `(slice height width)`; the stored one if no edge is found.

    An edge counts as far out as either side of k-space reaches, so that partial Fourier is no smaller matrix.
    """
    power = np.square(np.abs(np.fft.fftshift(np.fft.fft2(image, axes=(1, 2)), axes=(1, 2)))).mean(axis=0)
    found = []
    for lines in (power, power.T):
        num, others = lines.shape
        middle = lines[:, others // 2 - max(others // 8, 1) : others // 2 + max(others // 8, 1) + 1]
        found.append(_edge_of_lines(np.log(np.median(middle, axis=1) + 1e-30)) or num)
    return found[0], found[1]


def _edge_of_lines(logs: NDArray[np.float64]) -> int | None:
    """Return the number of central lines before the largest step down of their logarithmic power; None without one."""
    centre = len(logs) // 2
    right = np.full(centre, -np.inf)
    right[: len(logs) - centre - 1] = logs[centre + 1 :]
    sides = np.maximum(logs[centre - 1 :: -1], right)
    best, level = -math.inf, 0.0
    for edge in range(int(0.2 * centre), centre - 1):
        inner, outer = float(np.median(sides[max(0, edge - 5) : edge + 1])), float(np.quantile(sides[edge + 1 :], 0.9))
        if inner - outer > best:
            best, level = inner - outer, (inner + outer) / 2
    if best * _DB < EDGE_DB:
        return None
    last = int(np.flatnonzero(sides > level)[-1])
    return 2 * (last + 1) + (1 if right[last] > level else 0)


def _least(image: Tensor) -> Tensor:
    """Return the least of 5 x 5 pixels around every pixel."""
    for axis in (-2, -1):
        margin = (0, 0, 2, 2) if axis == -2 else (2, 2)
        wide = pad(image, margin, value=math.inf)
        size = image.shape[axis]
        pairs = torch.minimum(wide.narrow(axis, 0, size + 3), wide.narrow(axis, 1, size + 3))
        fours = torch.minimum(pairs.narrow(axis, 0, size + 1), pairs.narrow(axis, 2, size + 1))
        image = torch.minimum(fours.narrow(axis, 0, size), wide.narrow(axis, 4, size))
    return image


def _soft(mask: Tensor) -> Tensor:
    """Shrink a mask by two pixels and give it rims of a Gaussian of two pixels, which have no high frequencies."""
    inner = _least(mask.to(torch.float32))
    height, width = mask.shape[-2:]
    places = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    rows, columns = (torch.exp(-2 * (2 * math.pi * one).square()) for one in places)
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(inner) * rows[:, None] * columns, s=(height, width))
    return blurred


def _spectra(images: Tensor, share: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the logarithm of the power at the frequencies 1, 2, ... along both axes, up to a share of the other's."""
    height, width = images.shape[-2:]
    half = torch.view_as_real(torch.fft.rfft2(images[:, 0])).square().sum(dim=-1).mean(dim=0, dtype=torch.float64)
    power = half.numpy()
    power = power + np.roll(power[::-1], 1, axis=0) + 1e-20  # of a frequency and of its mirror image
    rows, columns = (
        slice(max(1, size // 32), min(max(int(size * share), 3), size // 2 + 1)) for size in (height, width)
    )
    along_height = np.log(power[1 : (height - 1) // 2 + 1, columns]).mean(axis=1)
    along_width = np.log(power[rows, 1 : (width - 1) // 2 + 1]).mean(axis=0)
    return np.asarray(along_height), np.asarray(along_width)


def _step_scores(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the t-values of a step down at `_PLACES`, in a fit of a line and a step; smaller for steps below 2 dB."""
    num = len(logs)
    designs = _designs(num)
    scores = np.empty(len(designs))
    for number, (places, design, inverse) in enumerate(designs):
        fit = inverse @ (design.T @ logs[places])
        rest = logs[places] - design @ fit
        deviation = math.sqrt(float(rest @ rest) / (len(rest) - 3) * inverse[2, 2])
        scores[number] = -fit[2] / max(deviation, 1e-9) * min(1.0, abs(fit[2]) / 0.5)
    # two axes may have edges that differ by rounding
    padded = np.pad(scores, 1, mode="edge")
    near = np.maximum(np.maximum(padded[:-2], padded[2:]), scores)
    return np.asarray(np.interp(_PLACES, (int(0.42 * num) + np.arange(len(designs)) + 0.5) / num, near))


@lru_cache(maxsize=16)
def _designs(num: int) -> list[tuple[slice, NDArray[np.float64], NDArray[np.float64]]]:
    """Return the places, the design and its inverse normal matrix of the fit of a line and a step at every edge."""
    reach = max(num // 7, 6)
    found = []
    for edge in range(int(0.42 * num), num - 3):
        first, last = max(0, edge - reach), min(num, edge + reach)
        places = np.arange(first, last)
        step = np.clip((places + 0.5 - edge) / 4 + 0.5, 0, 1)
        design = np.stack([np.ones(len(places)), (places - edge) / reach, step], axis=1)
        found.append((slice(first, last), design, np.linalg.inv(design.T @ design)))
    return found


def _gap(logs: NDArray[np.float64]) -> float:
    num = len(logs)
    return (float(np.median(logs[int(0.8 * num) : int(0.9 * num)])) - float(logs[-2:].mean())) * _DB


def _fall(logs: NDArray[np.float64], *places: float) -> float:
    a, b, c, d = (round(place * len(logs)) for place in places)
    return float(logs[a:b].mean() - logs[c:d].mean()) * _DB
