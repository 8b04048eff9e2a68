"""Shuffled orders that depend on seed and epoch alone. They are counter-based: any part can be computed separately.

NumPy keeps the stream of its generators across versions for `RandomState` only; this integer arithmetic produces the
same order everywhere.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

from rephase.errors import RequestError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def shuffled(count: int, *key: int) -> NDArray[np.int64]:
    """Return the integers below `count`, `(count)`, in an order that depends on the key alone."""
    keys = _mix(np.arange(count, dtype=np.uint64) * _GOLDEN + _hash(key))
    return np.argsort(keys, kind="stable").astype(np.int64)


def exact_fraction(value: float) -> Fraction:
    """Return a number as the fraction of its decimal digits: 0.15 is 15 / 100, not the nearest binary fraction."""
    return Fraction(repr(float(value)))


def _hash(key: tuple[int, ...]) -> NDArray[np.uint64]:
    state = np.zeros(1, np.uint64)
    for word in key:
        state = _mix(state + _GOLDEN + np.uint64(word % 2**64))
    return state


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) to arrays, where overflow wraps."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class ShardOrder:
    """The order of one epoch: shards are shuffled and assigned to lanes; slices are shuffled in one buffer per lane.

    The slices of the shuffled shards are cut into `lanes` runs of equal length; position `p` of the epoch is the next
    slice of run `p % lanes`. So neighbours come from different shards, `lanes` shards are in use at a time, and ranks
    that read alternately share no shard (except at the ends of runs) if their number divides `lanes`.

    Parameters
    ----------
    shard_slices
        Slices of every shard, in the order of the data set.
    seed, epoch
        The order depends only on these and the data set. Seed None keeps the order of the data set.
    lanes
        Number of runs; at most the number of slices.
    buffer
        Slices that are shuffled together, in all lanes.
    """

    def __init__(self, shard_slices: NDArray[np.int64], seed: int | None, epoch: int, lanes: int, buffer: int) -> None:
        self.num_slices = int(shard_slices.sum())
        self._seed, self._epoch = seed, epoch
        self._lanes = 1 if seed is None else max(min(lanes, self.num_slices), 1)
        self._block = max(buffer // self._lanes, 1)
        order = np.arange(len(shard_slices)) if seed is None else shuffled(len(shard_slices), seed, epoch)
        self._first = (np.cumsum(shard_slices) - shard_slices)[order]
        self._ends = np.cumsum(shard_slices[order])
        self._blocks: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def slice_at(self, position: int) -> int:
        """Return the index, in the data set, of the slice at a position of the epoch."""
        offset, lane = divmod(position, self._lanes)
        length, longer = divmod(self.num_slices, self._lanes)
        start = lane * length + min(lane, longer)
        count = length + (lane < longer)
        block, inner = divmod(offset, self._block)
        place = start + block * self._block + (inner if self._seed is None else self._inside(lane, block, count)[inner])
        shard = int(np.searchsorted(self._ends, place, side="right"))
        return int(self._first[shard] + place - (self._ends[shard - 1] if shard else 0))

    def _inside(self, lane: int, block: int, count: int) -> NDArray[np.int64]:
        """Return the order inside one buffer of a lane; the last one of each lane is cached."""
        kept = self._blocks.get(lane)
        if kept is None or kept[0] != block:
            size = min(self._block, count - block * self._block)
            kept = block, shuffled(size, self._seed or 0, self._epoch, lane + 1, block)
            self._blocks[lane] = kept
        return kept[1]


def shared_epoch() -> Tensor:
    """Return an epoch, int64 `(1)`, in memory that persistent workers share."""
    epoch = torch.zeros(1, dtype=torch.int64)
    epoch.share_memory_()  # type: ignore[no-untyped-call]
    return epoch


def set_epoch_of(something: object, epoch: int) -> None:
    """Set the epoch of a transform or data set, if it has epochs."""
    if (set_epoch := getattr(something, "set_epoch", None)) is not None:
        set_epoch(epoch)


def own_rank(rank: int | None, num_replicas: int | None) -> tuple[int, int]:
    """Return rank and number of ranks: as given, else of the initialised process group, else 0 of 1.

    Raises
    ------
    RequestError
        If the rank is out of range, or only one of the two is given.
    """
    if (rank is None) != (num_replicas is None):
        raise RequestError(f"rank {rank}, num_replicas {num_replicas}: expected both or neither")
    if rank is None or num_replicas is None:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return 0, 1
        rank, num_replicas = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if not 0 <= rank < num_replicas:
        raise RequestError(f"rank {rank}: expected 0 to {num_replicas - 1}")
    return rank, num_replicas
