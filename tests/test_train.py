import json
import math
import shutil

import numpy as np
import pytest
import torch

from augment.errors import RequestError
from augment.train import train, train_command
from augment.train_config import TrainConfig, read_config
from augment.training_set import measure_gauge
from augment.volume import Volume
from diffusion.checkpoint import load_checkpoint
from diffusion.select import make_generator

CONFIG = """
manifest = "pairs.csv"
output = "run"
name = "tiny"
split = "train"

[network]
channels = [4, 8]
blocks = 1
groups = 2
embedding = 8

[training]
steps = 3
pixels = 1024
seed = 5

[card]
licence = "CC0-1.0"
"""


@pytest.fixture
def config(tmp_path):
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:24j, -1:1:20j]
    magnitude = np.exp(-3 * (x**2 + y**2)).astype(np.float32)
    np.save(tmp_path / "m.npy", np.stack([magnitude] * 3))
    np.save(tmp_path / "p.npy", np.stack([2 * magnitude**2 + random.normal(0, 0.1, x.shape)] * 3).astype(np.float32))
    (tmp_path / "pairs.csv").write_text(
        "volume_id,path,phase,split,te_ms,licence\na,m.npy,p.npy,train,4.6,CC0-1.0\nb,m.npy,,train,,\n"
        "c,gone.npy,p.npy,train,,\nd,m.npy,p.npy,val,,\n"
    )
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


def test_training_makes_a_checkpoint_that_says_what_it_is(config, capfd):
    assert train_command(config, "cpu") == 0
    checkpoint = load_checkpoint(config.parent / "run" / "tiny.safetensors")
    assert checkpoint.card["licence"] == "CC0-1.0"
    assert checkpoint.card["training"]["seed"] == 5
    assert checkpoint.card["data"]["slices"] == 3  # the row without phase, the missing one and val are not in it
    assert checkpoint.card["data"]["licences"] == {"CC0-1.0": 3}
    assert checkpoint.gauge.shape == (1, 3) and float(checkpoint.gauge[0, 0]) == pytest.approx(4.6)
    err = capfd.readouterr().err
    assert "left out: b" in err and "gone.npy" in err


def test_equal_recipes_give_equal_weights(config):
    first = train(read_config(config, TrainConfig)).read_bytes()
    shutil.rmtree(config.parent / "run")
    assert train(read_config(config, TrainConfig)).read_bytes() == first


def test_nothing_to_train_on_is_an_error_that_says_so(config):
    config.write_text(CONFIG.replace('split = "train"', 'split = "test"'))
    with pytest.raises(RequestError, match="no row of split 'test'"):
        train(read_config(config, TrainConfig))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("manifest = 3 4", "not TOML"),
        ('output = "run"', "no entry 'manifest'"),
        (CONFIG.replace("steps = 3", "stepz = 3"), "stepz"),
        (CONFIG.replace("steps = 3", 'precision = "half"'), "expected float32 or bfloat16"),
        (CONFIG.replace("[4, 8]", "[3, 8]"), "multiples of groups"),
        (CONFIG.replace('name = "tiny"', 'title = "tiny"'), "title"),
        (CONFIG.replace("[network]", "process = 'gan'\n[network]"), "flow, ddpm"),
        (CONFIG + "[ddpm]\nsampler = 'best'\n", "deterministic, ancestral"),
    ],
)
def test_wrong_configurations_are_refused(tmp_path, text, message):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(RequestError, match=message):
        read_config(path, TrainConfig)


def test_gauge_is_measured_in_radians_per_mm():
    phase = np.broadcast_to(0.3 * np.arange(16, dtype=np.float32)[:, None], (2, 16, 12)).copy()
    volume = Volume(
        np.ones((2, 16, 12), np.float32), (5.0, 2.0, 1.0), ((0.0,) * 4,) * 4, "SPL", False, "assumed", "", phase
    )
    gauge = measure_gauge([volume])
    assert math.isnan(float(gauge[0, 0]))
    assert torch.allclose(gauge[0, 1:], torch.tensor([0.15, 0.0]), atol=1e-4)


def test_loss_is_kept_in_the_run_folder(config):
    train(read_config(config, TrainConfig))
    rows = [json.loads(line) for line in (config.parent / "run" / "loss.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]


def test_the_published_process_is_trained_and_sampled_by_name(config):
    config.write_text(CONFIG.replace('name = "tiny"', 'name = "tiny"\nprocess = "ddpm"') + "\n[ddpm]\ntimesteps = 7\n")
    path = train(read_config(config, TrainConfig))
    checkpoint = load_checkpoint(path)
    assert checkpoint.process == "ddpm"
    assert checkpoint.card["ddpm"] == {"timesteps": 7, "noise": "unit", "sampler": "deterministic"}
    assert make_generator("diffusion", path).nfe == 7
