"""Sampling masks over the columns of k-space, identical bit by bit to those of the `fastmri` package.

A mask keeps `round(width * center_fraction)` central columns and some of the others. The random numbers come from
NumPy's `RandomState`, whose streams are frozen, in the order in which fastMRI samples them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import RequestError


@dataclass(frozen=True)
class ColumnMask:
    """Samples masks of one kind.

    Attributes
    ----------
    kind
        `random`: each outer column with equal probability, `width / acceleration` columns expected in all.
        `equispaced`: every `acceleration`-th column and the centre, so more than that. `equispaced_fraction`: spaced
        so that the centre is counted in `width / acceleration`.
    accelerations, center_fractions
        Sequences of equal length; with several pairs, one is sampled per mask.
    """

    kind: str
    accelerations: tuple[int, ...] = (4,)
    center_fractions: tuple[float, ...] = (0.08,)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise RequestError(f"mask kind {self.kind!r}: unknown; expected one of {', '.join(_KINDS)}")
        if not _is_tuple(self.accelerations, int) or not _is_tuple(self.center_fractions, int, float):
            raise RequestError(
                f"accelerations {self.accelerations}, center_fractions {self.center_fractions}: expected tuples, of "
                "whole numbers and of fractions"
            )
        if len(self.accelerations) != len(self.center_fractions) or not self.accelerations:
            pair = f"accelerations {self.accelerations}, center_fractions {self.center_fractions}"
            raise RequestError(f"{pair}: expected as many of one as of the other, and at least one")
        if min(self.accelerations) < 1 or not all(0 <= fraction <= 1 for fraction in self.center_fractions):
            raise RequestError(
                f"accelerations {self.accelerations}, center_fractions {self.center_fractions}: expected accelerations "
                "of at least 1 and fractions from 0 to 1"
            )

    def __call__(self, width: int, seed: int | tuple[int, ...], offset: int | None = None) -> NDArray[np.float32]:
        """Sample a mask.

        Parameters
        ----------
        width
            Columns of k-space.
        seed
            Equal seeds produce equal masks; `seed_of(fname)` is fastMRI's seed for a file.
        offset
            First column of the equispaced kinds; sampled if None.

        Returns
        -------
        mask
            float32 `(width)`, 1 for sampled columns.

        Raises
        ------
        RequestError
            If the centre leaves no columns for this acceleration.
        """
        random = np.random.RandomState(seed)
        choice = random.randint(len(self.center_fractions))
        fraction, acceleration = self.center_fractions[choice], self.accelerations[choice]
        num_low = round(width * fraction)
        outer = _KINDS[self.kind](random, width, acceleration, num_low, offset)
        mask = np.asarray(outer, np.float32)
        start = (width - num_low + 1) // 2
        mask[start : start + num_low] = 1
        return mask

    def num_low_frequencies(self, width: int, seed: int | tuple[int, ...]) -> int:
        """Return the number of fully sampled central columns of the mask for this seed."""
        choice = np.random.RandomState(seed).randint(len(self.center_fractions))
        return round(width * self.center_fractions[choice])


def _is_tuple(values: object, *types: type) -> bool:
    return isinstance(values, tuple | list) and all(type(value) in types for value in values)


def seed_of(fname: str) -> tuple[int, ...]:
    """Return the seed that fastMRI's transforms use for a file name."""
    return tuple(map(ord, fname))


def _random(
    random: np.random.RandomState, width: int, acceleration: int, num_low: int, offset: int | None
) -> NDArray[Any]:
    if num_low >= width:
        return np.ones(width)
    probability = (width / acceleration - num_low) / (width - num_low)
    return random.uniform(size=width) < probability


def _equispaced(
    random: np.random.RandomState, width: int, acceleration: int, num_low: int, offset: int | None
) -> NDArray[Any]:
    mask = np.zeros(width)
    mask[random.randint(0, high=acceleration) if offset is None else offset :: acceleration] = 1
    return mask


def _equispaced_fraction(
    random: np.random.RandomState, width: int, acceleration: int, num_low: int, offset: int | None
) -> NDArray[Any]:
    if num_low * acceleration >= width:
        raise RequestError(
            f"width {width}: {num_low} central columns leave none of the {width / acceleration:g} that "
            f"acceleration {acceleration} allows; expected fewer; lower center_fractions or the acceleration"
        )
    spacing = acceleration * (num_low - width) / (num_low * acceleration - width)
    start = random.randint(0, high=round(spacing)) if offset is None else offset
    mask = np.zeros(width)
    mask[np.around(np.arange(start, width - 1, spacing)).astype(np.uint)] = 1
    return mask


_KINDS: dict[str, Callable[[np.random.RandomState, int, int, int, int | None], NDArray[Any]]] = {
    "random": _random,
    "equispaced": _equispaced,
    "equispaced_fraction": _equispaced_fraction,
}
