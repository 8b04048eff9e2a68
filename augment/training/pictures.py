"""Pictures of a run: the loss curve, and samples next to real slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rephase.diffusion.generators import Conditions, PhaseGenerator, SliceKey
from rephase.files import replacing
from rephase.pictures import NUM_HUES, phase_index, phase_palette, signal_mask
from rephase.training.batches import TrainingSlice
from rephase.training.validation import read_losses, read_scores

SEEDS = (0, 1)
"""Seeds of the samples of each slice."""
_GAP = 4
_WIDTH, _HEIGHT, _MARGIN, _LEFT = 720, 360, 40, 70
_SMOOTHING = 50


def draw_samples(slices: Sequence[TrainingSlice], generator: PhaseGenerator, path: Path) -> None:
    """Write a picture with a row per slice: magnitude, real phase, and a sample for each of `SEEDS`.

    Phase has the cyclic colours of the report, faded without signal.
    """
    rows = []
    for index, one in enumerate(slices):
        magnitude = one.image.abs()
        conditions = Conditions(one.spacing_mm, _known(one.te_ms), _known(one.field_t))
        phasors = [
            generator.sample_phase(magnitude[None], [SliceKey(seed, "sample", 0, index)], conditions)[0].numpy()
            for seed in SEEDS
        ]
        grey = magnitude.numpy()
        rows.append([_grey(grey), *(_colours(z, signal_mask(grey)) for z in (one.image.numpy(), *phasors))])
    _write(_tile(rows), path)


def draw_losses(folder: Path) -> None:
    """Write `loss.png`: the loss per step, its running mean, and the validation loss in red."""
    losses, scores = read_losses(folder / "loss.jsonl"), read_scores(folder)
    if not losses:
        return
    steps, values = (np.array(part, np.float64) for part in zip(*losses, strict=True))
    window = max(1, min(_SMOOTHING, len(values) // 5))
    means = np.convolve(values, np.ones(window) / window, mode="valid")
    low, high = np.percentile(np.concatenate([values, [score for _, score in scores]]), (0.5, 99.5))
    high = max(high, low + 1e-6)
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    last = max(float(steps[-1]), 1.0)

    def place(step: float, value: float) -> tuple[float, float]:
        part = min(max((value - low) / (high - low), 0.0), 1.0)
        return _LEFT + step / last * (_WIDTH - _LEFT - _MARGIN), _HEIGHT - _MARGIN - part * (_HEIGHT - 2 * _MARGIN)

    draw.point([place(*point) for point in zip(steps, values, strict=True)], fill="#bbbbbb")
    draw.line([place(*point) for point in zip(steps[window - 1 :], means, strict=True)], fill="black", width=2)
    for x, y in (place(*point) for point in scores):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill="#cc2222")
    _draw_axes(draw, place, last, (low, high))
    _write(picture, folder / "loss.png")


def _draw_axes(
    draw: ImageDraw.ImageDraw,
    place: Callable[[float, float], tuple[float, float]],
    last: float,
    ends: tuple[float, float],
) -> None:
    """Draw both axes with ticks at round numbers, their titles and a legend."""
    low, high = ends
    left, bottom = place(0.0, low)
    right, top = place(last, high)
    draw.line([(left, top), (left, bottom), (right, bottom)], fill="black")
    for value in _ticks(low, high):
        y = place(0.0, value)[1]
        draw.line([(left - 4, y), (left, y)], fill="black")
        draw.text((left - 7, y), f"{value:.4g}", fill="black", anchor="rm")
    for step in _ticks(0.0, last):
        x = place(step, low)[0]
        draw.line([(x, bottom), (x, bottom + 4)], fill="black")
        draw.text((x, bottom + 7), f"{step:.6g}", fill="black", anchor="mt")
    draw.text(((left + right) / 2, _HEIGHT - 6), "training step", fill="black", anchor="mb")
    draw.text((left, 6), "loss: grey per step, black running mean, red validation", fill="black", anchor="lt")


def _ticks(low: float, high: float) -> list[float]:
    """Return three to seven round numbers between two."""
    raw = max(high - low, 1e-12) / 5
    size = 10.0 ** np.floor(np.log10(raw))
    step = float(size * min(one for one in (1.0, 2.0, 5.0, 10.0) if one * size >= raw))
    return [float(number * step) for number in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _grey(magnitude: NDArray[np.float32]) -> NDArray[np.uint8]:
    white = max(float(np.percentile(magnitude, 99.5)), float(np.finfo(np.float32).tiny))
    grey: NDArray[np.uint8] = np.rint(255 * np.clip(magnitude / white, 0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _colours(image: NDArray[np.complex64], signal: NDArray[np.bool_]) -> NDArray[np.uint8]:
    colours: NDArray[np.uint8] = phase_palette()[phase_index(image) + NUM_HUES * (~signal).astype(np.uint8)]
    return colours


def _tile(rows: list[list[NDArray[np.uint8]]]) -> Image.Image:
    height = sum(row[0].shape[0] + _GAP for row in rows) - _GAP
    width = max(sum(part.shape[1] + _GAP for part in row) for row in rows) - _GAP
    picture = Image.new("RGB", (width, height), "white")
    top = 0
    for row in rows:
        left = 0
        for part in row:
            picture.paste(Image.fromarray(part), (left, top))
            left += part.shape[1] + _GAP
        top += row[0].shape[0] + _GAP
    return picture


def _write(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        picture.save(partial, format="PNG")
