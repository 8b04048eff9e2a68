"""Parts of the training loop of every experiment."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rephase.data.kspace_slices import KSpaceSlices
from rephase.experiments.settings import TrainingConfig
from rephase.experiments.store import Job

_CURVE_POINTS = 20


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


def fit(
    network: nn.Module,
    loss_of: Callable[..., Tensor],
    data: Any,  # noqa: ANN401 - a mixture
    config: TrainingConfig,
    job: Job,
    device: str,
) -> list[tuple[int, float]]:
    """Train a network for the updates of its job.

    Parameters
    ----------
    network
        Trained in place.
    loss_of
        The loss of a batch, given the tensors of its items.
    data
        Items that are tuples of tensors.
    config, job
        Optimisation; a job that starts from other weights has the lower rate.
    device
        Where the network is.

    Returns
    -------
        Updates and mean loss at up to about 20 places.
    """
    peak = config.learning_rate * (config.finetune_rate if job.start is not None else 1.0)
    optimiser = torch.optim.AdamW(network.parameters(), lr=peak)
    warmup = min(config.warmup, job.steps // 2)
    batches = endless_batches(data, config.batch)
    losses: list[float] = []
    network.train()
    for step in range(job.steps):
        for group in optimiser.param_groups:
            group["lr"] = peak * rate(step, job.steps, warmup)
        loss = loss_of(*(part.to(device) for part in next(batches)))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    every = max(job.steps // _CURVE_POINTS, 1)
    return [
        (start + len(part), round(float(np.mean(part)), 6))
        for start in range(0, job.steps, every)
        if (part := losses[start : start + every])
    ]
