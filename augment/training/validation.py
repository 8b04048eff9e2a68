"""The validation loss of a run, on fixed slices with fixed random numbers."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import torch

from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.processes.objective import Batch, Objective
from rephase.files import replacing
from rephase.training.batches import TrainingSlice

DRAWS = 4
"""Samples of source, noise and time per slice."""
HISTORY = "validation.jsonl"


def choose_slices(slices: list[TrainingSlice], count: int) -> list[TrainingSlice]:
    """Return `count` evenly spaced slices."""
    count = min(count, len(slices))
    return [slices[int((index + 0.5) * len(slices) / count)] for index in range(count)]


class Validation:
    """Computes the validation loss of a network, without augmentation.

    Random numbers depend only on the position of the slice, so that the losses of a run can be compared.
    """

    def __init__(self, slices: list[TrainingSlice], objective: Objective, multiple: int) -> None:
        if not slices:
            raise ValueError("no slice to validate on; expected one or more")
        self.objective = objective
        self.prepared = [
            objective.prepare(_repeat(one), 0.0, torch.Generator().manual_seed(index), multiple)
            for index, one in enumerate(slices)
        ]

    @torch.no_grad()
    def score(self, network: ComplexUNet, device: str) -> float:
        """Return the mean loss over all slices."""
        losses = [
            self.objective.loss(self.objective.error(network, tuple(tensor.to(device) for tensor in tensors)))
            for tensors in self.prepared
        ]
        return float(torch.stack(losses).mean())


def note_score(folder: Path, step: int, score: float) -> bool:
    """Append a score to the run folder; return whether it is the best of the run."""
    path = folder / HISTORY
    # a resumed run repeats some steps
    earlier = [row for row in read_scores(folder) if row[0] < step]
    rows = [*earlier, (step, score)]
    text = "".join(json.dumps({"step": number, "loss": value}) + "\n" for number, value in rows)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return all(score < value for _, value in earlier)


def read_scores(folder: Path) -> list[tuple[int, float]]:
    """Read the validation losses of a run, as steps and losses."""
    return read_losses(folder / HISTORY)


def read_losses(path: Path) -> list[tuple[int, float]]:
    """Read a curve of a run, one JSON object per line; empty without a file.

    Truncated lines are ignored: the curve is only plotted.
    """
    if not path.exists():
        return []
    points = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            points.append((int(row["step"]), float(row["loss"])))
    return points


def _repeat(one: TrainingSlice) -> Batch:
    conditions = torch.tensor([*one.spacing_mm, one.te_ms, one.field_t], dtype=torch.float32)
    return Batch(one.image.expand(DRAWS, -1, -1).clone(), conditions.expand(DRAWS, -1).clone())
