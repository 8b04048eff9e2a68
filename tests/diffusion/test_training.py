import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_network import TINY

from rephase.diffusion.processes.flow import FlowConfig, FlowObjective, prepare_batch
from rephase.diffusion.processes.regression import RegressionObjective
from rephase.diffusion.training.trainer import Trainer, TrainingConfig, learning_rate
from rephase.readers.volume import Volume
from rephase.training import batches as training_data
from rephase.training.batches import TrainingSlice, TrainingSlices, augment_slice, slices_of


def training_slice(height: int = 24, width: int = 24) -> TrainingSlice:
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    magnitude = torch.exp(-3 * (x**2 + y**2))
    return TrainingSlice(torch.polar(magnitude, 2 * magnitude**2 + 0.3 * x), (2.0, 3.0), 4.6, math.nan)


def config(**changes: object) -> TrainingConfig:
    return TrainingConfig(**({"steps": 8, "pixels": 4 * 24 * 24, "warmup": 2, "save_every": 4, "seed": 3} | changes))


def data(settings: TrainingConfig) -> TrainingSlices:
    return TrainingSlices([training_slice(), training_slice(), training_slice(16, 20)], settings.pixels, settings.seed)


def losses(folder) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "loss.jsonl").read_text().splitlines()]


def test_an_interrupted_run_resumes_to_the_same_loss_curve_and_weights(tmp_path):
    settings = config()
    Trainer(TINY, settings, data(settings), tmp_path / "whole").run()
    Trainer(TINY, settings, data(settings), tmp_path / "parts").run(until=4)
    resumed = Trainer(TINY, settings, data(settings), tmp_path / "parts")
    assert resumed.step == 4
    resumed.run()
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    files = [(tmp_path / name / "ema.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]


def test_training_learns_a_simple_phase(tmp_path):
    settings = config(steps=150, learning_rate=3e-3, warmup=5, save_every=150, condition_dropout=0.0)
    Trainer(TINY, settings, data(settings), tmp_path).run()
    curve = losses(tmp_path)
    assert np.mean(curve[-20:]) < 0.75 * np.mean(curve[:5])


def test_a_diverging_run_stops(tmp_path):
    settings = config()
    trainer = Trainer(TINY, settings, data(settings), tmp_path)
    trainer.network.head.bias.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        trainer.run()


def test_batches_are_a_function_of_seed_and_step():
    settings = config()
    one, two = data(settings)(5), data(settings)(5)
    assert torch.equal(one.image, two.image)
    assert not torch.equal(one.image, data(settings)(6).image)
    assert one.image.shape[1:].numel() * len(one.image) <= settings.pixels


def test_prepared_targets_have_the_modulus_of_the_magnitude_and_the_source_has_its_noise():
    generator = torch.Generator().manual_seed(0)
    settings = config()
    tensors = prepare_batch(data(settings)(0), 1.0, generator, 16, FlowConfig())
    modulus = [x.square().sum(1).sqrt() for x in (tensors.x_0, tensors.x_1, tensors.weight)]
    assert torch.allclose(modulus[1], modulus[2], atol=1e-5)
    assert not modulus[0][modulus[2] == 0].any()
    noise = (modulus[0] - modulus[2])[modulus[2] > 0.5]
    assert 0 < float(noise.std()) < 0.1 and abs(float(noise.mean())) < 0.02
    assert tensors.x_1.shape[-1] % 16 == 0 and tensors.x_1.shape[-2] % 16 == 0
    assert bool(tensors.conditions.isnan().all())


def test_augmentation_keeps_the_set_of_magnitudes_and_swaps_spacing_with_the_axes():
    one = training_slice(24, 20)
    for seed in range(8):
        image, conditions, *_ = augment_slice(one, np.random.default_rng(seed), None, None, transposed=True, noisy=0.0)
        assert image.shape == (20, 24)
        assert torch.allclose(image.abs().flatten().sort().values, one.image.abs().flatten().sort().values)
        assert conditions[:3].tolist() == pytest.approx([3.0, 2.0, 4.6]) and bool(conditions[3].isnan())


def test_added_noise_is_complex_and_as_strong_as_its_range_says(monkeypatch):
    monkeypatch.setattr(training_data, "NOISE_RANGE", (0.02, 0.02))
    flat = replace(training_slice(64, 64), image=torch.ones(64, 64, dtype=torch.complex64))
    image, *_ = augment_slice(flat, np.random.default_rng(1), None, None, transposed=False, noisy=1.0)
    assert float(image.real.std()) == pytest.approx(0.02, rel=0.05)
    assert float(image.imag.std()) == pytest.approx(0.02, rel=0.05)


def test_coarser_resolution_changes_the_spacing_of_the_network():
    image, conditions, *_ = augment_slice(
        training_slice(), np.random.default_rng(0), (12, 16), None, transposed=False, noisy=0.5
    )
    assert image.shape == (12, 16)
    assert conditions[:2].tolist() == pytest.approx([4.0, 4.5])


@pytest.mark.parametrize("transposed", [False, True])
def test_a_crop_has_its_position_in_the_slice_whatever_is_flipped(transposed):
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    in_mm = torch.complex(100.0 + 2.0 * (y - 19.5), 100.0 + 3.0 * (x - 29.5))
    one = replace(training_slice(), image=in_mm, spacing_mm=(2.0, 3.0))
    for seed in range(20):
        random = np.random.default_rng(seed)
        image, _, found, _ = augment_slice(one, random, None, (16, 16), transposed=transposed, noisy=0.0)
        for axis, part in enumerate((image.imag, image.real) if transposed else (image.real, image.imag)):
            mm = part.abs()  # a conjugate has the imaginary part below 0
            step = float(mm.diff(dim=axis).mean())
            assert float(found[axis]) == pytest.approx((float(mm.mean()) - 100.0) * math.copysign(1.0, step), abs=1e-3)


def test_the_noise_level_follows_the_augmentation():
    """A coarser image has less of it, by the share of k-space that is kept; added noise adds in squares."""
    size, sigma = 64, 0.02
    random = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    noise = sigma * torch.view_as_complex(torch.randn(size, size, 2, generator=random))
    one = TrainingSlice((torch.hypot(x, y) < 0.5) + noise, (1.0, 1.0), 4.6, 3.0)
    for coarse, noisy in ((None, 0.0), ((40, 40), 0.0), (None, 1.0)):
        image, _, _, level = augment_slice(one, np.random.default_rng(1), coarse, None, transposed=False, noisy=noisy)
        air = float(image[:6].abs().square().mean() / 2.0) ** 0.5
        assert float(level) == pytest.approx(air, rel=0.15)


def test_learning_rate_warms_up_and_decays():
    settings = config(steps=1000, warmup=100)
    rates = [learning_rate(step, settings) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-5) and max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (99, 100) and rates[-1] == pytest.approx(1e-5, rel=0.01)


def volume(phase: np.ndarray | None) -> Volume:
    magnitude = np.ones((3, 4, 5), np.float32)
    magnitude[1] = 0
    return Volume(magnitude, (5.0, 1.0, 2.0), ((0.0,) * 4,) * 4, "SPL", False, "assumed", "", phase, te_ms=3.0)


def test_empty_slices_of_a_volume_are_skipped():
    slices = slices_of(volume(np.full((3, 4, 5), 0.5, np.float32)))
    assert len(slices) == 2
    assert slices[0].spacing_mm == (1.0, 2.0) and slices[0].te_ms == 3.0 and math.isnan(slices[0].field_t)
    assert torch.allclose(slices[0].image.angle(), torch.tensor(0.5))


def test_a_volume_without_phase_is_no_training_data():
    with pytest.raises(ValueError, match="no phase"):
        slices_of(volume(None))


def test_the_loss_is_the_mean_error_or_that_of_its_logarithm():
    error = torch.tensor([0.5, 0.25, 0.0])
    assert float(RegressionObjective().loss(error)) == pytest.approx(math.log(0.501 * 0.251 * 0.001) / 3)
    assert float(FlowObjective().loss(error)) == pytest.approx(0.25)


def test_slices_of_large_sessions_are_sampled_less_often_whatever_their_size():
    """Slices of both sizes that are seen in a number of batches, by session; the echo time tells which one."""
    kinds = {1.0: ("many", 64, 16), 2.0: ("few", 64, 4), 3.0: ("small", 32, 4)}
    slices = [
        TrainingSlice(torch.ones(size, size, dtype=torch.complex64), (3.0, 3.0), te, math.nan, group)
        for te, (group, size, count) in kinds.items()
        for _ in range(count)
    ]
    seen = dict.fromkeys(kinds, 0)
    for step in range(600):
        batch = TrainingSlices(slices, 8192, 7, 0.0)(step)
        if batch.image.shape[-1] in (64, 32) and batch.image.shape[-1] == kinds[float(batch.conditions[0, 2])][1]:
            for te in batch.conditions[:, 2].tolist():
                seen[te] += 1
    # sqrt(16) to sqrt(4) for groups of one size; of a quarter of the pixels, four times as many fit into a batch
    assert seen[1.0] / seen[2.0] == pytest.approx(2.0, rel=0.2)
    assert seen[3.0] / seen[2.0] == pytest.approx(1.0, rel=0.35)
