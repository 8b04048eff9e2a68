"""Samplers that `DataLoader` lacks: all slices of a volume on one rank, batches of equal matrices.

Both yield equally many items on every rank, by repetition, as torch's `DistributedSampler` does. The order is a
function of seed and epoch (`set_epoch`) alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from rephase.data.base import Matrix, VolumeSlices
from rephase.data.mix import MixedSlices, longest, require_slices, sample
from rephase.data.order import own_rank, shuffled
from rephase.errors import RequestError


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
        If a rank would have no volume, or the data set is a mixture, which has none.
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
        if isinstance(require_slices("VolumeSampler", slices), MixedSlices):
            raise RequestError(
                "VolumeSampler: a mixture has slices, no whole volumes; expected KSpaceSlices or FastMRISlices; use "
                "KSpaceStream or BucketBatchSampler"
            )
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


class BucketBatchSampler(Sampler[list[Any]]):
    """Batches of slices with equal matrices, which can be collated.

    Use it as `DataLoader(..., batch_sampler=...)`. The last batch of each matrix may be smaller.

    Of a mixture, every batch also has its share of real slices, within one slice. So it has slices of matrices that
    both sets have, as many of each as possible without repeats (with repeats if the mixture has some), and items are
    given by their source (`MixedSlices.source`). A warning tells how many slices have a matrix of one set only.

    Parameters
    ----------
    slices
        The data set.
    batch_size
        Slices per batch.
    rank, num_replicas
        Default: of the initialised process group, else 0 of 1. Batches are assigned to the ranks round-robin.
    shuffle, seed
        Seed and shuffling of the slices of each matrix, and of the batches. The slices of a mixture are selected and
        shuffled by its own seed.
    drop_last
        Drop the smaller batches, and the batches at the end that are too few for every rank.

    Raises
    ------
    RequestError
        If no batch remains, or the two sets of a mixture have no matrix in common.
    """

    def __init__(
        self,
        slices: VolumeSlices | MixedSlices,
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
        self._slices = require_slices("BucketBatchSampler", slices)
        if isinstance(slices, MixedSlices):
            _check_matrices(slices)
        if not len(self):
            raise RequestError(f"no batch of {batch_size} equal slices for each of {self.num_replicas} ranks")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, also that of the data set: of its transform, and of a sampled mixture."""
        self.epoch = epoch
        self._slices.set_epoch(epoch)

    def __len__(self) -> int:
        if isinstance(self._slices, MixedSlices):
            counts = np.array([pool.num_slices for pool in _pools(self._slices)], np.int64)
        else:
            counts = np.bincount(self._slices.shape_codes()[1])
        total = int((counts // self.batch_size if self.drop_last else -(-counts // self.batch_size)).sum())
        return total // self.num_replicas if self.drop_last else -(-total // self.num_replicas)

    def __iter__(self) -> Iterator[list[Any]]:
        batches = self._batches()
        total = len(self) * self.num_replicas
        for number in range(self.rank, total, self.num_replicas):
            yield batches[number % len(batches)]

    def _batches(self) -> list[list[Any]]:
        """Return all batches of the epoch, the same on every rank."""
        pools = self._of_mixture(self._slices) if isinstance(self._slices, MixedSlices) else self._of_volumes()
        batches: list[list[Any]] = []
        for items in pools:
            end = len(items) // self.batch_size * self.batch_size if self.drop_last else len(items)
            batches += [items[at : min(at + self.batch_size, end)] for at in range(0, end, self.batch_size)]
        if self.shuffle:
            batches = [batches[place] for place in shuffled(len(batches), self.seed, self.epoch, len(pools))]
        return batches

    def _of_volumes(self) -> list[list[Any]]:
        """Return the slices of every matrix."""
        shapes, codes = self._slices.shape_codes()
        pools = [np.flatnonzero(codes == code) for code in range(len(shapes))]
        if self.shuffle:
            pools = [one[shuffled(len(one), self.seed, self.epoch, code)] for code, one in enumerate(pools)]
        return [one.tolist() for one in pools]

    def _of_mixture(self, mixed: MixedSlices) -> list[list[Any]]:
        """Return the slices of every matrix, of whose first `n` the mixture's share is real."""
        pools = []
        for code, pool in enumerate(_pools(mixed)):
            before = mixed.num_real_of(np.arange(pool.num_slices + 1))
            is_real = np.diff(before) > 0
            numbers = np.empty(pool.num_slices, np.int64)
            for kind, own in ((True, pool.real), (False, pool.synthetic)):
                chosen = sample(len(own), int((is_real == kind).sum()), mixed.seed, self.epoch, 2 + kind, code)
                numbers[is_real == kind] = own[chosen]
            pools.append(list(zip(is_real.tolist(), numbers.tolist(), strict=True)))
        return pools


class _Pool(NamedTuple):
    """The slices of a mixture that have one matrix, and how many of them an epoch has."""

    real: NDArray[np.int64]
    synthetic: NDArray[np.int64]
    num_slices: int


def _pools(mixed: MixedSlices) -> list[_Pool]:
    """Return the slices by matrix, without the matrices that cannot have the share."""
    real, synthetic = _by_matrix(mixed.real), _by_matrix(mixed.synthetic)
    none, fraction = np.zeros(0, np.int64), mixed.real_fraction
    pairs = [(real.get(shape, none), synthetic.get(shape, none)) for shape in dict.fromkeys([*real, *synthetic])]
    limits = np.array([longest(len(one), len(other), fraction) for one, other in pairs], np.int64)
    possible = int(limits.sum())
    repeats = mixed.num_slices > longest(len(mixed.real), len(mixed.synthetic), fraction)
    total = mixed.num_slices if repeats else min(mixed.num_slices, possible)
    # whole numbers in proportion to the limits that add up to the total
    ends = np.array([int(end) * total // max(possible, 1) for end in np.cumsum(limits)], np.int64)
    counts = np.diff(ends, prepend=0)
    return [_Pool(*pair, int(count)) for pair, count in zip(pairs, counts, strict=True) if count]


def _by_matrix(slices: VolumeSlices | MixedSlices) -> dict[Matrix, NDArray[np.int64]]:
    shapes, codes = slices.shape_codes()
    return {shape: np.flatnonzero(codes == code) for code, shape in enumerate(shapes)}


def _check_matrices(mixed: MixedSlices) -> None:
    """Refuse a mixture without common matrix; warn of slices that are in no batch."""
    if not 0 < mixed.real_fraction < 1:
        return
    real, synthetic = _by_matrix(mixed.real), _by_matrix(mixed.synthetic)
    advice = "make all equal by a transform (rephase.transforms.FitMatrix) and read the mixture in order"
    if not real.keys() & synthetic.keys():
        found = f"real {_shown(real)} and synthetic {_shown(synthetic)} have no matrix in common"
        raise RequestError(f"BucketBatchSampler: {found}; expected one, of which every batch has its share; {advice}")
    left = [one[shape] for one, other in ((real, synthetic), (synthetic, real)) for shape in one.keys() - other.keys()]
    if count := sum(map(len, left)):
        warnings.warn(
            f"BucketBatchSampler: {count} of {len(mixed.real) + len(mixed.synthetic)} slices have a matrix that is "
            f"only in one set of the mixture, and are in no batch; {advice} to use them",
            stacklevel=3,
        )


def _shown(matrices: dict[Matrix, NDArray[np.int64]]) -> str:
    texts = [" x ".join(str(size) for size in shape[:3] if size) for shape in matrices]
    return ", ".join(texts[:3]) + (", ..." if len(texts) > 3 else "")
