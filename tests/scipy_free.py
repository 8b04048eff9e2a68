"""Special functions for closed forms, without SciPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def bessel_j1(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Bessel function J1 by its integral; the periodic trapezoidal rule converges exponentially."""
    angle = (np.arange(512) + 0.5) * np.pi / 512
    return np.mean([np.cos(one - x * np.sin(one)) for one in angle], axis=0)
