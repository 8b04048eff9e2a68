"""What the classifier sees: patches of phasor x magnitude inside the object, both classes treated alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.evaluation.phase_volume import PhaseVolume


@dataclass(frozen=True)
class Item:
    """One slice of one class: a complex image `(height width)`, 0 outside the object, about 1 in bright tissue."""

    image: NDArray[np.complex64]
    group: str


def make_items(volumes: Sequence[PhaseVolume], groups: Sequence[str], phase_levels: int) -> list[Item]:
    """Make an item of every slice with an object; phases are rounded to `phase_levels` steps of the circle."""
    items = []
    step = 2.0 * np.pi / phase_levels
    for one, group in zip(volumes, groups, strict=True):
        angle = np.rint(np.angle(one.phasor) / step) * step
        bright = max(float(np.percentile(one.magnitude, 99.0)), 1e-20)
        images = np.where(one.support, one.magnitude / bright * np.exp(1j * angle), 0.0).astype(np.complex64)
        items += [Item(image, group) for image, inside in zip(images, one.support, strict=True) if inside.any()]
    return items


def draw_patch(item: Item, side: int, random: np.random.Generator) -> NDArray[np.complex64]:
    """Cut a patch `(side side)` around a pixel of the object; turn it, flip it, and give it a random global phase.

    The global phase of a scan says nothing, so it must not tell the classes apart. Slices smaller than the patch are
    filled up with zeros.
    """
    rows, columns = np.nonzero(item.image)
    chosen = int(random.integers(len(rows)))
    patch = np.zeros((side, side), np.complex64)
    cuts = [_cut(int(at[chosen]), size, side) for at, size in zip((rows, columns), item.image.shape, strict=True)]
    part = item.image[cuts[0], cuts[1]]
    patch[: part.shape[0], : part.shape[1]] = part
    patch = np.rot90(patch, int(random.integers(4)))
    if random.random() < 0.5:
        patch = patch[::-1]
    turned: NDArray[np.complex64] = (patch * np.exp(2j * np.pi * random.random())).astype(np.complex64)
    return turned


def batch_of(items: Sequence[Item], side: int, random: np.random.Generator) -> torch.Tensor:
    """A patch of each item as real and imaginary channels, float32 `(item 2 side side)`."""
    patches = np.stack([draw_patch(item, side, random) for item in items])
    return torch.from_numpy(np.stack([patches.real, patches.imag], axis=1))


def _cut(centre: int, size: int, side: int) -> slice:
    start = max(min(centre - side // 2, size - side), 0)
    return slice(start, min(start + side, size))
