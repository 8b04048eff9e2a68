"""What is looked at while a network trains: validation scores, the best checkpoint, pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from augment.train_config import BEST, RunConfig
from augment.training_data import TrainingSlice
from augment.training_pictures import draw_losses, draw_samples
from augment.training_set import TrainingSet, read_training_set
from augment.validation import Validation, choose_slices, note_score
from diffusion.checkpoint import Checkpoint, save_checkpoint
from diffusion.flow import FlowConfig
from diffusion.select import make_learned
from diffusion.training import Trainer

PICTURED = 4
"""Slices in a picture of samples."""
MOST_STEPS = 50
"""Evaluations a slice in pictures: a look at a process of many steps must not cost more than its training."""


def watch(
    config: RunConfig, data: TrainingSet, trainer: Trainer, card: dict[str, Any]
) -> list[tuple[int, Callable[[], None]]]:
    """Make the watchers of a run, for `Trainer.run`; `card` is the model card of its checkpoints.

    Raises
    ------
    RequestError
        No row of the validation split can be used.
    """
    watchers: list[tuple[int, Callable[[], None]]] = []
    slices = data.slices
    if config.validation_split:
        grid_mm = FlowConfig(**card.get("flow", {})).grid_mm
        seen = read_training_set(config.manifest, config.validation_split, grid_mm=grid_mm)
        slices = choose_slices(seen.slices, config.validation_slices)
        validation = Validation(slices, trainer.objective, trainer.network.config.multiple)
        watchers.append((config.validate_every, lambda: _validate(validation, trainer, data, card)))
    if config.picture_every:
        pictured = choose_slices(slices, PICTURED)
        watchers.append((config.picture_every, lambda: _draw(pictured, trainer, data, card)))
    return watchers


def _validate(validation: Validation, trainer: Trainer, data: TrainingSet, card: dict[str, Any]) -> None:
    score = validation.score(trainer.average, trainer.device)
    if note_score(trainer.folder, trainer.step, score):
        best = card | {"best": {"step": trainer.step, "validation_loss": score}}
        save_checkpoint(trainer.average, data.gauge, best, trainer.folder / f"{BEST}.safetensors")


def _draw(slices: list[TrainingSlice], trainer: Trainer, data: TrainingSet, card: dict[str, Any]) -> None:
    draw_losses(trainer.folder)
    checkpoint = Checkpoint(trainer.average, card.get("process", "flow"), data.gauge, "", card)
    steps = min(MOST_STEPS, card["ddpm"]["timesteps"]) if checkpoint.process == "ddpm" else None
    generator = make_learned(checkpoint, steps, trainer.device)
    draw_samples(slices, generator, trainer.folder / "samples" / f"{trainer.step:06d}.png")
