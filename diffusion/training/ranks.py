"""Data-parallel training in several processes, started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """Index and number of processes. `local` is the index on this machine, which is that of the GPU."""

    index: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Return whether this process writes files and shows progress."""
        return self.index == 0

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, in one message."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, total in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.reshape(tensor.shape))


def started_by_torchrun() -> Ranks:
    """Read the variables set by torchrun; without them, this process is the only one.

    Raises
    ------
    ValueError
        If the variables contradict each other.
    """
    try:
        index, count, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
    except ValueError as error:
        raise ValueError(f"RANK, WORLD_SIZE or LOCAL_RANK: {error}; expected whole numbers, as torchrun sets") from None
    if not 0 <= index < count or local < 0:
        raise ValueError(f"RANK = {index} of WORLD_SIZE = {count}: expected a number below it, as torchrun sets")
    return Ranks(index, count, local)


@contextmanager
def joined(ranks: Ranks, device: str) -> Iterator[str]:
    """Connect the processes for a `with` block, over NCCL on GPUs, else over gloo; yield the device of this process.

    The device is "cuda:1", for example.
    """
    own = f"cuda:{ranks.local}" if device == "cuda" and ranks.count > 1 else device
    if ranks.count == 1:
        yield own
        return
    if own.startswith("cuda"):
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own.startswith("cuda") else "gloo")
    try:
        yield own
    finally:
        distributed.destroy_process_group()
