"""Slices as a resumable stream, in one order for any number of ranks and workers.

stream = KSpaceStream("corpus.zarr", batch_size=8, seed=1)
loader = DataLoader(stream, batch_size=8, num_workers=2)
for epoch in range(10):
    stream.set_epoch(epoch)
    for kspace, mask, target, attrs, fname, slice_index in loader:
        ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from rephase.data.base import VolumeSlices
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.mix import MixedSlices, require_slices
from rephase.data.order import ShardOrder, own_rank
from rephase.diffusion.training.prefetch import in_order
from rephase.errors import RequestError

_MOST_WORKERS = 1024
_EPOCH, _POSITION, _TAKEN, _BEGUN = 0, 1, 2, 3


class KSpaceStream(IterableDataset[Any]):
    """Slices in a shuffled order that is a function of seed and epoch alone.

    Ranks read that order alternately, one slice each: after `n` slices on each of `r` ranks, together they have read
    the first `n * r` slices, whatever `r` is. Within a rank, workers read batches alternately, as `DataLoader` requests
    them, so that a loader yields the slices of the rank in order for any number of workers, if `batch_size` is that of
    the loader. Every rank yields equally many slices.

    `set_epoch` sets the epoch, also with `persistent_workers`; without it every epoch has the same order.

    Parameters
    ----------
    slices
        A corpus (path or URL), or `KSpaceSlices` with filters and transform, or `FastMRISlices`; or a mixture, which
        is read in its own order, that of its seed: `seed`, `shuffle`, `lanes` and `buffer` do not apply to it.
    batch_size
        Batch size of the `DataLoader`; 1 for its `batch_size=None`.
    seed, shuffle
        Seed of the order; without `shuffle`, slices are in the order of the index.
    lanes, buffer
        Shards in use at a time; slices shuffled together. See `rephase.data.order.ShardOrder`.
    drop_last
        Drop the slices at the end that are too few for every rank. Otherwise ranks that lack one repeat the first
        slices of the order.
    rank, num_replicas
        Default: of the initialised process group, else 0 of 1.
    readahead
        Slices that a thread reads ahead in every reading process; 0 for none.

    Raises
    ------
    RequestError
        If there are no slices, or a number is out of range.
    """

    def __init__(
        self,
        slices: str | os.PathLike[str] | VolumeSlices | MixedSlices,
        batch_size: int = 1,
        *,
        seed: int = 0,
        shuffle: bool = True,
        lanes: int = 16,
        buffer: int = 1024,
        drop_last: bool = False,
        rank: int | None = None,
        num_replicas: int | None = None,
        readahead: int = 2,
    ) -> None:
        opened = KSpaceSlices(slices) if isinstance(slices, str | os.PathLike) else slices
        self.slices = require_slices("KSpaceStream", opened)
        self.rank, self.num_replicas = own_rank(rank, num_replicas)
        least = {"batch_size": (batch_size, 1), "lanes": (lanes, 1), "buffer": (buffer, 1), "readahead": (readahead, 0)}
        for name, (value, smallest) in least.items():
            if value < smallest:
                raise RequestError(f"{name} {value}: expected {smallest} or more")
        if drop_last and len(self.slices) < self.num_replicas:
            raise RequestError(f"{len(self.slices)} slices for {self.num_replicas} ranks: drop_last leaves none")
        self.batch_size, self.seed, self.shuffle, self.drop_last = batch_size, seed, shuffle, drop_last
        self.lanes, self.buffer, self.readahead = lanes, buffer, readahead
        # In shared memory, so that it reaches persistent workers: epoch, start position, slices taken since, and for
        # the main process and every worker how often it has started since these were set.
        self._shared = torch.zeros(_BEGUN + 1 + _MOST_WORKERS, dtype=torch.int64)
        self._shared.share_memory_()  # type: ignore[no-untyped-call]
        self._own: dict[str, int] | None = None  # set by load_state_dict in a worker
        self._reading: dict[str, int] | None = None

    @property
    def epoch(self) -> int:
        """Number of the current or next epoch."""
        return int(self._shared[_EPOCH])

    def __len__(self) -> int:
        """Return the number of slices that this rank yields in an epoch."""
        return self._count(0)

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch. A position that was loaded for it and not used yet is kept."""
        if epoch != self.epoch or bool(self._shared[_BEGUN:].any()):
            self._set(epoch, 0, 0)

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Return the state needed to resume after the slices that were yielded last.

        Parameters
        ----------
        batches
            Batches that this rank has taken from its `DataLoader` in this iteration. Required if the loader has
            workers, which read ahead; not inside a worker.

        Returns
        -------
        state
            Numbers and texts; equal on every rank that has taken as many batches, and valid for any number of ranks
            and workers.

        Raises
        ------
        RequestError
            If workers read the stream and `batches` is missing.
        """
        state = {"version": 1, "slices": self.slices.fingerprint(), "seed": self.seed, "shuffle": self.shuffle}
        state |= {"lanes": self.lanes, "buffer": self.buffer}
        if get_worker_info() is not None:
            return state | (self._reading or self._own or self._started())
        started, begun = self._started(), self._shared[_BEGUN:]
        if int(begun.max()) > 1:
            started["position"] = started["taken"] = 0
        if batches is None:
            if bool(begun[1:].any()):
                raise RequestError(
                    "workers read this stream ahead; expected state_dict(batches=...), the batches taken"
                )
            taken = started["taken"] if self._reading is None else self._reading["taken"]
        else:
            taken = min(batches * self.batch_size, self._count(started["position"]))
        position = min(started["position"] + taken * self.num_replicas, len(self.slices))
        return state | {"epoch": self.epoch, "position": position, "taken": 0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state at the next iteration.

        Raises
        ------
        RequestError
            If the state belongs to other slices or another order.
        """
        expected = self.state_dict(batches=0) if get_worker_info() is None else self.state_dict()
        for key in ("version", "slices", "seed", "shuffle", "lanes", "buffer"):
            if state.get(key) != expected[key]:
                raise RequestError(
                    f"state: {key} is {state.get(key)!r}; expected {expected[key]!r}, that of this stream"
                )
        epoch, position, taken = (int(state[key]) for key in ("epoch", "position", "taken"))
        if not 0 <= position <= len(self.slices) or taken < 0:
            raise RequestError(f"state: position {position}, taken {taken}; expected 0 to {len(self.slices)}")
        if get_worker_info() is None:
            self._set(epoch, position, taken)
        else:
            self._own, self._reading = {"epoch": epoch, "position": position, "taken": taken}, None

    def __iter__(self) -> Iterator[Any]:
        """Yield the slices of this rank; in a worker, those of its batches.

        Raises
        ------
        VolumeError
            If a slice cannot be read; the message names volume and slice.
        RequestError
            If a loaded position was used before: it is valid for one iteration.
        """
        worker = get_worker_info()
        reader, readers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        begin = self._begin(0 if worker is None else worker.id + 1)
        self._reading = begin
        self.slices.set_epoch(begin["epoch"])
        numbers = self._numbers(dict(begin), reader, readers)
        read = self.slices.__getitem__
        items = in_order(read, numbers, 1, self.readahead, "readahead") if self.readahead else map(read, numbers)
        for item in items:
            begin["taken"] += 1
            yield item

    def _begin(self, slot: int) -> dict[str, int]:
        if self._own is not None:
            begin, self._own = self._own, None
            return begin
        begin = self._started()
        self._shared[_BEGUN + slot] += 1
        if int(self._shared[_BEGUN + slot]) > 1 and (begin["position"] or begin["taken"]):
            raise RequestError(
                f"epoch {begin['epoch']} was resumed at slice {begin['position']} and then restarted; expected one "
                "iteration; call set_epoch or load_state_dict before the next"
            )
        return begin

    def _numbers(self, begin: dict[str, int], reader: int, readers: int) -> Iterator[int]:
        """Yield the numbers of the slices of one reader of this rank, from its start."""
        slice_at = self._order(begin["epoch"])
        skip = begin["taken"]
        for first in range(reader * self.batch_size, self._count(begin["position"]), readers * self.batch_size):
            for turn in range(first, min(first + self.batch_size, self._count(begin["position"]))):
                if skip:
                    skip -= 1
                    continue
                position = begin["position"] + self.rank + turn * self.num_replicas
                yield slice_at(position % len(self.slices))

    def _order(self, epoch: int) -> Callable[[int], int]:
        """Return the function from a position of an epoch to the number of its slice."""
        if isinstance(self.slices, MixedSlices):  # already shuffled; in another order its share would not be exact
            return int
        seed = self.seed if self.shuffle else None
        return ShardOrder(self.slices.volume_slices, seed, epoch, self.lanes, self.buffer).slice_at

    def _count(self, position: int) -> int:
        """Return the slices that each rank yields from a position on."""
        left = len(self.slices) - position
        return left // self.num_replicas if self.drop_last else -(-left // self.num_replicas)

    def _started(self) -> dict[str, int]:
        epoch, position, taken = self._shared[:_BEGUN].tolist()
        return {"epoch": epoch, "position": position, "taken": taken}

    def _set(self, epoch: int, position: int, taken: int) -> None:
        self._shared[:_BEGUN] = torch.tensor([epoch, position, taken])
        self._shared[_BEGUN:] = 0
        self._reading = None
