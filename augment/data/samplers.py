"""Samplers that `DataLoader` lacks: all slices of a volume on one rank, batches of equal matrices.

Both yield equally many items on every rank, by repetition, as torch's `DistributedSampler` does. The order is a
function of seed and epoch (`set_epoch`) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from rephase.data.base import Matrix, VolumeSlices
from rephase.data.order import own_rank, shuffled
from rephase.errors import RequestError


class HasShapes(Protocol):
    """A data set that provides the sizes of its items: `KSpaceSlices`, `FastMRISlices`, `MixedSlices`."""

    def shape_codes(self) -> tuple[list[Matrix], NDArray[np.int64]]:
        """Return the distinct sizes, and for every item the index of its size."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the transform, and of a sampled mixture."""
        ...


class VolumeSampler(Sampler[int]):
    """Yields all slices of a volume on one rank, so that metrics of the volume can be computed.

    Volumes are assigned to the ranks round-robin. The volumes of a rank follow one another, each in slice order;
    `shuffle` shuffles the volumes. Ranks with fewer slices repeat their first ones, so that all yield equally many;
    code that evaluates volumes must drop the repeated ones.

    Parameters
    ----------
    slices
        The data set.
    rank, num_replicas
        Default: of the initialised process group, else 0 of 1.
    shuffle, seed
        Seed and shuffling of the order of the volumes.
    pad
        Repeat slices so that all ranks yield equally many.

    Raises
    ------
    RequestError
        If a rank would have no volume.
    """

    def __init__(
        self,
        slices: VolumeSlices,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        pad: bool = True,
    ) -> None:
        self.rank, self.num_replicas = own_rank(rank, num_replicas)
        counts = slices.volume_slices
        if len(counts) < self.num_replicas:
            raise RequestError(f"{len(counts)} volumes for {self.num_replicas} ranks; expected one or more each")
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        self._slices = slices
        self._starts = np.cumsum(counts) - counts
        self._counts = counts
        own = [int(counts[rank :: self.num_replicas].sum()) for rank in range(self.num_replicas)]
        self.num_samples = max(own) if pad else own[self.rank]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, also that of the data set's transform; the volumes of a rank stay the same."""
        self.epoch = epoch
        self._slices.set_epoch(epoch)

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        volumes = np.arange(self.rank, len(self._counts), self.num_replicas)
        if self.shuffle:
            volumes = volumes[shuffled(len(volumes), self.seed, self.epoch)]
        numbers = np.concatenate([self._starts[volume] + np.arange(self._counts[volume]) for volume in volumes])
        yield from np.resize(numbers, self.num_samples).tolist()


class BucketBatchSampler(Sampler[list[int]]):
    """Batches of slices with equal matrices, which can be collated.

    Use it as `DataLoader(..., batch_sampler=...)`. The last batch of each matrix may be smaller.

    Parameters
    ----------
    slices
        The data set.
    batch_size
        Slices per batch.
    rank, num_replicas
        Default: of the initialised process group, else 0 of 1. Batches are assigned to the ranks round-robin.
    shuffle, seed
        Seed and shuffling of the slices of each matrix, and of the batches.
    drop_last
        Drop the smaller batches, and the batches at the end that are too few for every rank.

    Raises
    ------
    RequestError
        If no batch remains.
    """

    def __init__(
        self,
        slices: HasShapes,
        batch_size: int,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise RequestError(f"batch_size {batch_size}: expected 1 or more")
        self.rank, self.num_replicas = own_rank(rank, num_replicas)
        self.batch_size, self.shuffle, self.seed, self.drop_last = batch_size, shuffle, seed, drop_last
        self.epoch = 0
        self._slices = slices
        if not len(self):
            raise RequestError(f"no batch of {batch_size} equal slices for each of {self.num_replicas} ranks")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, also that of the data set: of its transform, and of a sampled mixture."""
        self.epoch = epoch
        self._slices.set_epoch(epoch)

    def __len__(self) -> int:
        _, codes = self._slices.shape_codes()
        counts = np.bincount(codes)
        total = int((counts // self.batch_size if self.drop_last else -(-counts // self.batch_size)).sum())
        return total // self.num_replicas if self.drop_last else -(-total // self.num_replicas)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        total = len(self) * self.num_replicas
        for number in range(self.rank, total, self.num_replicas):
            yield batches[number % len(batches)].tolist()

    def _batches(self) -> list[NDArray[np.int64]]:
        """Return all batches of the epoch, the same on every rank."""
        shapes, codes = self._slices.shape_codes()
        batches = []
        for code in range(len(shapes)):
            numbers = np.flatnonzero(codes == code)
            if self.shuffle:
                numbers = numbers[shuffled(len(numbers), self.seed, self.epoch, code)]
            if self.drop_last:
                numbers = numbers[: len(numbers) // self.batch_size * self.batch_size]
            batches += [numbers[at : at + self.batch_size] for at in range(0, len(numbers), self.batch_size)]
        if self.shuffle:
            batches = [batches[place] for place in shuffled(len(batches), self.seed, self.epoch, len(shapes))]
        return batches
