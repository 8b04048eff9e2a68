"""Few numbers on a GPU without waiting for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def from_scalars(values: Iterable[float], device: torch.device | str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Make a tensor `(value)` on a device.

    Each number goes along with the call of a kernel. A copy, as in `torch.tensor(values, device=device)` or
    `Tensor.to`, comes from memory that the GPU cannot read by itself: the program would stand still until all work
    that was queued before is done.
    """
    return torch.stack([torch.full((), value, dtype=dtype, device=device) for value in values])


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Run torch on one thread where the device is a CPU: convolutions and sums of products may differ with another."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
