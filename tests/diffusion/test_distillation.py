import math

import pytest
import torch
from tiny_network import TINY

from rephase.config import ConfigError, from_mapping
from rephase.diffusion.checkpoint import Checkpoint
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.processes.distillation import (
    DistillationConfig,
    EnergyObjective,
    measure_noise_gain,
)
from rephase.diffusion.processes.flow import FlowConfig, FlowGenerator, noise_gain, time_grid
from rephase.diffusion.processes.objective import Batch
from rephase.diffusion.training.trainer import Trainer, TrainingConfig

UNKNOWN = torch.full((2, 4), math.nan)


def teacher(seed: int = 0) -> ComplexUNet:
    torch.manual_seed(seed)
    return ComplexUNet(TINY).eval().requires_grad_(False)


def batch(step: int = 0) -> Batch:
    y, x = torch.linspace(-1, 1, 16)[:, None], torch.linspace(-1, 1, 16)
    magnitude = torch.exp(-2 * (x**2 + y**2))
    image = torch.stack([torch.polar(magnitude, (2 + k) * magnitude) for k in range(2)])
    return Batch(image, UNKNOWN)


def prepared(objective, seed: int = 0) -> tuple[torch.Tensor, ...]:
    return objective.prepare(batch(), 0.0, torch.Generator().manual_seed(seed), TINY.multiple)


def test_distillation_lowers_the_energy_score(tmp_path):
    torch.manual_seed(0)
    knowing = Trainer(TINY, _config(60, 3e-3), batch, tmp_path / "teacher")
    knowing.run()
    objective = EnergyObjective(FlowConfig(), DistillationConfig(2))
    tensors = prepared(objective, 99)
    assert len(tensors[0]) == 4 and torch.equal(tensors[1][:2], tensors[1][2:])  # two draws of each slice
    assert not torch.equal(tensors[0][:2], tensors[0][2:])
    config = _config(80, 2e-3)
    student = Trainer(TINY, config, batch, tmp_path / "student", initial=knowing.average, objective=objective)
    before = float(objective.error(knowing.average, tensors).mean())
    student.run()
    assert float(objective.error(student.average, tensors).mean()) < 0.8 * before


def _config(steps: int, rate: float) -> TrainingConfig:
    return TrainingConfig(steps=steps, learning_rate=rate, warmup=5, ema=0.9, condition_dropout=0.0, save_every=1000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations": 0}, "evaluations"),
        ({"evaluations": True}, "evaluations"),
        ({"evaluations": 5000}, "evaluations"),
        ({"draws": 1}, "draws"),
        ({"modulus": -0.1}, "modulus"),
        ({"modulus": float("nan")}, "modulus"),
        ({"near": 8}, "near"),
        ({"frequency": -1.0}, "frequency"),
        ({"frequency": "much"}, "frequency"),
        ({"source": "pink"}, "source"),
    ],
)
def test_impossible_distillations_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(changes, DistillationConfig)


def test_a_student_is_sampled_with_its_own_number_of_evaluations_and_the_noise_of_its_teacher():
    gauge = torch.tensor([[2.0, 1.0, 0.01, 0.02, 0.0]])
    card = {"steps": 2, "distillation": {"teacher_steps": 16}}
    student = FlowGenerator(Checkpoint(teacher(), "flow", gauge, "0" * 64, card))
    assert student.nfe == 2
    assert student.gain == noise_gain(time_grid(16))
    card["distillation"]["noise_gain"] = 0.3
    assert FlowGenerator(Checkpoint(teacher(), "flow", gauge, "0" * 64, card)).gain == 0.3
    with pytest.raises(ValueError, match="distilled for 2"):
        FlowGenerator(Checkpoint(teacher(), "flow", gauge, "0" * 64, card), 4)


def test_a_student_without_noise_in_its_source_gets_that_of_a_measurement():
    objective = EnergyObjective(FlowConfig(noise=False), DistillationConfig(1))
    quiet = batch()._replace(sigma=torch.tensor([1e-6, 1e-6]))
    noisy = batch()._replace(sigma=torch.tensor([0.2, 0.2]))
    least, most = (
        objective.prepare(one, 0.0, torch.Generator().manual_seed(0), TINY.multiple)[-1] for one in (quiet, noisy)
    )
    assert least.shape == most.shape == (4, 2, 16, 16)
    assert torch.allclose(least[:, 0, 4:12, 4:12], torch.ones(4, 8, 8), atol=1e-3)
    assert 0.01 < float(1.0 - most[:, 0, 4:12, 4:12].mean()) < 0.2
    assert objective.measure(teacher(), [], 0) == {"noise_gain": 0.0}
    card = {"steps": 1, "flow": {"noise": False}, "distillation": {"noise_gain": 0.0}}
    student = FlowGenerator(Checkpoint(teacher(), "flow", torch.tensor([[2.0, 1.0, 0.0, 0.0, 0.0]]), "0" * 64, card))
    disc = batch().image.abs()[:1] * 100.0
    air = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.01
    air[:, 24:40, 24:40] = disc
    one, two = (student.sample_phase(air, [SliceKey(seed, "a", 0, 0)], Conditions()) for seed in (0, 1))
    assert bool(((one.abs() - 1.0).abs() < 1e-5).all()) and not torch.equal(one, two)
    assert float(one[:, :20, :20].mean().abs()) < 0.2  # random in air


class Fixed(torch.nn.Module):
    """In place of a network: adds nothing to the path, or ends it at the magnitude."""

    def __init__(self, ends_at_magnitude: bool) -> None:
        super().__init__()
        self.config = TINY
        self.ends_at_magnitude = ends_at_magnitude
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, scaled, weight, t, conditions):
        return weight if self.ends_at_magnitude else torch.zeros_like(weight)


def test_noise_gain_is_1_if_angles_are_kept_and_0_if_the_end_is_fixed():
    assert measure_noise_gain(Fixed(False), [batch()] * 4, 4, seed=1) == pytest.approx(1.0, abs=0.15)
    assert measure_noise_gain(Fixed(True), [batch()], 1, seed=1) == 0.0
