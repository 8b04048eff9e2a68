"""What counts as the object: every statistic of a phase is taken there and nowhere else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SUPPORT = 0.05
"""The object: magnitude above this part of the volume's 99th percentile."""


def object_support(magnitude: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The pixels of the object in a volume `(slice height width)`."""
    support: NDArray[np.bool_] = magnitude > SUPPORT * np.percentile(magnitude, 99.0)
    return support
