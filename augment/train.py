"""`phasegen train`: from a configuration and a manifest of rows with real phase to a checkpoint."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from augment.errors import RequestError
from augment.train_config import RunConfig, TrainConfig, read_config
from augment.training_data import TrainingSlices
from augment.training_set import TrainingSet, read_training_set
from diffusion.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from diffusion.network import NetworkConfig
from diffusion.objective import Objective
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
    card: dict[str, Any] = {}
    initial = None
    if config.initial is not None:
        initial = open_checkpoint(config.initial)
        card["initial"] = {"name": initial.card.get("name"), "sha256": initial.sha256}
    data = read_training_set(config.manifest, config.split)
    return run_training(config, data, config.network, device, initial=initial, card=card)


def run_training(
    config: RunConfig,
    data: TrainingSet,
    network: NetworkConfig,
    device: str,
    *,
    initial: Checkpoint | None = None,
    objective: Objective | None = None,
    card: dict[str, Any],
) -> Path:
    """Train a network for an objective and write its checkpoint; `card` adds to the model card."""
    batches = TrainingSlices(data.slices, config.training.pixels, config.training.seed)
    start = None if initial is None else initial.network
    trainer = Trainer(network, config.training, batches, config.output, device, start, objective)
    trainer.run(_progress)
    path = config.output / f"{config.name}.safetensors"
    save_checkpoint(trainer.average, data.gauge, _describe(config, data, device) | card, path)
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


def _progress(steps: Iterable[int]) -> Iterable[int]:
    progress: Iterable[int] = tqdm(steps, desc="training", unit="step", disable=None, mininterval=1.0)
    return progress


def _describe(config: RunConfig, data: TrainingSet, device: str) -> dict[str, Any]:
    return {
        "name": config.name,
        **config.card,
        "training": asdict(config.training),
        "data": data.facts,
        "made_with": {"torch": torch.__version__, "device": device, "machine": platform.machine()},
    }
