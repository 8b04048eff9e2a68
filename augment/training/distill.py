"""`rephase distill`: from a trained network to one that needs 1, 2 or 4 evaluations."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rephase.diffusion.checkpoint import Checkpoint, CheckpointError
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.physics.source import FatGuess
from rephase.diffusion.processes.distillation import make_objective, measure_noise_gain
from rephase.diffusion.processes.fat import fat_facts, fat_guess, fat_guess_of
from rephase.errors import RequestError
from rephase.training.batches import TrainingSlices
from rephase.training.config import DistillConfig, read_config
from rephase.training.dataset import TrainingSet, read_training_set
from rephase.training.train import choose_device, conclude, open_checkpoint, run_training

_GAIN_BATCHES = 8


def distill(config: DistillConfig, device: str = "cpu") -> Path:
    """Distil, or go on with a run that was interrupted, and write the student's checkpoint.

    The student keeps the teacher's architecture and measured gauge. The number of its evaluations is in its card and is
    what a sampler takes where none is asked for. The energy score takes no more of a teacher than its weights, so by
    it a student can be taught further.

    Parameters
    ----------
    config
        Whose student, on what data, and how.
    device
        "cpu" or "cuda".

    Returns
    -------
    path
        Of the checkpoint.

    Raises
    ------
    RequestError
        No row of the manifest can be trained on, or the teacher cannot be used.
    """
    teacher = open_checkpoint(config.teacher)
    if teacher.process != "flow":
        raise RequestError(f"{config.teacher}: its process is {teacher.process}; expected flow; name another teacher")
    if "distillation" in teacher.card and config.distillation.method != "energy":
        raise RequestError(
            f"{config.teacher}: is itself a student; expected a trained teacher, whose path can be followed; name that "
            'one, or teach the student further with method = "energy"'
        )
    flow = replace(teacher.flow, source=config.distillation.source or teacher.flow.source)
    if config.distillation.method != "energy":  # the teacher is followed from its own source
        _check_fat(teacher, config.teacher)
    fat = fat_guess(flow.source, torch.device("cpu"))
    data = read_training_set(config.manifest, config.split, config.licences, config.simulation, flow.grid_mm, fat)
    data = replace(data, gauge=teacher.gauge)
    network = teacher.network.config
    facts = asdict(config.distillation) | {"teacher": {"name": teacher.card.get("name"), "sha256": teacher.sha256}}
    card = {"steps": config.distillation.evaluations, "flow": asdict(flow), "distillation": facts}
    card |= fat_facts(flow.source)

    def finish(student: ComplexUNet) -> dict[str, Any]:
        _keep(student, teacher.network, config.distillation.kept)
        gain = _noise_gain(student.to(device), config, data, flow.source, fat)
        return {"distillation": facts | {"noise_gain": gain}}

    objective = make_objective(teacher.network, config.distillation, flow.source, fat)
    return run_training(config, data, network, device, initial=teacher, objective=objective, card=card, finish=finish)


def _check_fat(teacher: Checkpoint, path: Path) -> None:
    try:
        fat_guess_of(teacher, torch.device("cpu"))
    except CheckpointError as error:
        raise RequestError(f"{path}: {error}") from None


@torch.no_grad()
def _keep(student: ComplexUNet, start: ComplexUNet, share: float) -> None:
    """Bring a student back by a share of its way from where it started."""
    for learned, before in zip(student.parameters(), start.parameters(), strict=True):
        learned.lerp_(before.to(learned.device), share)


def _noise_gain(
    student: ComplexUNet, config: DistillConfig, data: TrainingSet, source: str, fat: FatGuess | None
) -> float:
    batches = TrainingSlices(data.slices, config.training.pixels, config.training.seed, noisy=0.0)
    later = (batches(config.training.steps + index) for index in range(_GAIN_BATCHES))
    return measure_noise_gain(student, later, config.distillation.evaluations, config.training.seed, source, fat)


def distill_command(config_path: Path, device: str | None = None) -> int:
    """Run `rephase distill`; the exit status."""
    config = read_config(config_path, DistillConfig)
    return conclude(config, lambda: distill(config, choose_device(device)))
