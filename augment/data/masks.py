"""Sampling masks over the columns of k-space, with fastMRI's definitions, equal to its package's bit by bit.

A mask keeps `round(width * center_fraction)` columns in the middle and some of the others. The random numbers come
from NumPy's `RandomState`, whose streams are frozen, in the order in which fastMRI draws them; seeded with the file
name, all slices of a volume have one mask, in every epoch and process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rephase.errors import RequestError

MaskKind = Literal["random", "equispaced", "equispaced_fraction", "magic", "magic_fraction"]


@dataclass(frozen=True)
class ColumnMask:
    """Draws masks of one kind.

    Attributes
    ----------
    kind
        `random`: each outer column by chance, so that `width / acceleration` are expected in all. `equispaced`: every
        `acceleration`-th column and the middle, so more than that. `equispaced_fraction`: spaced so that the middle is
        counted in. `magic`: equispaced with an offset that uses conjugate symmetry (Defazio 2019, arXiv:1912.01101).
        `magic_fraction`: the same, counting the middle in.
    accelerations, center_fractions
        Of equal length; where there are several, one pair is drawn.
    """

    kind: MaskKind
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
        """Draw a mask.

        Parameters
        ----------
        width
            Columns of k-space.
        seed
            Equal seeds give equal masks; `seed_of(fname)` is fastMRI's for a file.
        offset
            First column of the equispaced and magic kinds; drawn where None.

        Returns
        -------
        mask
            float32 `(width)`, 1 where a column is sampled.

        Raises
        ------
        RequestError
            If acceleration and middle cannot be had together in this width.
        """
        random = np.random.RandomState(seed)
        choice = random.randint(len(self.center_fractions))
        fraction, acceleration = self.center_fractions[choice], self.accelerations[choice]
        num_low = round(width * fraction)
        if self.kind == "magic_fraction":
            num_low, acceleration = _adjusted(width, num_low, acceleration)
        outer = _KINDS[self.kind](random, width, acceleration, num_low, offset)
        mask = np.asarray(outer, np.float32)
        start = (width - num_low + 1) // 2
        mask[start : start + num_low] = 1
        return mask

    def num_low_frequencies(self, width: int, seed: int | tuple[int, ...]) -> int:
        """Give the number of columns in the middle of the mask that this seed gives."""
        choice = np.random.RandomState(seed).randint(len(self.center_fractions))
        num_low = round(width * self.center_fractions[choice])
        return _adjusted(width, num_low, self.accelerations[choice])[0] if self.kind == "magic_fraction" else num_low


def _is_tuple(values: object, *types: type) -> bool:
    return isinstance(values, tuple | list) and all(type(value) in types for value in values)


@dataclass(frozen=True)
class MaskedSlices:
    """A transform that samples k-space with a mask seeded by the file name, and hands the tuple on.

    Attributes
    ----------
    mask
        What draws the masks.
    transform
        Called with the masked tuple; None gives the tuple itself.
    """

    mask: ColumnMask
    transform: Callable[..., Any] | None = None

    def __call__(
        self,
        kspace: NDArray[np.complex64],
        mask: NDArray[np.float32] | None,
        target: NDArray[np.float32] | None,
        attrs: dict[str, Any],
        fname: str,
        slice_index: int,
    ) -> Any:  # noqa: ANN401 - a transform gives what it likes
        """Mask one slice; columns outside the acquired ones stay out, and those that a mask of its own left out."""
        drawn = self.mask(kspace.shape[-1], seed_of(fname))
        drawn[: attrs["padding_left"]] = 0
        drawn[attrs["padding_right"] :] = 0
        if mask is not None:
            drawn *= mask
        parts = (apply_mask(kspace, drawn), drawn, target, attrs, fname, slice_index)
        return parts if self.transform is None else self.transform(*parts)


def seed_of(fname: str) -> tuple[int, ...]:
    """Give the seed that fastMRI's transforms take for a file name."""
    return tuple(map(ord, fname))


def apply_mask(kspace: NDArray[np.complex64], mask: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Set the columns that are not sampled to +0.0.

    Multiplying alone would leave -0.0 where a negative value stood: signs of zeros told the hidden samples of a test
    set of 2019.

    Parameters
    ----------
    kspace
        `(*batch height width)`.
    mask
        `(width)`, 1 or 0.
    """
    return np.where(mask != 0, kspace, np.complex64(0)) + np.complex64(0)  # also for a -0.0 that was sampled


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
            f"width {width}: {num_low} columns in the middle leave none of the {width / acceleration:g} that "
            f"acceleration {acceleration} allows; expected fewer; lower center_fractions or the acceleration"
        )
    spacing = acceleration * (num_low - width) / (num_low * acceleration - width)
    start = random.randint(0, high=round(spacing)) if offset is None else offset
    mask = np.zeros(width)
    mask[np.around(np.arange(start, width - 1, spacing)).astype(np.uint)] = 1
    return mask


def _magic(
    random: np.random.RandomState, width: int, acceleration: int, num_low: int, offset: int | None
) -> NDArray[Any]:
    if not acceleration:  # of `magic_fraction`: the middle is all that there is room for
        return np.zeros(width)
    if offset is None:
        offset = random.randint(0, high=acceleration)
    first, second = (offset + 1, offset + 2) if offset % 2 == 0 else (offset + 2, offset - 1)
    half = (width + 1) // 2
    positive, negative = np.zeros(half), np.zeros(width - half)
    positive[first::acceleration] = 1
    negative[second::acceleration] = 1
    return np.fft.fftshift(np.concatenate([positive, negative[::-1]]))


def _adjusted(width: int, num_low: int, acceleration: int) -> tuple[int, int]:
    """Columns in the middle, and the spacing that leaves `width / acceleration` in all; 0: nothing but the middle."""
    wanted = round(width / acceleration)
    num_low = max(min(num_low, wanted), 1)
    return num_low, round(width / (wanted - num_low)) if wanted > num_low else 0


_KINDS: dict[str, Callable[[np.random.RandomState, int, int, int, int | None], NDArray[Any]]] = {
    "random": _random,
    "equispaced": _equispaced,
    "equispaced_fraction": _equispaced_fraction,
    "magic": _magic,
    "magic_fraction": _magic,
}
