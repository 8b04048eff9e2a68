"""Phase unwrapping along the best path: pixels join in the order of how sure their difference to a neighbour is."""

from __future__ import annotations

import heapq
import math

import numpy as np
from numpy.typing import NDArray

from augment.evaluation.support import object_support


def unwrap(phase: NDArray[np.float32], magnitude: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add whole turns to a phase so that it is continuous over the object.

    From the brightest pixel, the pixel with the surest edge to those that are done is next, as in Dymerska et al., Magn
    Reson Med 2021 (ROMEO); an edge is the surer, the larger the smaller magnitude and the less the phase differs. Parts
    that do not touch start anew, each within half a turn of its wrapped phase.

    Parameters
    ----------
    phase
        Radians, `(slice height width)`.
    magnitude
        Of the same shape.

    Returns
    -------
    unwrapped
        Radians; outside of the object (`object_support`) the phase as it was.
    """
    padded, waiting = np.pad(magnitude, 1), np.pad(object_support(magnitude), 1)
    signal, todo = padded.ravel().tolist(), waiting.ravel().tolist()
    values = np.pad(phase, 1).astype(np.float64).ravel().tolist()
    _, height, width = padded.shape
    steps = (-height * width, height * width, -width, width, -1, 1)
    for seed in np.argsort(-padded, axis=None, kind="stable")[: int(waiting.sum())].tolist():
        if todo[seed]:
            _grow(seed, signal, values, todo, steps)
    result: NDArray[np.float32] = np.array(values, np.float32).reshape(padded.shape)[1:-1, 1:-1, 1:-1]
    return result


def _grow(seed: int, signal: list[float], values: list[float], todo: list[bool], steps: tuple[int, ...]) -> None:
    """Unwrap all that is connected with a pixel."""
    turn = 2.0 * math.pi
    todo[seed] = False
    edges: list[tuple[float, int, int]] = []
    place = seed
    while True:
        for step in steps:
            near = place + step
            if todo[near]:
                difference = abs(math.remainder(values[near] - values[place], turn))
                sure = min(signal[near], signal[place]) * (1.0 - difference / math.pi)
                heapq.heappush(edges, (-sure, near, place))
        while edges and not todo[edges[0][1]]:
            heapq.heappop(edges)
        if not edges:
            return
        _, near, place = heapq.heappop(edges)
        values[near] = values[place] + math.remainder(values[near] - values[place], turn)
        todo[near] = False
        place = near
