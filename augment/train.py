"""`phasegen train`: from a configuration and a manifest of rows with real phase to a checkpoint."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from augment.errors import RequestError
from augment.train_config import RunConfig, TrainConfig, read_config
from augment.training_data import TrainingSlices
from augment.training_set import TrainingSet, read_training_set
from augment.training_watch import watch
from diffusion.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from diffusion.ddpm import DdpmObjective
from diffusion.network import NetworkConfig
from diffusion.objective import FlowObjective, Objective
from diffusion.ranks import joined, started_by_torchrun
from diffusion.regression import RegressionObjective
from diffusion.training import Trainer


def train(config: TrainConfig, device: str = "cpu") -> Path:
    """Train, or go on with a run that was interrupted, and write the checkpoint.

    Parameters
    ----------
    config
        What to train on and how.
    device
        "cpu" or "cuda".

    Returns
    -------
    path
        Of the checkpoint.

    Raises
    ------
    RequestError
        No row of the manifest can be trained on, or `initial` cannot be used.
    """
    card: dict[str, Any] = {"process": config.process}
    objective: Objective = FlowObjective()
    if config.process == "ddpm":
        objective, card["ddpm"] = DdpmObjective(config.ddpm), asdict(config.ddpm)
    elif config.process == "regression":
        objective = RegressionObjective()
    initial = None
    if config.initial is not None:
        initial = open_checkpoint(config.initial)
        card["initial"] = {"name": initial.card.get("name"), "sha256": initial.sha256}
    data = read_training_set(config.manifest, config.split)
    return run_training(config, data, config.network, device, initial=initial, objective=objective, card=card)


def run_training(
    config: RunConfig,
    data: TrainingSet,
    network: NetworkConfig,
    device: str,
    *,
    initial: Checkpoint | None = None,
    objective: Objective,
    card: dict[str, Any],
) -> Path:
    """Train a network for an objective and write its checkpoint; `card` adds to the model card."""
    batches = TrainingSlices(data.slices, config.training.pixels, config.training.seed)
    start = None if initial is None else initial.network
    path = config.output / f"{config.name}.safetensors"
    card = _describe(config, data, device) | card
    try:
        ranks = started_by_torchrun()
        with joined(ranks, device) as own:
            trainer = Trainer(network, config.training, batches, config.output, own, start, objective, ranks)
            watchers = watch(config, data, trainer, card) if ranks.first else []
            with _bar(trainer) as progress:
                trainer.run(progress, watchers=watchers)
    except ValueError as error:
        raise RequestError(f"training: {error}") from error
    if ranks.first:
        save_checkpoint(trainer.average, data.gauge, card, path)
    return path


def open_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint that a configuration names.

    Raises
    ------
    RequestError
        It cannot be used.
    """
    try:
        return load_checkpoint(path)
    except CheckpointError as error:
        raise RequestError(str(error)) from None


def train_command(config_path: Path, device: str | None = None) -> int:
    """Run `phasegen train`; the exit status."""
    path = train(read_config(config_path, TrainConfig), device or default_device())
    print(f"checkpoint: {path}")  # noqa: T201
    return 0


def default_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _bar(trainer: Trainer) -> Iterator[Callable[[int, float], None]]:
    """Give a `progress(step, loss)` that draws a bar with a running mean of the loss."""
    mean = math.nan
    with tqdm(
        desc="training",
        unit="step",
        total=trainer.config.steps,
        initial=trainer.step,
        disable=None if trainer.ranks.first else True,
        mininterval=1.0,
    ) as bar:

        def progress(step: int, loss: float) -> None:
            nonlocal mean
            mean = loss if math.isnan(mean) else 0.98 * mean + 0.02 * loss
            bar.set_postfix_str(f"loss {mean:.3f}", refresh=False)
            bar.update()

        yield progress


def _describe(config: RunConfig, data: TrainingSet, device: str) -> dict[str, Any]:
    return {
        "name": config.name,
        **config.card,
        "training": asdict(config.training),
        "data": data.facts,
        "made_with": {"torch": torch.__version__, "device": device, "machine": platform.machine()},
    }
