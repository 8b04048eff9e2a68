import json
import shutil
import socket

import numpy as np
import pytest
import torch
from forks import fork, run_command

from rephase.config import read_config
from rephase.diffusion.checkpoint import CheckpointError, load_checkpoint
from rephase.diffusion.physics.grid import GRID_MM
from rephase.diffusion.processes.distillation import EnergyObjective
from rephase.diffusion.processes.flow import FlowConfig
from rephase.diffusion.registry import make_generator
from rephase.diffusion.training.trainer import Trainer
from rephase.errors import RequestError
from rephase.training.batches import TrainingSlices
from rephase.training.config import DistillConfig, TrainConfig
from rephase.training.dataset import read_training_set
from rephase.training.distill import distill, distill_command
from rephase.training.train import train

COMMON = """
manifest = "pairs.csv"
output = "{name}"
name = "{name}"

[training]
steps = {steps}
pixels = 1024
seed = 5
save_every = 2
"""
NETWORK = """
[network]
channels = [4, 8]
blocks = 1
groups = 2
embedding = 8
"""
DISTILL = 'teacher = "teacher/teacher.safetensors"\n' + COMMON.format(name="student", steps=4)
DISTILL += "[distillation]\nevaluations = 2\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A manifest with phase and a teacher trained on it."""
    tmp_path = tmp_path_factory.mktemp("trained")
    y, x = np.mgrid[-1:1:24j, -1:1:20j]
    magnitude = np.exp(-3 * (x**2 + y**2)).astype(np.float32)
    np.save(tmp_path / "m.npy", np.stack([magnitude] * 3))
    np.save(tmp_path / "p.npy", np.stack([2 * magnitude**2] * 3).astype(np.float32))
    (tmp_path / "pairs.csv").write_text("volume_id,path,phase,split\na,m.npy,p.npy,train\n")
    (tmp_path / "teacher.toml").write_text(COMMON.format(name="teacher", steps=3) + NETWORK)
    (tmp_path / "student.toml").write_text(DISTILL)
    train(read_config(tmp_path / "teacher.toml", TrainConfig))
    return tmp_path


@pytest.fixture
def folder(tmp_path, trained):
    return shutil.copytree(trained, tmp_path, dirs_exist_ok=True)


def test_the_card_of_a_student_names_teacher_and_evaluations(folder):
    assert distill_command(folder / "student.toml", "cpu") == 0
    teacher = load_checkpoint(folder / "teacher" / "teacher.safetensors")
    path = folder / "student" / "student.safetensors"
    student = load_checkpoint(path)
    assert student.steps == 2 and student.distilled
    assert student.noise_gain is not None and 0.0 <= student.noise_gain <= 1.0
    assert student.card["distillation"]["teacher"] == {"name": "teacher", "sha256": teacher.sha256}
    assert student.network.config == teacher.network.config
    assert student.gauge.nan_to_num().equal(teacher.gauge.nan_to_num())
    assert make_generator("diffusion", path).nfe == 2


def test_a_share_of_the_weights_that_the_student_started_from_is_kept(folder):
    teacher = load_checkpoint(folder / "teacher" / "teacher.safetensors").network
    students = []
    for name, kept in (("all", 0.0), ("mean", 0.25)):
        (folder / f"{name}.toml").write_text(DISTILL.replace('"student"', f'"{name}"') + f"kept = {kept}\n")
        config = read_config(folder / f"{name}.toml", DistillConfig)
        students += [load_checkpoint(distill(config)).network for _ in range(2)]  # when done, the same student again
    learned, _, mean, again = (dict(one.named_parameters()) for one in students)
    for name, before in teacher.named_parameters():
        assert mean[name].equal(again[name])
        assert mean[name].detach().allclose(0.75 * learned[name] + 0.25 * before, atol=1e-6)
    assert not all(learned[name].equal(mean[name]) for name in learned)


@pytest.mark.reliability
def test_of_two_processes_one_finishes_the_student(folder):
    """A share that each of them kept would be kept twice."""
    recipe = DISTILL.replace("seed = 5", "seed = 5\nbatches = 2") + "kept = 0.5\n"
    for name in ("one", "two"):
        (folder / f"{name}.toml").write_text(recipe.replace('"student"', f'"{name}"'))
    one = load_checkpoint(distill(read_config(folder / "one.toml", DistillConfig)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # as torchrun sets them
    words = ("distill", str(folder / "two.toml"), "--device", "cpu")
    ranks = [
        fork(run_command, *words, output=folder / f"rank{rank}", RANK=str(rank), LOCAL_RANK=str(rank), **group)
        for rank in range(2)
    ]
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0], (folder / "rank0.err").read_text()
    two = load_checkpoint(folder / "two" / "two.safetensors")
    assert two.noise_gain == pytest.approx(one.noise_gain, abs=1e-3)
    for name, value in one.network.state_dict().items():
        assert torch.allclose(value, two.network.state_dict()[name], rtol=1e-4, atol=1e-6), name


def test_a_student_is_distilled_further(folder):
    first = load_checkpoint(distill(read_config(folder / "student.toml", DistillConfig)))
    further = DISTILL.replace("teacher/teacher", "student/student").replace('"student"', '"further"')
    (folder / "further.toml").write_text(further)
    student = load_checkpoint(distill(read_config(folder / "further.toml", DistillConfig)))
    assert student.card["distillation"]["teacher"] == {"name": "student", "sha256": first.sha256}
    assert student.steps == first.steps == 2 and student.sha256 != first.sha256


def test_a_student_starts_from_the_source_of_its_teacher_and_on_its_grid(folder):
    path = folder / "teacher" / "teacher.json"
    card = json.loads(path.read_text())
    del card["sha256"]  # an edit that is meant
    card["flow"] |= {"source": "scales", "grid_mm": 3.0}
    path.write_text(json.dumps(card))
    config = read_config(folder / "student.toml", DistillConfig)
    student = load_checkpoint(distill(config))
    assert (
        student.settings(FlowConfig)
        == load_checkpoint(config.teacher).settings(FlowConfig)
        == FlowConfig("scales", 3.0)
    )
    assert 0.0 <= student.noise_gain <= 1.0


def test_a_student_by_the_energy_score_may_have_a_source_of_its_own(folder):
    (folder / "student.toml").write_text(DISTILL + 'source = "field"\n')
    student = load_checkpoint(distill(read_config(folder / "student.toml", DistillConfig)))
    assert student.settings(FlowConfig) == FlowConfig("field") and student.card["distillation"]["source"] == "field"


def test_a_resumed_distillation_gives_the_same_student(folder):
    whole = distill(read_config(folder / "student.toml", DistillConfig)).read_bytes()
    (folder / "half.toml").write_text(DISTILL.replace('output = "student"', 'output = "half"'))
    config = read_config(folder / "half.toml", DistillConfig)
    teacher = load_checkpoint(config.teacher)
    objective = EnergyObjective(teacher.settings(FlowConfig), config.distillation)
    seen = read_training_set(config.manifest, "train", grid_mm=GRID_MM)
    slices = TrainingSlices(seen.slices, 1024, 5)
    network = load_checkpoint(config.teacher).network
    Trainer(network.config, config.training, slices, config.output, "cpu", network, objective).run(until=2)
    assert distill(config).read_bytes() == whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DISTILL.replace("teacher = ", "tutor = "), "teacher: "),
        (DISTILL.replace("teacher/teacher", "gone"), "gone.safetensors: no such file"),
        (DISTILL.replace("evaluations = 2", "evaluations = 0"), "distillation.evaluations: "),
        (DISTILL.replace("evaluations = 2", "evaluation = 2"), "distillation.evaluation: "),
        (DISTILL + NETWORK, "network: "),
        (DISTILL.replace('teacher = "teacher/teacher.safetensors"', "teacher = 3"), "teacher: found 3"),
    ],
)
def test_wrong_requests_are_refused(folder, text, message):
    (folder / "wrong.toml").write_text(text)
    with pytest.raises(RequestError, match=message):
        distill(read_config(folder / "wrong.toml", DistillConfig))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: found 0"),
        ({"steps": True}, "steps: found true"),
        ({"distillation": []}, "distillation: "),
        ({"distillation": {}}, "distillation: "),
        ({"steps": 2, "distillation": {"teacher_steps": "many"}}, "distillation.teacher_steps: "),
        ({"steps": 2, "distillation": {"teacher_steps": 4, "noise_gain": 3.0}}, "distillation.noise_gain: "),
    ],
)
def test_cards_with_impossible_steps_are_refused(folder, change, message):
    path = folder / "teacher" / "teacher.safetensors"
    card = path.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)
