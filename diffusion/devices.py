"""Devices: selection, scalars on a device without synchronising, and sums in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rephase.errors import RequestError


def choose_device(device: str | None = None) -> str:
    """Return the requested device, "cpu" or "cuda"; for None, "cuda" with a usable GPU, else "cpu".

    Raises
    ------
    RequestError
        If "cuda" is requested without a usable GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RequestError("--device cuda: no usable GPU found; leave --device out, or use --device cpu")
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def from_scalars(values: Iterable[float], device: torch.device | str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor `(value)` on a device.

    Each number is an argument of a kernel. A copy, as in `torch.tensor(values, device=device)` or `Tensor.to`, comes
    from pageable memory, so the program would wait for all queued GPU work.
    """
    return torch.stack([torch.full((), value, dtype=dtype, device=device) for value in values])


@contextmanager
def one_thread(device: torch.device | str = "cpu") -> Iterator[None]:
    """Run torch on one thread if the device is a CPU; more threads may change the last bits of convolutions."""
    threads = torch.get_num_threads()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
