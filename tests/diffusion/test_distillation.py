import math

import pytest
import torch
from tiny_network import TINY

from rephase.diffusion.checkpoint import Checkpoint
from rephase.diffusion.networks.layers import to_real
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.processes.distillation import (
    DistillationConfig,
    DistillationObjective,
    make_objective,
    measure_noise_gain,
)
from rephase.diffusion.processes.flow import FlowGenerator, FlowObjective, noise_gain, sample_flow, time_grid
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


def follower(starts: torch.Tensor, ends: torch.Tensor, duration: float):
    """The network whose velocity is the mean one from `starts` to `ends`: F solved from `flow.velocity_error`."""

    def network(scaled, weight, t, conditions):
        time = t[:, None, None, None]
        root = (time**2 + (1 - time) ** 2).sqrt()
        return ((ends - starts) / duration - (2 * time - 1) / root * scaled) * root

    return network


@pytest.mark.parametrize(("evaluations", "teacher_steps"), [(1, 4), (2, 8), (4, 8)])
def test_a_student_that_lands_where_the_sampler_does_has_no_error(evaluations, teacher_steps):
    objective = DistillationObjective(teacher(), DistillationConfig(evaluations, teacher_steps, "path"))
    tensors = prepared(objective)
    x_0, weight = torch.complex(tensors[0][:, :1], tensors[0][:, 1:]), tensors[2][:, :1]
    times = time_grid(teacher_steps)
    per_segment = teacher_steps // evaluations
    # the first state and, by the sampler itself, the end of the whole path
    end = sample_flow(objective.teacher, x_0, weight, times, tensors[4])
    states = [to_real(x_0)]

    def student(scaled, weights, t, conditions):
        if round(float(t[0]) * evaluations) + 1 == evaluations:
            return follower(states[-1], end, 1 / evaluations)(scaled, weights, t, conditions)
        state = states[-1]
        for index in range(per_segment):
            here = float(t[0]) + index / teacher_steps
            velocity = _velocity(objective.teacher, state, weights, here, conditions)
            state = state + velocity / teacher_steps
        states.append(state)
        return follower(states[-2], state, 1 / evaluations)(scaled, weights, t, conditions)

    error = objective.error(student, tensors)
    assert error.shape == (evaluations * 2,)
    assert float(error.max()) < 1e-6


def _velocity(network, state, weight, here, conditions):
    t = torch.full((len(state),), here)
    power = here**2 + (1 - here) ** 2
    residual = network(state / math.sqrt(power), weight, t, conditions)
    return (2 * here - 1) / power * state + residual / math.sqrt(power)


def test_the_error_is_that_of_the_mean_velocity():
    """A student without output has velocity -x_0 at t = 0; the teacher that knows the end has x_1 - x_0."""
    objective = DistillationObjective(teacher(), DistillationConfig(1, 4, "path"))
    x_0, _, weight, t, conditions = prepared(objective)
    end = sample_flow(objective.teacher, torch.complex(x_0[:, :1], x_0[:, 1:]), weight[:, :1], time_grid(4), conditions)
    error = objective.error(lambda x, *_: torch.zeros_like(x), (x_0, x_0, weight, t, conditions))
    expected = end.square().mean(dim=(1, 2, 3)) / weight.square().mean(dim=(1, 2, 3))
    assert torch.allclose(error, expected, rtol=1e-4)


def test_segments_from_data_start_at_the_times_of_the_student():
    objective = DistillationObjective(teacher(), DistillationConfig(2, 4, "data"))
    seen = set()
    for seed in range(8):
        tensors = prepared(objective, seed)
        seen |= set(tensors[3].tolist())
        assert objective.error(teacher(1), tensors).shape == (2,)
    assert seen == {0.0, 0.5}


def test_training_brings_the_student_near_the_teachers_path(tmp_path):
    torch.manual_seed(0)
    knowing = Trainer(TINY, _config(120, 3e-3), batch, tmp_path / "teacher")
    knowing.run()
    master = knowing.average.eval()
    objective = DistillationObjective(master, DistillationConfig(1, 8, "path"))
    student = Trainer(TINY, _config(60, 1e-3), batch, tmp_path / "student", initial=master, objective=objective)
    tensors = prepared(objective, 99)
    before = objective.error(master, tensors).mean()
    student.run()
    assert float(objective.error(student.average, tensors).mean()) < 0.5 * float(before)
    assert float(before) < float(FlowObjective().error(lambda x, *_: torch.zeros_like(x), tensors).mean())


def test_a_student_of_the_energy_score_gets_better_by_it(tmp_path):
    torch.manual_seed(0)
    knowing = Trainer(TINY, _config(60, 3e-3), batch, tmp_path / "teacher")
    knowing.run()
    objective = make_objective(knowing.average.eval(), DistillationConfig(2, 8), "broad")
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
        ({"evaluations": 3}, "multiple of evaluations = 3"),
        ({"evaluations": 16}, "at least twice"),
        ({"evaluations": 0}, "evaluations = 0: expected a whole number of 1 to 4096"),
        ({"evaluations": True}, "evaluations = True"),
        ({"teacher_steps": 16.0}, "teacher_steps = 16.0"),
        ({"evaluations": 1, "teacher_steps": 5000}, "teacher_steps = 5000"),
        ({"method": "noise"}, "energy, path, data"),
        ({"draws": 1}, "draws = 1"),
        ({"modulus": -0.1}, "modulus = -0.1"),
        ({"modulus": float("nan")}, "modulus = nan"),
        ({"near": 8}, "near = 8: expected an odd number"),
        ({"frequency": -1.0}, "frequency = -1.0"),
        ({"frequency": "much"}, "frequency = 'much'"),
        ({"source": "pink"}, "source 'pink': expected one of narrow, broad"),
    ],
)
def test_impossible_distillations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DistillationConfig(**changes)


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


class Fixed(torch.nn.Module):
    """In place of a network: adds nothing to the path, or ends it at the magnitude."""

    def __init__(self, ends_at_magnitude: bool) -> None:
        super().__init__()
        self.config = TINY
        self.ends_at_magnitude = ends_at_magnitude
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, scaled, weight, t, conditions):
        return weight if self.ends_at_magnitude else torch.zeros_like(weight)


def test_noise_gain_is_one_where_the_angles_are_kept_and_none_where_the_end_is_fixed():
    assert measure_noise_gain(Fixed(False), [batch()] * 4, 4, seed=1) == pytest.approx(1.0, abs=0.15)
    assert measure_noise_gain(Fixed(True), [batch()], 1, seed=1) == 0.0
