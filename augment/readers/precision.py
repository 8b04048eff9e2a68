"""What is lost when a file's values become float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from augment.errors import VolumeError


def refuse_vanished(values: NDArray[Any], largest: Callable[[], float], name: str) -> None:
    """Refuse a volume of which float32 or complex64 leaves nothing but zeros.

    `largest` gives the largest modulus that the file has, and is asked only where all `values` are zero.

    Raises
    ------
    VolumeError
        `unsupported`.
    """
    if not values.any() and (found := largest()) > 0:
        raise VolumeError(
            "unsupported",
            f"{name}: its values are {found:g} at most; expected some of 1e-38 or more, below which float32 holds "
            "none; store it in another unit",
        )
