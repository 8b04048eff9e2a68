"""`rephase train`: train a network on a manifest of rows with real phase, and write a checkpoint."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rephase.config import read_config
from rephase.diffusion.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from rephase.diffusion.devices import choose_device
from rephase.diffusion.networks.unet import ComplexUNet, NetworkConfig
from rephase.diffusion.processes.objective import Objective
from rephase.diffusion.registry import PROCESSES
from rephase.diffusion.training.ranks import Ranks, joined, started_by_torchrun
from rephase.diffusion.training.trainer import Trainer
from rephase.errors import RequestError
from rephase.training.batches import TrainingSlices
from rephase.training.config import BEST, RunConfig, TrainConfig
from rephase.training.dataset import TrainingSet, read_training_set
from rephase.training.run_folder import claim_folder, recipe_hash, recipe_of
from rephase.training.validation import read_scores
from rephase.training.watch import training_progress, watch


def train(config: TrainConfig, device: str = "cpu") -> Path:
    """Train, or resume an interrupted run, and write the checkpoint.

    Parameters
    ----------
    config
        Data, process, network and optimisation.
    device
        "cpu" or "cuda".

    Returns
    -------
    path
        The checkpoint.

    Raises
    ------
    RequestError
        If no row of the manifest is usable for training, or `initial` cannot be loaded.
    """
    process, settings = PROCESSES[config.process], config.settings
    objective = process.make_objective(settings)
    card: dict[str, Any] = {"process": config.process}
    if settings is not None:
        card[config.process] = asdict(settings)
    initial = None
    if config.initial is not None:
        initial = open_checkpoint(config.initial)
        if initial.network.config != config.network:
            raise RequestError(
                f"{config.initial}: its network is {_shown(initial.network.config)}; expected that of the "
                f"configuration, {_shown(config.network)}; use the same [network]"
            )
        card["initial"] = {"name": initial.card.get("name"), "sha256": initial.sha256}
    data = read_data(config, objective)
    return run_training(config, data, config.network, device, initial=initial, objective=objective, card=card)


def read_data(config: RunConfig, objective: Objective) -> TrainingSet:
    """Read the training data of a configuration, on the grid of its objective; errors as `read_training_set`."""
    return read_training_set(
        config.manifest, config.split, config.licences, config.simulation, objective.grid_mm, config.magnitudes
    )


def run_training(
    config: RunConfig,
    data: TrainingSet,
    network: NetworkConfig,
    device: str,
    *,
    initial: Checkpoint | None = None,
    objective: Objective,
    card: dict[str, Any],
    finish: Callable[[ComplexUNet], dict[str, Any]] | None = None,
) -> Path:
    """Train a network for an objective and write its checkpoint; `card` has further entries of the model card.

    `finish` is called with the trained network, by one of the processes that train together; it may change the network,
    and returns further entries of the model card.
    """
    batches = TrainingSlices(data.slices, config.training.pixels, config.training.seed, noisy=config.noise_augmentation)
    start = None if initial is None else initial.network
    path = config.output / f"{config.name}.safetensors"
    card = _describe(config, data, device) | {"network": asdict(network)} | card
    ranks = _ranks()
    if ranks.first and config.training.precision == "bfloat16" and device == "cpu":
        _warn_slow_type()
    recipe = recipe_hash(recipe_of(card))
    with claim_folder(config.output, card) if ranks.first else nullcontext():
        with joined(ranks, device) as own:
            try:
                trainer = Trainer(
                    network, config.training, batches, config.output, own, start, objective, ranks, recipe
                )
            except ValueError as error:  # batches that cannot be divided, or a state that cannot be read
                raise RequestError(str(error)) from error
            watchers = watch(config, data, trainer, card) if ranks.first else []
            with training_progress(trainer.step, config.training.steps, shown=ranks.first) as progress:
                trainer.run(progress, watchers=watchers)
        if ranks.first:
            found = {} if finish is None else finish(trainer.average)
            save_checkpoint(trainer.average, data.gauge, card | found, path)
    return path


def _warn_slow_type() -> None:
    """Warn on CPUs without bfloat16 instructions."""
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        print(  # noqa: T201
            'precision = "bfloat16": this CPU has no instructions for it, a step takes about ten times as long as with '
            '"float32"; use that, with another output',
            file=sys.stderr,
        )


def _shown(network: NetworkConfig) -> str:
    return ", ".join(f"{key} = {value}" for key, value in asdict(network).items())


def _ranks() -> Ranks:
    try:
        return started_by_torchrun()
    except ValueError as error:
        raise RequestError(str(error)) from error


def open_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint that a configuration names.

    Raises
    ------
    RequestError
        If it cannot be used.
    """
    try:
        return load_checkpoint(path)
    except CheckpointError as error:
        raise RequestError(str(error)) from None


def train_command(config_path: Path, device: str | None = None) -> int:
    """Run `rephase train` and return the exit status."""
    config = read_config(config_path, TrainConfig)
    return run_command(config, lambda: train(config, choose_device(device)))


def run_command(config: RunConfig, make: Callable[[], Path]) -> int:
    """Run a training, report its checkpoints or its failure, and return the exit status."""
    try:
        path = make()
    except FloatingPointError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print(f"state saved in {config.output}; the same command resumes", file=sys.stderr)  # noqa: T201
        raise
    if not _ranks().first:
        return 0
    print(f"checkpoint: {path}")  # noqa: T201
    best = config.output / f"{BEST}.safetensors"
    if config.validation_split and best.exists():
        step, loss = min(read_scores(config.output), key=lambda row: row[1])
        print(f"best on {config.validation_split}: {best} (step {step}, loss {loss:.4f})")  # noqa: T201
    return 0


def _describe(config: RunConfig, data: TrainingSet, device: str) -> dict[str, Any]:
    return {
        "name": config.name,
        **config.card,
        "training": asdict(config.training) | {"noise_augmentation": config.noise_augmentation},
        "data": data.facts,
        "seen": data.seen.to_json(),
        "made_with": {"torch": torch.__version__, "device": device, "machine": platform.machine()},
    }
