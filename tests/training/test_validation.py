import math

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_network import TINY, TINY_TOML

from rephase.config import read_config
from rephase.diffusion.checkpoint import load_checkpoint
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.processes.flow import DEFAULT_STEPS, FlowObjective
from rephase.diffusion.registry import make_generator
from rephase.pictures import phase_palette
from rephase.training.batches import TrainingSlice
from rephase.training.config import TrainConfig
from rephase.training.pictures import draw_losses, draw_samples
from rephase.training.train import train, train_command
from rephase.training.validation import Validation, choose_slices, note_score, read_scores

CONFIG = f"""
manifest = "pairs.csv"
output = "run"
validation_split = "val"
validation_slices = 3
validate_every = 2
picture_every = 3
{TINY_TOML}
[training]
steps = 5
pixels = 1024
save_every = 2
"""


def training_slice(height: int = 24, width: int = 20, phase: float = 0.3) -> TrainingSlice:
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    magnitude = torch.exp(-3 * (x**2 + y**2))
    return TrainingSlice(torch.polar(magnitude, 2 * magnitude**2 + phase * x), (2.0, 3.0), 4.6, math.nan)


@pytest.fixture
def config(tmp_path):
    image = torch.stack([training_slice(phase=0.1 * k).image for k in range(6)])
    np.save(tmp_path / "m.npy", image.abs().numpy())
    np.save(tmp_path / "p.npy", image.angle().numpy())
    (tmp_path / "pairs.csv").write_text("volume_id,path,phase,split\na,m.npy,p.npy,train\nb,m.npy,p.npy,val\n")
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path / "config.toml"


def test_chosen_slices_are_spread_evenly():
    slices = list(range(100))
    assert choose_slices(slices, 4) == [12, 37, 62, 87]
    assert choose_slices(slices[:3], 8) == [0, 1, 2]


def test_a_score_depends_on_the_network_alone():
    slices = [training_slice(), training_slice(16, 16)]
    torch.manual_seed(0)
    network = ComplexUNet(TINY)
    score = Validation(slices, FlowObjective(), TINY.multiple).score(network, "cpu")
    torch.manual_seed(1)
    assert Validation(slices, FlowObjective(), TINY.multiple).score(network, "cpu") == score
    torch.nn.init.constant_(network.head.bias, 3.0)
    assert Validation(slices, FlowObjective(), TINY.multiple).score(network, "cpu") > score + 1


def test_the_best_score_is_reported_and_repeated_steps_count_once(tmp_path):
    assert [note_score(tmp_path, *row) for row in [(2, 1.0), (4, 0.5), (6, 0.7)]] == [True, True, False]
    assert note_score(tmp_path, 4, 0.5) is True  # the same step again, as after an interruption
    assert read_scores(tmp_path) == [(2, 1.0), (4, 0.5)]


def test_the_best_checkpoint_is_kept_and_pictures_are_drawn(config):
    train(read_config(config, TrainConfig))
    run = config.parent / "run"
    scores = read_scores(run)
    assert [step for step, _ in scores] == [2, 4, 5]
    best = load_checkpoint(run / "best.safetensors")
    step, loss = min(scores, key=lambda row: row[1])
    assert best.card["best"] == {"step": step, "validation_loss": loss}
    assert make_generator("diffusion", run / "best.safetensors").nfe == DEFAULT_STEPS
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["000003.png", "000005.png"]
    with Image.open(run / "loss.png") as picture:
        assert picture.format == "PNG"


def test_an_interrupted_run_keeps_the_same_best_checkpoint(config):
    train(read_config(config, TrainConfig))
    run = config.parent / "run"
    expected = (run / "best.safetensors").read_bytes(), read_scores(run)
    (run / "state.safetensors").unlink()  # as if nothing had been saved: all steps are done again
    train(read_config(config, TrainConfig))
    assert ((run / "best.safetensors").read_bytes(), read_scores(run)) == expected


class Turned:
    """Gives every pixel one phase."""

    name, nfe, families = "turned", 0, None

    def sample_phase(self, magnitude, keys, conditions):
        return torch.full(magnitude.shape, 1j if keys[0].seed else 1, dtype=torch.complex64)


def test_samples_are_drawn_in_the_colours_of_their_phase(tmp_path):
    draw_samples([training_slice(), training_slice(10, 30)], Turned(), tmp_path / "a" / "s.png")
    with Image.open(tmp_path / "a" / "s.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (24 + 4 + 10, 4 * 30 + 3 * 4, 3)
    assert pixels[12, 8].max() > 200  # magnitude: bright in the middle
    palette = phase_palette()
    assert (pixels[12, 2 * 24 + 10] == palette[60]).all()  # phase 0
    assert (pixels[12, 3 * 24 + 10] == palette[90]).all()  # phase pi / 2


def test_no_curve_is_drawn_before_there_are_losses(tmp_path):
    draw_losses(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"val"', '"train"', "validation_split"),
        ('"val"', '"test"', "no row of split 'test'"),
        ("validate_every = 2", "validate_every = 0", "validate_every: found 0"),
        ("picture_every = 3", 'picture_every = "3"', "picture_every: "),
        ('output = "run"', 'output = "run"\nname = "best"', "name 'best'"),
    ],
)
def test_wrong_requests_are_refused(config, old, new, message):
    config.write_text(CONFIG.replace(old, new))
    with pytest.raises(ValueError, match=message):
        train_command(config, "cpu")
