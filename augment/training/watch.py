"""Monitoring of a training: validation loss, best checkpoint, pictures, progress."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from rephase.diffusion.checkpoint import Checkpoint, save_checkpoint
from rephase.diffusion.registry import make_learned
from rephase.diffusion.training.trainer import Trainer
from rephase.training.batches import TrainingSlice
from rephase.training.config import BEST, RunConfig
from rephase.training.dataset import TrainingSet, read_training_set
from rephase.training.pictures import draw_losses, draw_samples
from rephase.training.validation import Validation, choose_slices, note_score

PICTURED = 4
"""Slices per picture."""
MOST_STEPS = 50
"""Largest number of network evaluations per slice in pictures: they must not cost more than the training."""


def watch(
    config: RunConfig, data: TrainingSet, trainer: Trainer, card: dict[str, Any]
) -> list[tuple[int, Callable[[], None]]]:
    """Return the watchers of a run for `Trainer.run`, each with its interval; `card` is the model card.

    Raises
    ------
    RequestError
        If no row of the validation split can be used.
    """
    watchers: list[tuple[int, Callable[[], None]]] = []
    slices = data.slices
    if config.validation_split:
        seen = read_training_set(config.manifest, config.validation_split, grid_mm=trainer.objective.grid_mm)
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
    checkpoint = Checkpoint(trainer.average, card["process"], data.gauge, "", card)
    generator = make_learned(checkpoint, None, trainer.device)
    if generator.nfe > MOST_STEPS:
        generator = make_learned(checkpoint, MOST_STEPS, trainer.device)
    draw_samples(slices, generator, trainer.folder / "samples" / f"{trainer.step:06d}.png")


Progress = Callable[[int, float], None]
LINE_SECONDS = 60.0
"""Interval of progress lines without a terminal."""
_LINE = "{desc}: {n_fmt} of {total_fmt} steps [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


@contextmanager
def training_progress(step: int, steps: int, *, shown: bool = True) -> Iterator[Progress]:
    """Yield a `progress(step, loss)` that shows steps, remaining time and a running mean of the loss on stderr.

    Parameters
    ----------
    step
        First step, larger than 0 if resumed.
    steps
        Number of steps.
    shown
        False for all but one of several processes.
    """
    terminal = sys.stderr.isatty()
    with tqdm(
        desc="training", unit="step", total=steps, initial=step, disable=not (shown and terminal), mininterval=1.0
    ) as bar:
        show = _on(bar) if terminal else _lines(step, steps)
        mean = math.nan

        def progress(step: int, loss: float) -> None:
            nonlocal mean
            mean = loss if math.isnan(mean) else 0.98 * mean + 0.02 * loss
            if shown:
                show(step + 1, f"loss {mean:.3f}")

        yield progress


def _on(bar: tqdm[None]) -> Callable[[int, str], None]:
    def show(done: int, note: str) -> None:
        bar.set_postfix_str(note, refresh=False)
        bar.update(done - bar.n)

    return show


def _lines(start: int, steps: int) -> Callable[[int, str], None]:
    began = said = time.monotonic()

    def show(done: int, note: str) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= LINE_SECONDS or done == steps:
            said = now
            elapsed = now - began
            print(  # noqa: T201
                tqdm.format_meter(
                    done, steps, elapsed, prefix="training", unit="step", postfix=note, initial=start, bar_format=_LINE
                ),
                file=sys.stderr,
                flush=True,
            )

    return show
