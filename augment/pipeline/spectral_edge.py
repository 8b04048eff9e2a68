"""The matrix that was acquired, by the edge of k-space: exact where phase was measured, an estimate of magnitudes.

An image that was filled with zeros has no energy beyond its acquired k-space. A magnitude hides this: where its phase
varies or its signal is within the noise, the modulus creates new frequencies. In bright tissue it hardly does, since
the modulus of signal with little noise is the signal with the real part of the noise; the step in the spectrum of that
part is looked for, and in that of the whole image. The square of a magnitude has twice the bandwidth of the image, so
its spectrum is empty at the end after filling by two or more.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Sizes = tuple[int, int]

EDGE_DB = 20.0
"""Least step at the edge of complex k-space: rounded values of zero-filled images have 35, raw ones at most 5."""
STEP_SCORE = 7.0
"""Least sum over both axes of the t-values of a step in the spectrum."""
AXIS_SCORE = 9.5
"""The same for one axis alone."""
GAP_DB = 10.5
"""Least fall of the squared magnitude's spectrum at its end: it is empty there after filling by two or more."""
_OTHER_GAP_DB = 7.0
"""The same for the second axis, where one has it."""
_PLACES = np.linspace(0.42, 0.95, 54)


def acquired_of_complex(image: NDArray[np.complex64]) -> Sizes:
    """Return the acquired matrix of complex images `(slice height width)`; the stored one if no edge is found.

    An edge must be on both sides of k-space, or on one side and nothing beyond it on the other.
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
    if best * 10 / math.log(10) < EDGE_DB:
        return None
    last = int(np.flatnonzero(sides > level)[-1])
    return 2 * (last + 1) + (1 if right[last] > level else 0)


def spectrum(part: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    """Return the logarithm of the power at the frequencies 1, 2, ... along an axis, at low ones of the other."""
    power = np.square(np.abs(np.fft.fft2(part))).mean(axis=0)
    power = power if axis == 0 else power.T
    num, others = int(power.shape[0]), int(power.shape[1])
    columns = np.arange(max(1, others // 32), max(others // 5, 3))
    logs = np.log(power[:, columns] + power[:, -columns] + 1e-20).mean(axis=1)
    half = (num - 1) // 2
    return np.asarray((logs[1 : half + 1] + logs[-1 : -half - 1 : -1]) / 2)


def step_scores(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the t-values of a step down at `_PLACES`, in a fit of a line and a step; smaller for steps below 2 dB."""
    num = len(logs)
    reach = max(num // 7, 6)
    edges = list(range(int(0.42 * num), num - 3))
    scores = np.empty(len(edges))
    for number, edge in enumerate(edges):
        places = np.arange(max(0, edge - reach), min(num, edge + reach))
        step = np.clip((places + 0.5 - edge) / 4 + 0.5, 0, 1)
        design = np.stack([np.ones(len(places)), (places - edge) / reach, step], axis=1)
        inverse = np.linalg.inv(design.T @ design)
        fit = inverse @ (design.T @ logs[places])
        rest = logs[places] - design @ fit
        deviation = math.sqrt(float(rest @ rest) / (len(places) - 3) * inverse[2, 2])
        scores[number] = -fit[2] / max(deviation, 1e-9) * min(1.0, abs(fit[2]) / 0.5)
    # two axes may have edges that differ by rounding
    padded = np.pad(scores, 1, mode="edge")
    near = np.maximum(np.maximum(padded[:-2], padded[2:]), scores)
    return np.asarray(np.interp(_PLACES, (np.array(edges) + 0.5) / num, near))


def acquired_of_magnitude(stored: Sizes, scores: list[NDArray[np.float64]], gap_db: tuple[float, float]) -> Sizes:
    """Estimate the acquired matrix: by an edge at one fraction of both axes, else by one edge per axis."""
    both = scores[0] + scores[1]
    if both.max() > STEP_SCORE and min(one[both.argmax()] for one in scores) > 0.25 * STEP_SCORE:
        fractions = [float(_PLACES[both.argmax()])] * 2
    else:
        fractions = [float(_PLACES[one.argmax()]) if one.max() > AXIS_SCORE else 1.0 for one in scores]
    # an empty end of the squared magnitude's spectrum proves half the matrix or less
    least_db = _OTHER_GAP_DB if max(gap_db) > GAP_DB else GAP_DB
    fractions = [
        min(fraction, 0.5) if gap > least_db else fraction for fraction, gap in zip(fractions, gap_db, strict=True)
    ]
    height, width = (round(size * fraction) for size, fraction in zip(stored, fractions, strict=True))
    return height, width


def gap(logs: NDArray[np.float64]) -> float:
    """Return the fall of a spectrum at its end in dB."""
    num = len(logs)
    return (float(np.median(logs[int(0.8 * num) : int(0.9 * num)])) - float(logs[-2:].mean())) * 10 / math.log(10)


def fall(logs: NDArray[np.float64], *places: float) -> float:
    """Return the fall of a spectrum from one range of places to another in dB, as fractions of its length."""
    a, b, c, d = (round(place * len(logs)) for place in places)
    return float(logs[a:b].mean() - logs[c:d].mean()) * 10 / math.log(10)
