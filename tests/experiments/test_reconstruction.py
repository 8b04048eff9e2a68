"""`rephase evaluate reconstruction` on small volumes with real phase, from the command line."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from rephase.cli import main
from rephase.config import ConfigError, from_mapping, read_config
from rephase.diffusion.fourier import fft2c, ifft2c
from rephase.experiments.arms import parse_arms
from rephase.experiments.reconstruction.config import MODELS, PRESETS, NetworkConfig, ReconstructionConfig, preset
from rephase.experiments.reconstruction.networks import make_network
from rephase.experiments.reconstruction.training import _centre
from rephase.experiments.store import ResultStore

pytest.importorskip("skimage")

CONFIG = """
arms = ["zero", "smooth", "real", "real@50+smooth", "pretrain:smooth>real@50"]
seeds = 2
accelerations = [2, 4]
models = ["unet"]
[[comparisons]]
arm = "smooth"
against = "real"
metric = "nmse"
condition = "R=4"
margin = 0.01
[[comparisons]]
arm = "pretrain:smooth>real@50, 2 updates"
against = "zero"
metric = "ssim"
condition = "R=2"
margin = 0.1
relative = true
[data]
matrix = [16, 16]
pictures = 1
[training]
steps = 3
batch = 2
warmup = 1
finetune_steps = [1, 2]
[network]
channels = 4
levels = 2
cascades = 2
cascade_channels = 4
"""
TEST_SUBJECTS = 5


def write_volumes(folder, count=8, size=(24, 20)):
    """Write blobs with a smooth phase: the last `TEST_SUBJECTS` subjects are for the test."""
    random = np.random.default_rng(0)
    y, x = (axis.astype(np.float32) for axis in np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j])
    rows = []
    for number in range(count):
        a, b, c = random.uniform(0.3, 1.5, 3)
        image = np.exp(-3 * (a * x**2 + b * y**2)) * (1.2 + np.sin(9 * c * x) * np.cos(7 * a * y))
        magnitude = (100 * np.stack([image, 0.8 * image])).astype(np.float32)
        np.save(folder / f"m{number}.npy", magnitude)
        np.save(folder / f"p{number}.npy", np.angle(np.exp(1j * (3 * a * x + 4 * b * y * y + c)))[None].repeat(2, 0))
        split = "test" if number >= count - TEST_SUBJECTS else "train"
        rows.append((f"v{number}", f"m{number}.npy", f"p{number}.npy", f"s{number}", split, "gradient-echo"))
    path = folder / "pairs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("volume_id", "path", "phase", "subject_id", "split", "sequence"), *rows])
    (folder / "c.toml").write_text(CONFIG)
    return path


def run(folder, *words, out="out", manifest="pairs.csv"):
    real = ["--real", str(folder / manifest), "--config", str(folder / "c.toml"), "--workers", "1"]
    return main(["evaluate", "reconstruction", *real, "-o", str(folder / out), *words])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished run; one training volume has no phase that can be read."""
    folder = tmp_path_factory.mktemp("run")
    path = write_volumes(folder)
    np.save(folder / "bad.npy", np.full((2, 24, 20), np.nan))
    path.write_text(path.read_text() + "bad,m0.npy,bad.npy,s0,train,gradient-echo\n")
    assert run(folder) == 1
    return folder, json.loads((folder / "out" / "reconstruction.json").read_text())


def test_every_arm_is_scored_on_every_test_volume(done):
    _, found = done
    labels = [arm.label for arm in parse_arms(["zero", "smooth", "real", "real@50+smooth"])]
    labels += [f"pretrain:smooth > real@50, {count} updates" for count in (1, 2)]
    by_arm = {}
    for score in found["scores"]:
        if score["condition"] in ("R=2", "R=4"):
            by_arm.setdefault(score["arm"], []).append(score)
    assert set(by_arm) == {*labels, "zero-filled"}
    assert {len(scores) for name, scores in by_arm.items() if name != "zero-filled"} == {2 * 2 * TEST_SUBJECTS}
    assert all(0 < score["metrics"]["nmse"] < 4 for scores in by_arm.values() for score in scores)
    rows = {row["label"]: row for row in found["arms"] if row["model"] == "unet"}
    assert rows["pretrain:smooth > real@50, 2 updates"]["facts"]["updates"] == 5
    assert rows["real@50+smooth"]["facts"]["subjects"] == 3
    assert rows["smooth"]["means"]["R=4"]["nmse"]["low"] is not None
    assert {one["condition"] for one in found["crimes"]} == {"R=2, zero phase", "R=4, zero phase"}
    assert [one["comparison"]["margin"] for one in found["comparisons"]["unet"]] == [0.01, 0.1]
    assert all(one["verdict"] != "no interval" for one in found["comparisons"]["unet"])


def test_the_row_that_cannot_be_read_is_one_line_and_the_others_go_on(done):
    _, found = done
    assert [note for note in found["notes"] if note.startswith("bad")] != []
    assert all("\n" not in note for note in found["notes"])


def test_tables_and_page(done):
    folder, _ = done
    tables, page = ((folder / "out" / f"reconstruction.{suffix}").read_text() for suffix in ("md", "html"))
    for words in ("Can anything be measured?", "The data crime", "pretrain:smooth > real@50, 2 updates", "zero-filled"):
        assert words in tables
    assert "<svg" in page
    assert "data:image/png" in page
    assert "Comparisons, unet" in page


def test_an_interrupted_run_ends_as_a_whole_one(done, tmp_path, monkeypatch, capsys):
    folder, whole = done
    save, count = ResultStore.save, 0

    def stop(self, job, result):
        nonlocal count
        count += 1
        if count > 4:
            raise KeyboardInterrupt
        save(self, job, result)

    monkeypatch.setattr(ResultStore, "save", stop)
    out = str(tmp_path / "again")
    shutil.copytree(folder / "out" / "corpora", tmp_path / "again" / "corpora")
    assert run(folder, out=out) == 130
    assert "run the same command again to resume" in capsys.readouterr().err
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "again" / "results").glob("*.json")}
    assert len(kept) == 4
    monkeypatch.setattr(ResultStore, "save", save)
    assert run(folder, out=out) == 1
    assert json.loads((tmp_path / "again" / "reconstruction.json").read_text()) == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize(
    ("change", "words", "expected"),
    [
        (("test", "val"), (), "no row of split 'test'; it has train, val"),
        (("train", ""), (), "no row of split 'train'; it has test"),
        (("s7", "s0"), (), "s0: in training and in test data"),
        (("", ""), ("--arms", "zro"), "did you mean zero?"),
        (("", ""), ("--accelerations", "4,1"), "--accelerations[1]: found 1; expected greater than or equal to 2"),
        (("", ""), ("--preset", "quick"), "--preset and --config"),
        (("phase", "note"), (), "no row with real phase could be read"),
    ],
)
def test_wrong_requests_are_told_in_a_line(tmp_path, capsys, change, words, expected):
    path = write_volumes(tmp_path)
    path.write_text(path.read_text().replace(*change) if change[0] else path.read_text())
    assert run(tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error


def test_one_training_subject_has_no_shares(tmp_path, capsys):
    write_volumes(tmp_path, count=1 + TEST_SUBJECTS)
    assert run(tmp_path) == 2
    assert "1 training subject (s0); expected 2 or more for real@50+smooth" in capsys.readouterr().err


def test_the_presets_are_valid_and_their_comparisons_are_of_their_arms():
    for name in PRESETS:
        config = read_config(preset(name), ReconstructionConfig)
        arms = {arm.label for arm in parse_arms(config.arms)}
        assert {one for comparison in config.comparisons for one in (comparison.arm, comparison.against)} <= arms
        assert [one.condition for one in config.comparisons] == ["R=8"] * len(config.comparisons)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {"matrix": [30, 32]}}, "multiples of 8"),
        ({"accelerations": []}, "expected one or more"),
        (
            {"comparisons": [{"arm": "a", "against": "real", "metric": "nmse", "condition": "R=4", "margin": 1}]},
            "arm 'a'",
        ),
        (
            {"comparisons": [{"arm": "zero", "against": "real", "metric": "l1", "condition": "R=4", "margin": 1}]},
            "expected one of nmse",
        ),
    ],
)
def test_a_wrong_configuration_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        from_mapping({"arms": ["zero"], "comparisons": []} | change, ReconstructionConfig)


@pytest.mark.parametrize("model", [*MODELS, "magnitude"])
def test_networks_begin_with_the_zero_filled_image_keep_samples_and_scale(model):
    torch.manual_seed(0)
    config = NetworkConfig(channels=4, levels=2, cascades=2, cascade_channels=4)
    network = make_network("unet" if model == "magnitude" else model, config, model == "magnitude")
    image = torch.randn(2, 16, 24, dtype=torch.complex64)
    mask = (torch.arange(24) % 2 == 0).float().expand(2, -1)
    kspace = fft2c(image) * mask[:, None]
    parts = dict(network.named_parameters())
    torch.testing.assert_close(network(kspace, mask), ifft2c(kspace).abs(), rtol=1e-4, atol=1e-5)
    for value in parts.values():
        value.data += 0.1 * torch.randn_like(value)
    torch.testing.assert_close(network(1e-4 * kspace, mask), 1e-4 * network(kspace, mask), rtol=1e-3, atol=1e-8)
    if model == "unet":  # with all samples nothing is left to the network
        full = torch.ones(2, 24)
        torch.testing.assert_close(network(fft2c(image), full), image.abs(), rtol=1e-4, atol=1e-5)


def test_the_centre_is_fastmris():
    assert [_centre(factor) for factor in (4, 8)] == pytest.approx([0.08, 0.04])
