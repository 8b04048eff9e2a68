"""`rephase distill`: distil a trained network to a student with 1, 2 or 4 network evaluations (NFE) per slice."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from rephase.config import read_config
from rephase.diffusion.devices import choose_device
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.registry import PROCESSES, process_of
from rephase.errors import RequestError
from rephase.training.batches import TrainingSlices
from rephase.training.config import DistillConfig
from rephase.training.train import open_checkpoint, read_data, run_command, run_training

_GAIN_BATCHES = 8


def distill(config: DistillConfig, device: str = "cpu") -> Path:
    """Distil, or resume an interrupted run, and write the checkpoint of the student.

    The student keeps architecture and measured gauge of the teacher. Its card contains its number of network
    evaluations, which samplers use by default. The energy score needs only the weights of a teacher, so a student can
    be distilled further.

    Parameters
    ----------
    config
        Teacher, data and optimisation.
    device
        "cpu" or "cuda".

    Returns
    -------
    path
        The checkpoint.

    Raises
    ------
    RequestError
        If no row of the manifest is usable for training, or the teacher cannot be loaded.
    """
    teacher = open_checkpoint(config.teacher)
    process = process_of(teacher)
    if process.distil is None or process.config is None:
        known = " or ".join(name for name, one in PROCESSES.items() if one.distil)
        raise RequestError(f"{config.teacher}: process {teacher.process!r}; expected {known}; name another teacher")
    objective = process.distil(teacher.settings(process.config), config.distillation)
    data = read_data(config, objective)
    data = replace(data, gauge=teacher.gauge)
    network = teacher.network.config
    facts = asdict(config.distillation) | {"teacher": {"name": teacher.card.get("name"), "sha256": teacher.sha256}}
    card: dict[str, Any] = {"process": teacher.process, teacher.process: asdict(objective.flow)}
    card |= {"steps": config.distillation.evaluations, "distillation": facts}

    def finish(student: ComplexUNet) -> dict[str, Any]:
        _keep(student, teacher.network, config.distillation.kept)
        batches = TrainingSlices(data.slices, config.training.pixels, config.training.seed, noisy=0.0)
        later = (batches(config.training.steps + index) for index in range(_GAIN_BATCHES))
        return {"distillation": facts | objective.measure(student.to(device), later, config.training.seed)}

    return run_training(config, data, network, device, initial=teacher, objective=objective, card=card, finish=finish)


@torch.no_grad()
def _keep(student: ComplexUNet, start: ComplexUNet, share: float) -> None:
    """Average the student with its initial weights, in place; `share` is the weight of the latter."""
    for learned, before in zip(student.parameters(), start.parameters(), strict=True):
        learned.lerp_(before.to(learned.device), share)


def distill_command(config_path: Path, device: str | None = None) -> int:
    """Run `rephase distill` and return the exit status."""
    config = read_config(config_path, DistillConfig)
    return run_command(config, lambda: distill(config, choose_device(device)))
