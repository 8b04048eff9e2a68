"""Parts of the training loop of every experiment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rephase.data.kspace_slices import KSpaceSlices


def is_of(subjects: frozenset[str], row: Mapping[str, Any]) -> bool:
    """Return whether a row of an index is of one of these subjects."""
    return (row["patient_id"] or row["name"]) in subjects


def people_of(slices: KSpaceSlices) -> Mapping[str, str]:
    """Return the subject of each volume, the volume itself where none is known."""
    return {name: slices.volume_attributes(number)["patient_id"] or name for number, name in enumerate(slices.volumes)}


def endless_batches(data: Any, size: int) -> Iterator[tuple[Tensor, ...]]:  # noqa: ANN401 - a mixture
    """Yield batches without end, of items that are tuples of tensors; one may reach into the next epoch."""
    items: list[tuple[Tensor, ...]] = []
    epoch = 0
    while True:
        data.set_epoch(epoch)
        for place in range(len(data)):
            items.append(data[place])
            if len(items) == size:
                yield tuple(torch.stack(part) for part in zip(*items, strict=True))
                items = []
        epoch += 1


def rate(step: int, steps: int, warmup: int) -> float:
    """Return the learning rate as a share of its peak: a linear rise, then a cosine to 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
