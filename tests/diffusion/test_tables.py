"""A new kind of phase is a class and a row, a new learned process a module and a row; this file adds one of each."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from distributed import LocalCluster
from paths import PROJECT
from tiny_network import TINY_TOML

from rephase import KSpaceSlices, cli, ifft2c
from rephase.diffusion.checkpoint import CheckpointError, load_checkpoint
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.learned import LearnedGenerator, SampledImage
from rephase.diffusion.networks.layers import pad_to_multiple
from rephase.diffusion.noise import Stream, uniform, volume_key
from rephase.diffusion.phases import PHASES, Phase, generated_phases
from rephase.diffusion.processes.objective import Objective, make_target
from rephase.diffusion.registry import PROCESSES, Process, make_generator, resolve
from rephase.training.config import TrainConfig, _with_process_sections


class Ramp:
    """A linear phase along the width, of a slope that is random for a volume."""

    name, nfe, tile, device = "ramp", 0, 1, torch.device("cpu")
    weights_sha256 = families = licence = seen = None

    def sample_phase(self, magnitude, keys, conditions):
        slope = float(uniform(volume_key(keys[0]), Stream.BASELINE, 1))
        angle = slope * torch.arange(magnitude.shape[-1], dtype=torch.float32)
        return torch.polar(torch.ones_like(magnitude), angle.expand(magnitude.shape))


@dataclass(frozen=True)
class OffsetConfig:
    offset: float = 0.0

    def __post_init__(self):
        if not abs(self.offset) <= math.pi:
            raise ValueError(f"offset = {self.offset}: expected -pi to pi")


class OffsetObjective(Objective):
    def __init__(self, config):
        self.config = config

    def prepare(self, batch, dropout, generator, multiple):
        return pad_to_multiple(make_target(batch.image)[0], multiple)[:, None], batch.conditions

    def error(self, network, tensors):
        weight, conditions = tensors
        blocks = torch.cat((weight, torch.zeros_like(weight)), 1)
        return network(blocks, blocks, torch.zeros(len(weight)), conditions).square().mean(dim=(1, 2, 3)) + 0.1


class OffsetGenerator(LearnedGenerator):
    """A constant phase: the gauge is all that varies."""

    gain = 0.0

    def __init__(self, checkpoint, steps=None, device="cpu"):
        super().__init__(checkpoint, steps or 3, device)
        self.offset = checkpoint.settings(OffsetConfig).offset

    def _sample(self, slices, keys):
        return SampledImage(torch.polar(slices.weight, torch.full_like(slices.weight, self.offset)))


@pytest.fixture
def pairs(tmp_path):
    y, x = np.mgrid[-1:1:24j, -1:1:20j]
    magnitude = np.exp(-3 * (x**2 + y**2)).astype(np.float32)
    np.save(tmp_path / "m.npy", np.stack([magnitude] * 3))
    np.save(tmp_path / "p.npy", np.stack([2 * magnitude**2] * 3).astype(np.float32))
    (tmp_path / "pairs.csv").write_text("volume_id,path,phase,split\na,m.npy,p.npy,train\n")
    return tmp_path


# a worker keeps the file of its watchdog open as long as its process lives
@pytest.mark.filterwarnings("ignore:.*hung:pytest.PytestUnraisableExceptionWarning")
def test_a_phase_of_one_row_is_built_by_the_command(pairs, monkeypatch, capsys):
    monkeypatch.setitem(PHASES, "ramp", Phase("linear along the width", f"{__name__}:Ramp"))
    (pairs / "rows.csv").write_text("volume_id,path\na,m.npy\n")
    assert cli.main(["build", "--help"]) == 0
    assert "ramp linear along the width" in " ".join(capsys.readouterr().out.split())
    # a worker in this process, for the row is nowhere else
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0"
    ) as cluster:
        arguments = [str(pairs / "rows.csv"), str(pairs / "out.zarr"), "--cluster", cluster.scheduler_address]
        assert cli.main(["build", *arguments, "--phase", "ramp", "--seed", "4"]) == 0
    image = ifft2c(torch.as_tensor(KSpaceSlices(pairs / "out.zarr")[1][0]))
    slope = float(uniform(SliceKey(4, "a", 0, (1 << 24) - 1), Stream.BASELINE, 1))
    steps = (image[8:16, 6:14] * image[8:16, 5:13].conj()).angle()
    assert torch.allclose(steps, torch.full_like(steps, slope), atol=1e-3)


def test_a_process_of_one_row_is_trained_and_sampled(pairs, monkeypatch):
    monkeypatch.setitem(PROCESSES, "offset", Process(OffsetObjective, OffsetGenerator, OffsetConfig))
    monkeypatch.setattr("rephase.training.train.TrainConfig", _with_process_sections(TrainConfig))  # as at its import
    head = 'manifest = "pairs.csv"\noutput = "run"\nname = "tiny"\nprocess = "offset"\npicture_every = 2\n'
    settings = "[training]\nsteps = 2\npixels = 1024\n[offset]\noffset = 0.5\n"
    (pairs / "train.toml").write_text(head + settings + TINY_TOML)
    assert cli.main(["train", str(pairs / "train.toml"), "--device", "cpu"]) == 0
    path = pairs / "run" / "tiny.safetensors"
    assert json.loads(path.with_suffix(".json").read_text())["offset"] == {"offset": 0.5}
    assert (pairs / "run" / "samples" / "000002.png").exists()
    checkpoint = load_checkpoint(path)
    generator = make_generator("diffusion", checkpoint)
    assert generator.nfe == 3
    phasor = generator.sample_phase(torch.ones(1, 16, 16) * 100, [SliceKey(0, "v", 0, 0)], Conditions((2.0, 2.0)))
    assert torch.allclose(phasor.abs(), torch.ones(1, 16, 16), atol=1e-5)
    (pairs / "train.toml").write_text(head + settings.replace("0.5", "5.0") + TINY_TOML)
    assert cli.main(["train", str(pairs / "train.toml"), "--device", "cpu"]) == 2
    monkeypatch.delitem(PROCESSES, "offset")
    with pytest.raises(CheckpointError, match="process 'offset'; expected one of flow, ddpm"):
        make_generator("diffusion", checkpoint)


def test_the_readme_lists_every_phase():
    text = (PROJECT / "diffusion" / "README.md").read_text(encoding="utf-8")
    assert "\n".join(f"| `{name}` | {phase.help} |" for name, phase in PHASES.items()) in text


@pytest.mark.parametrize("name", generated_phases())
def test_every_row_names_a_generator(name):
    assert callable(resolve(PHASES[name].generator))
    if not PHASES[name].learned:
        generator = make_generator(name)
        assert (generator.name, generator.nfe, generator.tile, generator.device.type) == (name, 0, 1, "cpu")
        magnitude, keys = torch.rand(1, 8, 8), ([SliceKey(seed, "v", 0, 0)] for seed in (0, 1))
        first, second = (generator.sample_phase(magnitude, key, Conditions()) for key in keys)
        assert torch.equal(first, second) != PHASES[name].varies
