"""The training loop of all processes: batches in, a network and its moving average out.

The batch and the noise of a step are functions of the seed and the step's number alone, so a run that was interrupted
and resumed follows the same loss curve.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffusion.network import ComplexUNet, NetworkConfig
from diffusion.objective import Batch, FlowObjective, Objective


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained; stored with the checkpoint.

    `pixels` is the size of a batch in pixels: a batch holds as many slices as fit. `precision` is the type in which
    convolutions run: "float32" or "bfloat16".
    """

    steps: int = 10_000
    pixels: int = 131_072
    learning_rate: float = 1e-3
    warmup: int = 200
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema: float = 0.999
    condition_dropout: float = 0.3
    precision: str = "float32"
    seed: int = 0
    save_every: int = 500

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision {self.precision!r}: expected float32 or bfloat16")
        if min(self.steps, self.pixels, self.save_every) < 1 or self.learning_rate <= 0:
            raise ValueError("steps, pixels, save_every and learning_rate: expected positive numbers")


_ERROR_FLOOR = 1e-3


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return config.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0))))


class Trainer:
    """Network, moving average and optimiser of one run, which live in a run folder.

    `batches(step)` gives the batch of a step; `initial` holds weights to start from; `objective` is the flow where
    None. The folder holds `state.safetensors` (everything that resuming needs), `ema.safetensors` (the weights to use)
    and `loss.jsonl`.
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
    ) -> None:
        self.objective = objective or FlowObjective()
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
        if (folder / "state.safetensors").exists():
            self._load()

    def run(self, progress: Callable[[Iterable[int]], Iterable[int]] = iter, until: int | None = None) -> None:
        """Train up to the configured number of steps (or `until`), saving at intervals and at the end."""
        losses: list[dict[str, float]] = []
        for step in progress(range(self.step, min(until or self.config.steps, self.config.steps))):
            loss = self._advance(step)
            if not math.isfinite(loss):
                raise FloatingPointError(f"step {step}: the loss is {loss}; lower learning_rate or use float32")
            losses.append({"step": step, "loss": loss})
            self.step = step + 1
            if self.step % self.config.save_every == 0:
                self._save(losses)
                losses = []
        self._save(losses)

    def _advance(self, step: int) -> float:
        generator = torch.Generator().manual_seed((self.config.seed << 32) + step)
        tensors = self.objective.prepare(
            self.batches(step), self.config.condition_dropout, generator, self.network.config.multiple
        )
        tensors = tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, self.config)
        half = self.config.precision == "bfloat16"
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=half):
            error = self.objective.error(self.network, tensors)
        # the logarithm gives clean slices, whose errors are small, the same say as noisy ones
        loss = torch.log(error + _ERROR_FLOOR).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimiser.step()
        self._follow(step)
        return float(loss.detach())

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        decay = min(self.config.ema, (1.0 + step) / (10.0 + step))
        for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value, 1.0 - decay)

    def _save(self, losses: list[dict[str, float]]) -> None:
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        names = [name for name, _ in self.network.named_parameters()]
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{names[index]}.{key}": torch.as_tensor(value) for key, value in state.items()}
        _write(tensors | {"step": torch.tensor(self.step)}, self.folder / "state.safetensors")
        _write(self.average.state_dict(), self.folder / "ema.safetensors")
        with (self.folder / "loss.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in losses)

    def _load(self) -> None:
        tensors = load_file(self.folder / "state.safetensors", device=self.device)
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


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    """Write beside and rename, so that an interrupted write leaves the old file."""
    partial = path.with_suffix(".partial")
    save_file({name: value.contiguous().cpu() for name, value in tensors.items()}, partial)
    partial.replace(path)
