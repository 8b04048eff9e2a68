"""Patches of complex slices for the classifier of real against generated phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.evaluation.statistics import PhaseVolume


@dataclass(frozen=True)
class Item:
    """A slice of one class: complex image `(height width)`, 0 outside the object, about 1 in bright tissue."""

    image: NDArray[np.complex64]
    group: str
    family: str = ""

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Flat indices of the object's pixels."""
        return np.flatnonzero(self.image)


def make_items(
    volumes: Sequence[PhaseVolume], groups: Sequence[str], families: Sequence[str], phase_levels: int
) -> list[Item]:
    """Build an item from each slice with an object; phases are rounded to `phase_levels` levels."""
    items = []
    step = 2.0 * np.pi / phase_levels
    for one, group, family in zip(volumes, groups, families, strict=True):
        angle = np.rint(np.angle(one.phasor) / step) * step
        bright = max(float(np.percentile(one.magnitude, 99.0)), 1e-20)
        images = np.where(one.support, one.magnitude / bright * np.exp(1j * angle), 0.0).astype(np.complex64)
        items += [Item(image, group, family) for image, inside in zip(images, one.support, strict=True) if inside.any()]
    return items


def sample_patch(item: Item, side: int, random: np.random.Generator) -> NDArray[np.complex64]:
    """Sample a patch `(side side)` around a random pixel of the object; rotate, flip, and add a random global phase.

    The global phase of a scan is arbitrary, so it must not separate the classes. Small slices are zero-padded.
    """
    height, width = item.image.shape
    row, column = divmod(int(item.places[int(random.integers(len(item.places)))]), width)
    patch = np.zeros((side, side), np.complex64)
    part = item.image[_cut(row, height, side), _cut(column, width, side)]
    patch[: part.shape[0], : part.shape[1]] = part
    patch = np.rot90(patch, int(random.integers(4)))
    if random.random() < 0.5:
        patch = patch[::-1]
    augmented: NDArray[np.complex64] = (patch * np.exp(2j * np.pi * random.random())).astype(np.complex64)
    return augmented


def batch_of(items: Sequence[Item], side: int, random: np.random.Generator) -> torch.Tensor:
    """Return a patch of each item as real and imaginary channels, float32 `(item 2 side side)`."""
    patches = np.stack([sample_patch(item, side, random) for item in items])
    return torch.from_numpy(np.stack([patches.real, patches.imag], axis=1))


def _cut(centre: int, size: int, side: int) -> slice:
    start = max(min(centre - side // 2, size - side), 0)
    return slice(start, min(start + side, size))
