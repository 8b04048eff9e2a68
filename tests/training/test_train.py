import errno
import json
import math
import re
import shutil
import tomllib
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from paths import PROJECT
from tiny_network import TINY_TOML

from rephase.cli import main
from rephase.config import from_mapping, read_config
from rephase.diffusion.checkpoint import load_checkpoint
from rephase.diffusion.fourier import fft2c
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.processes.flow import FlowConfig
from rephase.diffusion.registry import make_generator
from rephase.errors import RequestError
from rephase.readers.volume import Volume
from rephase.training.batches import TrainingSlices
from rephase.training.config import DistillConfig, TrainConfig
from rephase.training.dataset import measure_gauge, read_training_set
from rephase.training.simulated.anatomy import SimulationConfig
from rephase.training.train import train, train_command
from rephase.training.validation import read_losses

CONFIG = f"""
manifest = "pairs.csv"
output = "run"
name = "tiny"
split = "train"
{TINY_TOML}
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


def test_training_makes_a_checkpoint_with_its_card(config, capfd):
    assert train_command(config, "cpu") == 0
    checkpoint = load_checkpoint(config.parent / "run" / "tiny.safetensors")
    assert checkpoint.card["licence"] == "CC0-1.0"
    assert checkpoint.card["training"]["seed"] == 5
    assert checkpoint.card["data"]["slices"] == 3  # the row without phase, the missing one and val are not in it
    assert checkpoint.card["data"]["licences"] == {"CC0-1.0": 3}
    assert checkpoint.seen is not None and checkpoint.seen.spacing_mm is not None
    assert checkpoint.gauge.shape == (1, 5) and float(checkpoint.gauge[0, 0]) == pytest.approx(4.6)
    err = capfd.readouterr().err
    assert "skipped: b" in err and "gone.npy" in err


def test_equal_recipes_give_equal_weights(config):
    first = train(read_config(config, TrainConfig)).read_bytes()
    shutil.rmtree(config.parent / "run")
    assert train(read_config(config, TrainConfig)).read_bytes() == first


@pytest.mark.parametrize("exponent", [66, pytest.param(-66, marks=pytest.mark.reliability)])
def test_the_unit_of_a_magnitude_does_not_count(config, exponent):
    """Squares of 1e20 and 1e-20 are none that float32 holds."""
    first = load_checkpoint(train(read_config(config, TrainConfig))).network.state_dict()
    shutil.rmtree(config.parent / "run")
    np.save(config.parent / "m.npy", np.ldexp(np.load(config.parent / "m.npy"), exponent))
    again = load_checkpoint(train(read_config(config, TrainConfig))).network.state_dict()
    assert all(torch.equal(again[name], values) for name, values in first.items())


def test_nothing_to_train_on_is_an_error(config):
    config.write_text(CONFIG.replace('split = "train"', 'split = "test"'))
    with pytest.raises(RequestError, match="no row of split 'test'"):
        train(read_config(config, TrainConfig))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("manifest = 3 4", "not TOML"),
        ('output = "run"', "manifest: "),
        (CONFIG.replace("steps = 3", "stepz = 3"), "training.stepz: .* steps"),
        (CONFIG.replace("steps = 3", 'precision = "half"'), "training.precision: "),
        (CONFIG.replace("[4, 8]", "[3, 8]"), "network: .* multiples of groups"),
        (CONFIG.replace('name = "tiny"', 'title = "tiny"'), "title: "),
        (CONFIG.replace("[network]", "process = 'gan'\n[network]"), "process: .* flow, ddpm"),
        (CONFIG + "[ddpm]\ntimesteps = 0\n", "ddpm.timesteps: "),
        (CONFIG + "[flow]\nsource = 'pink'\n", "flow: source 'pink'"),
        (CONFIG + "[flow]\nloss = 'log'\n", "flow.loss: "),
        (CONFIG + "[flow]\ngrid_mm = -1.0\n", "flow.grid_mm: "),
        (CONFIG + "[flow]\ngrid_mm = nan\n", "flow.grid_mm: "),
        (CONFIG + "[flow]\ngrid_mm = true\n", "flow.grid_mm: "),
        (CONFIG.replace("[network]", "process = 'ddpm'\n[flow]\ngrid_mm = 3.0\n[network]"), "flow: .*'ddpm'"),
        (CONFIG.replace("groups = 2", "groups = 0"), "network.groups: "),
        (CONFIG.replace("blocks = 1", "patch = 1.5"), "network.patch: "),
        (CONFIG.replace("seed = 5", "seed = -1"), "training.seed: found -1"),
        (CONFIG.replace("seed = 5", "seed = 1.5"), "training.seed: found 1.5"),
        (CONFIG.replace("seed = 5", "seed = 2147483648"), "training.seed: found 2147483648"),
        (CONFIG.replace("steps = 3", "steps = true"), "training.steps: found true"),
        (CONFIG.replace("steps = 3", "steps = '3'"), 'training.steps: found "3"'),
        (CONFIG.replace("seed = 5", "clip = 0"), "training.clip: "),
        (CONFIG.replace("seed = 5", "learning_rate = nan"), "training.learning_rate: "),
        (CONFIG.replace("seed = 5", "ema = 2"), "training.ema: "),
        (CONFIG + "[simulation]\nseed = 'a'\n", "simulation.seed: "),
        (CONFIG.replace('"tiny"', '"state"'), "name 'state': "),
        (CONFIG.replace('"tiny"', r'"a\u0000b"'), r"name 'a\\x00b': "),
        ("card = 'x'\n" + CONFIG.split("[card]")[0], r"card: .*\[card\]"),
        (CONFIG + "format = 'DICOM'\n", "card.format: "),
        (CONFIG + "steps = 5000\n", "card.steps: found 5000"),
        (CONFIG + "share = nan\n", "card: found nan"),
    ],
)
def test_wrong_configurations_are_refused(tmp_path, text, message):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(RequestError, match=message):
        read_config(path, TrainConfig)


def test_the_examples_of_the_readme_are_configurations():
    readme = (PROJECT / "diffusion" / "README.md").read_text("utf-8")
    train, distillation = (tomllib.loads(text) for text in re.findall(r"^```toml\n(.*?)^```", readme, re.M | re.S))
    from_mapping(train, TrainConfig)
    shared = {key: train[key] for key in ("manifest", "output")} | {"teacher": "t.safetensors"}
    from_mapping(shared | distillation, DistillConfig)


def test_gauge_is_measured_in_radians_per_mm_and_per_slice():
    phase = np.broadcast_to(0.3 * np.arange(16, dtype=np.float32)[:, None], (2, 16, 12)).copy()
    phase[1] -= 2.9
    volume = Volume(
        np.ones((2, 16, 12), np.float32), (5.0, 2.0, 1.0), ((0.0,) * 4,) * 4, "SPL", False, "assumed", "", phase
    )
    gauge = measure_gauge(volume)
    assert math.isnan(float(gauge[0]))
    assert torch.allclose(gauge[1:], torch.tensor([math.sqrt(2.0), 0.15, 0.0, -2.9]), atol=1e-4)


def test_loss_is_kept_in_the_run_folder(config):
    train(read_config(config, TrainConfig))
    rows = [json.loads(line) for line in (config.parent / "run" / "loss.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]


def test_the_published_process_is_trained_and_sampled_by_name(config):
    config.write_text(CONFIG.replace('name = "tiny"', 'name = "tiny"\nprocess = "ddpm"') + "\n[ddpm]\ntimesteps = 7\n")
    path = train(read_config(config, TrainConfig))
    checkpoint = load_checkpoint(path)
    assert checkpoint.process == "ddpm"
    assert checkpoint.card["ddpm"] == {"timesteps": 7}
    assert make_generator("diffusion", path).nfe == 7


def test_flow_and_network_of_a_configuration_are_kept_and_followed(config):
    plain = train(read_config(config, TrainConfig))
    assert load_checkpoint(plain).card["flow"] == {"source": "narrow", "grid_mm": 1.5, "noise": True}
    weights = [plain.read_bytes()]
    for number, (old, new) in enumerate(
        [
            ("[card]", '[flow]\nsource = "scales"\n[card]'),
            ("[card]", "[flow]\ngrid_mm = 3.0\n[card]"),
            ("groups = 2", "groups = 4"),
        ]
    ):
        config.write_text(CONFIG.replace(old, new).replace('"run"', f'"run-{number}"'))
        path = train(read_config(config, TrainConfig))
        weights.append(path.read_bytes())
        checkpoint = load_checkpoint(path)
        assert checkpoint.settings(FlowConfig) == read_config(config, TrainConfig).settings
        assert checkpoint.network.config == read_config(config, TrainConfig).network
        generator = make_generator("diffusion", path)
        phasor = generator.sample_phase(torch.rand(1, 20, 24), [SliceKey(0, "v", 0, 0)], Conditions((1.0, 1.0)))
        assert torch.allclose(phasor.abs(), torch.ones(1, 20, 24), atol=1e-5)
    assert len(set(weights)) == 4


def test_a_run_folder_belongs_to_one_recipe(config):
    train(read_config(config, TrainConfig))
    config.write_text(CONFIG + '[flow]\nsource = "scales"\n')
    with pytest.raises(RequestError, match="another flow"):
        train(read_config(config, TrainConfig))
    config.write_text(CONFIG.replace("groups = 2", "groups = 4"))
    with pytest.raises(RequestError, match="another network"):
        train(read_config(config, TrainConfig))


def test_finer_slices_are_trained_on_at_the_grid(config):
    own, coarse = (read_training_set(config.parent / "pairs.csv", "train", grid_mm=size) for size in (0.0, 2.0))
    assert [tuple(one.image.shape) for one in own.slices] == [(24, 20)] * 3
    assert own.slices[0].spacing_mm == (1.0, 1.0)
    assert [tuple(one.image.shape) for one in coarse.slices] == [(12, 10)] * 3
    assert coarse.slices[0].spacing_mm == (2.0, 2.0)
    kspace = fft2c(own.slices[1].image)[6:18, 5:15] / 2  # a quarter of the pixels at the same brightness
    assert torch.allclose(fft2c(coarse.slices[1].image), kspace, atol=1e-4)


def test_another_recipe_does_not_resume_a_run(config):
    train(read_config(config, TrainConfig))
    config.write_text(CONFIG.replace("steps = 3", "steps = 4"))  # going on for longer is no other recipe
    train(read_config(config, TrainConfig))
    rows = [json.loads(line) for line in (config.parent / "run" / "loss.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    for text, what in [
        (CONFIG.replace("[4, 8]", "[4, 4]"), "network"),
        (CONFIG.replace("seed = 5", "seed = 6"), "training"),
        (CONFIG.replace('split = "train"', 'split = "val"'), "data"),
        (CONFIG.replace("[network]", "process = 'ddpm'\n[network]"), "ddpm, flow, process"),
    ]:
        config.write_text(text)
        with pytest.raises(RequestError, match=f"another {what}"):
            train(read_config(config, TrainConfig))


def test_a_run_is_not_resumed_with_other_files_of_the_same_names(config):
    train(read_config(config, TrainConfig))
    phase = np.load(config.parent / "p.npy")
    np.save(config.parent / "p.npy", -phase)
    with pytest.raises(RequestError, match="another content"):
        train(read_config(config, TrainConfig))
    np.save(config.parent / "p.npy", phase)
    train(read_config(config, TrainConfig))


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_a_state_that_cannot_be_read_is_refused(config, content):
    train(read_config(config, TrainConfig))
    state = config.parent / "run" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-40] if content is None else content)
    with pytest.raises(RequestError, match=r"state\.safetensors"):
        train(read_config(config, TrainConfig))


@pytest.mark.parametrize("content", ["[1]", "{", "", None])
def test_a_torn_recipe_does_not_cost_the_training(config, content):
    """The state names its recipe, too, so another one is still refused."""
    train(read_config(config, TrainConfig))
    recipe = config.parent / "run" / "recipe.json"
    whole = recipe.read_text()
    recipe.unlink() if content is None else recipe.write_text(content)
    config.write_text(CONFIG.replace("seed = 5", "seed = 6"))
    with pytest.raises(RequestError, match=r"another recipe.*choose another output"):
        train(read_config(config, TrainConfig))
    config.write_text(CONFIG)
    train(read_config(config, TrainConfig))
    assert recipe.read_text() == whole


def test_a_damaged_state_costs_only_what_came_after_the_one_before(config):
    config.write_text(CONFIG.replace("steps = 3", "steps = 2"))
    train(read_config(config, TrainConfig))
    config.write_text(CONFIG)
    expected = train(read_config(config, TrainConfig)).read_bytes()
    state = config.parent / "run" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-40])
    assert train(read_config(config, TrainConfig)).read_bytes() == expected


def test_a_recipe_that_cannot_be_written_is_refused(config):
    train(read_config(config, TrainConfig))
    recipe = config.parent / "run" / "recipe.json"
    recipe.unlink()
    recipe.mkdir()
    with pytest.raises(RequestError, match="choose another output"):
        train(read_config(config, TrainConfig))


def test_fewer_steps_than_a_run_has_made_are_refused(config):
    train(read_config(config, TrainConfig))
    config.write_text(CONFIG.replace("steps = 3", "steps = 1"))
    with pytest.raises(RequestError, match=r"3 steps.* steps = 1"):
        train(read_config(config, TrainConfig))


def test_two_do_not_train_in_one_folder(config, monkeypatch):
    batch, refused = TrainingSlices.__call__, []

    def another(self, number):
        if not refused:
            refused.append(number)
            with pytest.raises(RequestError, match="run: in use"):
                train(read_config(config, TrainConfig))
        return batch(self, number)

    monkeypatch.setattr(TrainingSlices, "__call__", another)
    train(read_config(config, TrainConfig))
    assert refused


def test_weights_of_another_network_are_no_start(config):
    path = train(read_config(config, TrainConfig))
    text = CONFIG.replace('"run"', '"two"').replace("[network]", f"initial = '{path}'\n[network]")
    config.write_text(text)
    train(read_config(config, TrainConfig))
    config.write_text(text.replace("[4, 8]", "[4, 4]"))
    with pytest.raises(RequestError, match=r"channels = \(4, 8\).*\[network\]"):
        train(read_config(config, TrainConfig))


def test_a_truncated_line_of_a_curve_is_dropped(config):
    train(read_config(config, TrainConfig))
    loss = config.parent / "run" / "loss.jsonl"
    loss.write_text(loss.read_text() + '{"step": 3, "lo')
    assert [step for step, _ in read_losses(loss)] == [0, 1, 2]


def test_checkpoints_may_be_read_by_whoever_may_read_the_folder(config):
    path = train(read_config(config, TrainConfig))
    assert path.stat().st_mode == path.with_suffix(".json").stat().st_mode
    assert (path.parent / "ema.safetensors").stat().st_mode == path.stat().st_mode


def test_a_full_disk_is_one_line(config, monkeypatch, capfd):
    def fill(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")  # without a name, as a write gives it

    monkeypatch.setattr(Path, "write_bytes", fill)
    assert main(["train", str(config), "--device", "cpu"]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("No space left on device")


def test_a_session_has_one_gauge_with_a_bounded_ramp(config):
    folder = config.parent
    y = np.arange(24, dtype=np.float32)[:, None] * np.ones((1, 20), np.float32)
    for name, slope in (("steep", 1.0), ("flat", 0.01)):
        np.save(folder / f"{name}.npy", np.angle(np.exp(1j * np.stack([slope * y] * 3))).astype(np.float32))
    (folder / "pairs.csv").write_text(
        "volume_id,path,phase,subject_id,split,te_ms,sequence\n"
        + "".join(f"e{n},m.npy,steep.npy,one,train,{n},gradient-echo\n" for n in (2, 4, 6))
        + "x,m.npy,flat.npy,two,train,5,gradient-echo\n"
    )
    pool = read_training_set(folder / "pairs.csv", "train").gauge
    assert len(pool) == 2 and pool[:, 0].tolist() == [4.0, 5.0]
    spacing = float(pool[0, 1])
    assert float(pool[0, 2].abs()) * spacing == pytest.approx(2 * math.pi * 0.02, rel=1e-3)
    assert float(pool[1, 2].abs()) * spacing == pytest.approx(0.01, rel=0.1)


def test_volumes_without_signal_and_of_one_slice_do_not_enter_the_gauge(config, capfd):
    folder = config.parent
    for name in "mp":
        np.save(folder / f"{name}1.npy", np.load(folder / f"{name}.npy")[:1])
    np.save(folder / "zero.npy", np.zeros((3, 24, 20), np.float32))
    header, one, none = "volume_id,path,phase,split,licence\n", "b,m1.npy,p1.npy,,Y\n", "z,zero.npy,p.npy,,X\n"
    (folder / "pairs.csv").write_text(header + one + none + "a,m.npy,p.npy,,X\n")
    data = read_training_set(folder / "pairs.csv", "")
    assert "zero.npy: " in capfd.readouterr().err
    assert data.facts["licences"] == {"X": 3, "Y": 1}
    assert data.gauge.shape == (1, 5)
    (folder / "pairs.csv").write_text(header + one)
    data = read_training_set(folder / "pairs.csv", "")
    assert data.gauge.shape == (1, 5) and float(data.gauge[0, 4]) == 0.0


def test_a_manifest_without_splits_is_refused(config):
    (config.parent / "pairs.csv").write_text("volume_id,path,phase\na,m.npy,p.npy\n")
    with pytest.raises(RequestError, match=r"pairs.csv: .*column split"):
        train(read_config(config, TrainConfig))


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 1, 40), (2, 40, 1)])
def test_slices_of_one_row_or_column_are_trained_on(config, shape):
    random = np.random.default_rng(1)
    nibabel.save(nibabel.Nifti1Image(random.uniform(1, 2, shape[::-1]), np.eye(4)), config.parent / "m.nii")
    nibabel.save(nibabel.Nifti1Image(random.uniform(-3, 3, shape[::-1]), np.eye(4)), config.parent / "p.nii")
    (config.parent / "pairs.csv").write_text("volume_id,path,phase,split\na,m.nii,p.nii,train\n")
    data = read_training_set(config.parent / "pairs.csv", "train")
    batches = TrainingSlices(data.slices, 256, 0)
    assert all(min(batches(step).image.shape) > 0 for step in range(60))


def test_a_run_folder_that_cannot_be_made_is_refused(config):
    (config.parent / "run").write_text("a file")
    with pytest.raises(RequestError, match="choose another output"):
        train(read_config(config, TrainConfig))


def test_magnitude_that_is_not_finite_is_skipped(config, capfd):
    magnitude = np.load(config.parent / "m.npy")
    magnitude[0, 3, 3] = np.nan
    np.save(config.parent / "m.npy", magnitude)
    with pytest.raises(RequestError, match="no row"):
        train(read_config(config, TrainConfig))
    assert "m.npy: " in capfd.readouterr().err


def test_an_interruption_names_the_run_folder(config, monkeypatch, capfd):
    def interrupt(self, number):
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingSlices, "__call__", interrupt)
    assert main(["train", str(config), "--device", "cpu"]) == 130
    assert str(config.parent / "run") in capfd.readouterr().err


@pytest.mark.parametrize(
    ("capability", "precision"), [("AVX2", "bfloat16"), ("AVX512", "bfloat16"), ("AVX2", "float32")]
)
def test_a_slow_precision_is_reported(config, monkeypatch, capfd, capability, precision):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    config.write_text(CONFIG.replace("seed = 5", f'seed = 5\nprecision = "{precision}"'))
    assert train_command(config, "cpu") == 0
    assert ("bfloat16" in capfd.readouterr().err) == (capability == "AVX2" and precision == "bfloat16")


def test_a_loss_that_is_not_finite_fails_in_one_line(config, capfd):
    config.write_text(CONFIG.replace("seed = 5", "seed = 5\nwarmup = 0\nclip = 1e30\nlearning_rate = 1e30"))
    assert main(["train", str(config), "--device", "cpu"]) == 1
    assert "lower learning_rate" in capfd.readouterr().err


def test_pairs_complex_nifti_and_kspace_of_one_and_several_coils_train_together(config):
    folder = config.parent
    y, x = np.mgrid[-1:1:24j, -1:1:20j]
    image = (np.exp(-3 * (x**2 + y**2)) * np.exp(1j * (x + y**2)) * np.ones((2, 1, 1))).astype(np.complex64)
    nibabel.Nifti1Image(image.transpose(2, 1, 0), np.diag([2.0, 2.0, 5.0, 1.0])).to_filename(folder / "c.nii.gz")
    maps = np.stack([np.exp(-((x - a) ** 2) + 0.3j * a * y) for a in (-1, 1)])
    for name, coil_images in (("single.h5", image), ("multi.h5", image[:, None] * maps)):
        kspace = fft2c(torch.from_numpy(coil_images.astype(np.complex64))).numpy()
        with h5py.File(folder / name, "w") as file:
            file["kspace"] = kspace
    (folder / "pairs.csv").write_text(
        "volume_id,path,phase,kspace,split\na,m.npy,p.npy,,train\nb,c.nii.gz,c.nii.gz,,train\n"
        "c,single.h5,,single.h5,train\nd,multi.h5,,multi.h5,train\n"
    )
    data = read_training_set(folder / "pairs.csv", "train")
    assert len(data.slices) == 3 + 2 + 2 + 2 and data.gauge.shape == (4, 5)
    inside = torch.from_numpy(x**2 + y**2 < 0.5)
    target = torch.from_numpy(image[0])
    for one, tolerance in ((data.slices[5], 1e-4), (data.slices[7], 0.1)):
        turned = (one.image * target.conj())[inside]
        coherence = turned.sum().abs() / turned.abs().sum()
        assert float(coherence) > 1 - tolerance  # the object's phase, up to a constant and the coil's smooth one
    assert load_checkpoint(train(read_config(config, TrainConfig))).card["data"]["slices"] == 9


def test_rows_of_some_licences_and_simulated_volumes(config):
    folder = config.parent
    (folder / "pairs.csv").write_text(
        "volume_id,path,phase,split,licence\na,m.npy,p.npy,train,MIT\nb,m.npy,p.npy,train,GPL-3.0\n"
    )
    config.write_text('licences = ["MIT"]\n' + config.read_text() + "\n[simulation]\nvolumes = 1\nseed = 4\n")
    settings = read_config(config, TrainConfig)
    data = read_training_set(settings.manifest, "train", settings.licences, settings.simulation)
    assert data.facts["licences"] == {"MIT": 3} and len(data.gauge) == 1
    assert data.facts["simulated_slices"] == len(data.slices) - 3 > 5
    assert data.facts["simulation"] == {"volumes": 1, "phases": 0, "seed": 4}
    put_on = SimulationConfig(phases=2, seed=4)
    one, two = (read_training_set(settings.manifest, "train", ("MIT",), put_on) for _ in range(2))
    assert one.facts["simulated_slices"] == len(one.slices) - 3 > 0
    assert {part.group for part in one.slices} == {"a", "simulated phase"}
    assert all(torch.equal(a.image, b.image) for a, b in zip(one.slices, two.slices, strict=True))
    assert len({part.te_ms for part in one.slices[3:]}) == 2
    (folder / "others.csv").write_text("volume_id,path,spacing_mm\nc,m.npy,3 2 2\nd,absent.npy,3 2 2\n")
    more = read_training_set(settings.manifest, "train", ("MIT",), put_on, magnitudes=folder / "others.csv")
    assert more.facts["magnitudes_sha256"] and more.facts["slices"] == 3
    with pytest.raises(RequestError, match="BSD-2-Clause"):
        read_training_set(settings.manifest, "train", ("BSD-2-Clause",))


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ('licences = "MIT"\n', "licences: "),
        ("licences = [3]\n", r"licences\[0\]: "),
        ("simulation = 5\n", r"simulation: .*\[simulation\]"),
    ],
)
def test_wrong_licences_and_simulation_are_refused(config, entry, match):
    config.write_text(entry + config.read_text())
    with pytest.raises(RequestError, match=match):
        read_config(config, TrainConfig)
