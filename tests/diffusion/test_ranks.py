import os
import subprocess
import sys

import pytest
import torch
from paths import TESTS
from safetensors.torch import load_file
from tiny_network import TINY

from rephase.diffusion.processes.objective import Batch, Objective
from rephase.diffusion.training.prefetch import prefetch
from rephase.diffusion.training.ranks import Ranks, joined, started_by_torchrun
from rephase.diffusion.training.trainer import Trainer, TrainingConfig

CONFIG = TrainingConfig(steps=3, warmup=2, batches=4, seed=3)


def batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    angle, magnitude = (torch.rand(1 + number % 2, 12, 12 + 4 * (number % 3), generator=generator) for _ in range(2))
    return Batch(torch.polar(magnitude, angle), torch.full((len(angle), 4), torch.nan))


def train(folder) -> Trainer:
    ranks = started_by_torchrun()
    with joined(ranks, "cpu") as device:
        trainer = Trainer(TINY, CONFIG, batch, folder, device, ranks=ranks)
        trainer.run()
    return trainer


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    train(tmp_path / "one")
    script = f"import pathlib, sys; sys.path[:0] = {[str(TESTS), str(TESTS / 'diffusion')]!r}; import test_ranks\n"
    script += f"test_ranks.train(pathlib.Path({str(tmp_path / 'two')!r}))\n"
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path / "script.py")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "state.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-4, atol=1e-6), name
    assert (tmp_path / "one" / "loss.jsonl").read_text().count("\n") == 3
    assert (tmp_path / "two" / "loss.jsonl").read_text().count("\n") == 3  # one process writes


def test_a_step_takes_the_mean_of_its_batches(tmp_path):
    """One step on two equal batches is one step on one of them."""
    weights = []
    for count in (1, 2):
        config = TrainingConfig(steps=1, warmup=0, batches=count, seed=3, condition_dropout=0.0)
        objective = Steady()
        trainer = Trainer(TINY, config, lambda _: batch(0), tmp_path / str(count), objective=objective)
        trainer.run()
        weights.append(trainer.network.state_dict())
    assert all(torch.allclose(value, weights[1][name], atol=1e-6) for name, value in weights[0].items())


class Steady(Objective):
    """An objective that draws nothing."""

    def prepare(self, batch, dropout, generator, multiple):
        image = torch.nn.functional.pad(torch.view_as_real(batch.image).permute(0, 3, 1, 2), (0, 0, 0, 0))
        return image, batch.conditions

    def error(self, network, tensors):
        image, conditions = tensors
        t = torch.full((len(image),), 0.5)
        return (network(image, image, t, conditions) - image).square().mean(dim=(1, 2, 3))


def test_batches_must_divide_over_the_processes(tmp_path):
    with pytest.raises(ValueError, match="batches = 4: expected a multiple of the 3"):
        Trainer(TINY, CONFIG, batch, tmp_path, ranks=Ranks(0, 3))


@pytest.mark.parametrize("values", [("2", "2", "0"), ("-1", "2", "0"), ("x", "2", "0"), ("0", "2", "-1")])
def test_impossible_ranks_are_refused(monkeypatch, values):
    for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK"), values, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="torchrun"):
        started_by_torchrun()


@pytest.mark.parametrize("ahead", [0, 1, 3, 20])
def test_prefetched_items_are_those_of_a_loop(ahead):
    assert list(prefetch(lambda number: number**2, range(3, 10), ahead)) == [number**2 for number in range(3, 10)]


def test_prefetch_makes_no_more_than_it_may():
    made = []
    items = prefetch(lambda number: made.append(number) or number, range(100), 2)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    assert len(made) <= 6


def test_an_error_is_raised_where_its_item_is_due():
    def make(number):
        if number == 2:
            raise KeyError(number)
        return number

    items = prefetch(make, range(9), 4)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(KeyError):
        next(items)


def test_prefetching_changes_no_weight(tmp_path):
    weights = []
    for ahead in (0, 3):
        config = TrainingConfig(steps=4, warmup=2, seed=3, prefetch=ahead)
        Trainer(TINY, config, batch, tmp_path / str(ahead)).run()
        weights.append((tmp_path / str(ahead) / "ema.safetensors").read_bytes())
    assert weights[0] == weights[1]
