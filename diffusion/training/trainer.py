"""The training loop of all processes, from batches to a network and its moving average.

The batch and the noise of a step are functions of the seed and the step's number alone, so a run that was interrupted
and resumed follows the same loss curve.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rephase.config import Count, NonNegative, Positive, Share, Whole
from rephase.diffusion.checkpoint import write_tensors
from rephase.diffusion.networks.unet import ComplexUNet, NetworkConfig
from rephase.diffusion.processes.flow import FlowObjective
from rephase.diffusion.processes.objective import Batch, Objective
from rephase.diffusion.training.prefetch import prefetch
from rephase.diffusion.training.ranks import Ranks
from rephase.text import one_line


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the training of a network; stored with the checkpoint."""

    steps: Count = 10_000
    """Optimiser steps."""
    pixels: Count = 131_072
    """Size of a batch in pixels: as many slices as fit."""
    learning_rate: Positive = 1e-3
    """Largest learning rate; see `learning_rate`."""
    warmup: Whole = 200
    """Steps in which the learning rate grows from 0."""
    weight_decay: NonNegative = 1e-3
    """Weight decay of AdamW."""
    clip: Positive = 1.0
    """Largest norm of the gradient."""
    ema: Share = 0.999
    """Decay of the moving average of the weights; the average is saved."""
    condition_dropout: Share = 0.3
    """Probability with which each condition (spacing, echo time, field strength) is set to unknown in training."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the convolutions."""
    seed: Whole = 0
    """Random seed."""
    save_every: Count = 500
    """Steps between two saved states."""
    batches: Count = 1
    """Batches per step, which several processes share."""
    prefetch: Whole = 4
    """Batches that are prepared ahead, each by a thread; no effect on the result."""


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to a hundredth."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))))


Progress = Callable[[int, float], None]


STATES = ("state.safetensors", "state.previous.safetensors")
"""The last saved state of a run, and the one before."""


class Trainer:
    """Network, moving average and optimiser of one run, stored in a run folder.

    `batches(number)` returns a batch; step n uses `config.batches` of them, from number `n * config.batches` on.
    `initial` is a network to start from; `objective` is that of the flow if None; `ranks` are the processes that train
    together; `recipe` is noted in the state. The folder contains `state.safetensors` (for resuming), the state before
    it, `ema.safetensors` (the weights to use) and `loss.jsonl`.
    """

    def __init__(
        self,
        network: NetworkConfig,
        config: TrainingConfig,
        batches: Callable[[int], Batch],
        folder: Path,
        device: str = "cpu",
        initial: ComplexUNet | None = None,
        objective: Objective | None = None,
        ranks: Ranks | None = None,
        recipe: str = "",
    ) -> None:
        self.objective, self.ranks, self.recipe = objective or FlowObjective(), ranks or Ranks(), recipe
        if config.batches % self.ranks.count:
            raise ValueError(f"batches = {config.batches}: expected a multiple of the {self.ranks.count} processes")
        self.config, self.batches, self.folder, self.device = config, batches, folder, device
        torch.manual_seed(config.seed)  # only for the initial weights
        self.network = ComplexUNet(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if initial is not None:
            self.network.load_state_dict(initial.state_dict())
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if any((folder / name).exists() for name in STATES):
            self._load()

    def run(
        self,
        progress: Progress | None = None,
        until: int | None = None,
        watchers: Sequence[tuple[int, Callable[[], None]]] = (),
    ) -> None:
        """Train up to the configured number of steps (or `until`), saving at intervals and at the end.

        `progress(step, loss)` is called after every step; a watcher `(every, function)` in the first process, every
        `every` steps.
        """
        end = min(until or self.config.steps, self.config.steps)
        losses: list[dict[str, float]] = []
        with closing(self._prepared(end)) as prepared:
            for step in range(self.step, end):
                loss = self._advance(step, prepared)
                if not math.isfinite(loss):
                    raise FloatingPointError(f"step {step}: the loss is {loss}; lower learning_rate or use float32")
                losses.append({"step": step, "loss": loss})
                self.step = step + 1
                if progress is not None:
                    progress(step, loss)
                if self.step % self.config.save_every == 0 or self.step == end:
                    self._save(losses)
                    losses = []
                for every, watcher in watchers:
                    if self.ranks.first and (self.step % every == 0 or self.step == self.config.steps):
                        watcher()

    def _prepared(self, end: int) -> Generator[tuple[Tensor, ...], None, None]:
        """Yield the prepared batches of this process for all steps up to `end`."""
        count = self.config.batches
        numbers = range(self.step * count + self.ranks.index, end * count, self.ranks.count)
        return prefetch(self._prepare, numbers, self.config.prefetch)

    def _prepare(self, number: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed((self.config.seed << 32) + number)
        dropout, multiple = self.config.condition_dropout, self.network.config.multiple
        tensors = self.objective.prepare(self.batches(number), dropout, generator, multiple)
        # only pinned memory is copied to a GPU without blocking
        return tuple(tensor.pin_memory() for tensor in tensors) if self.device.startswith("cuda") else tensors

    def _advance(self, step: int, prepared: Iterator[tuple[Tensor, ...]]) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, self.config)
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for _ in range(self.config.batches // self.ranks.count):
            loss = self._loss(next(prepared)) / self.config.batches
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        gradients = [value.grad for value in self.network.parameters() if value.grad is not None]
        self.ranks.add_up([*gradients, total])
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimiser.step()
        self._follow(step)
        return float(total)

    def _loss(self, tensors: tuple[Tensor, ...]) -> Tensor:
        tensors = tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)
        half = self.config.precision == "bfloat16"
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=half):
            error = self.objective.error(self.network, tensors)
        return self.objective.loss(error)

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        decay = min(self.config.ema, (1.0 + step) / (10.0 + step))
        for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value, 1.0 - decay)

    def _save(self, losses: list[dict[str, float]]) -> None:
        if not self.ranks.first:
            return
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        names = [name for name, _ in self.network.named_parameters()]
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{names[index]}.{key}": torch.as_tensor(value) for key, value in state.items()}
        state, previous = (self.folder / name for name in STATES)
        if state.exists():  # kept until the new one is complete, and after it in case that one is damaged
            state.replace(previous)
        write_tensors(tensors | {"step": torch.tensor(self.step)}, state, {"recipe": self.recipe})
        write_tensors(self.average.state_dict(), self.folder / "ema.safetensors")
        with (self.folder / "loss.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in losses)

    def _load(self) -> None:
        error: Exception | None = None
        for path in (self.folder / name for name in STATES):
            try:
                self._restore(load_file(path, device=self.device))
                break
            except (SafetensorError, OSError, KeyError, RuntimeError) as found:
                error = error or found
        else:
            where = self.folder / STATES[0]
            raise ValueError(
                f"{where}: cannot be resumed ({one_line(error or '')}); expected the state of a run of this network; "
                "choose another output"
            ) from error
        if self.step > self.config.steps:
            raise ValueError(
                f"{path}: has made {self.step} steps; expected at most steps = {self.config.steps}; set steps to no "
                "less, or choose another output"
            )

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self.step = int(tensors.pop("step"))
        for part, module in (("network.", self.network), ("average.", self.average)):
            module.load_state_dict({k.removeprefix(part): v for k, v in tensors.items() if k.startswith(part)})
        state = self.optimiser.state_dict()
        keys = ("step", "exp_avg", "exp_avg_sq")
        state["state"] = {
            index: {key: tensors[f"optimiser.{name}.{key}"] for key in keys}
            for index, (name, _) in enumerate(self.network.named_parameters())
            if self.step
        }
        self.optimiser.load_state_dict(state)
