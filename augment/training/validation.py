"""The validation score of a run: the loss on fixed slices with fixed draws."""

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
"""Sources, noises and times that are drawn for each slice."""
HISTORY = "validation.jsonl"


def choose_slices(slices: list[TrainingSlice], count: int) -> list[TrainingSlice]:
    """Choose slices that are evenly spread over all of them."""
    count = min(count, len(slices))
    return [slices[int((index + 0.5) * len(slices) / count)] for index in range(count)]


class Validation:
    """Scores a network; what is drawn is a function of the slice's place, so scores of one run compare.

    The same slices and draws are used each time and nothing is augmented. Lower is better.
    """

    def __init__(self, slices: list[TrainingSlice], objective: Objective, multiple: int) -> None:
        if not slices:
            raise ValueError("no slice to validate on")
        self.objective = objective
        self.prepared = [
            objective.prepare(_repeat(one), 0.0, torch.Generator().manual_seed(index), multiple)
            for index, one in enumerate(slices)
        ]

    @torch.no_grad()
    def score(self, network: ComplexUNet, device: str) -> float:
        """The mean loss over all slices."""
        losses = [
            self.objective.loss(self.objective.error(network, tuple(tensor.to(device) for tensor in tensors)))
            for tensors in self.prepared
        ]
        return float(torch.stack(losses).mean())


def note_score(folder: Path, step: int, score: float) -> bool:
    """Write a score down in the run folder; say whether it is the best of the run."""
    path = folder / HISTORY
    # a run that was interrupted does some steps again
    earlier = [row for row in read_scores(folder) if row[0] < step]
    rows = [*earlier, (step, score)]
    text = "".join(json.dumps({"step": number, "loss": value}) + "\n" for number, value in rows)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return all(score < value for _, value in earlier)


def read_scores(folder: Path) -> list[tuple[int, float]]:
    """Read the scores of a run: steps and losses."""
    return read_losses(folder / HISTORY)


def read_losses(path: Path) -> list[tuple[int, float]]:
    """Read a curve that a run wrote, one JSON object a line; empty where there is none.

    A line that a kill cut short is left out: a curve is looked at, no weights hang on it.
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
