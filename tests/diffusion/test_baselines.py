import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from tiny_network import TINY

from rephase.cli import main
from rephase.diffusion import registry
from rephase.diffusion.baselines import NoisySmoothPhase, SmoothPhase
from rephase.diffusion.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.physics import low_order
from rephase.diffusion.physics.gauge import fix_gauge
from rephase.diffusion.physics.low_order import (
    LENGTH_MM,
    TERMS,
    TYPICAL_TE_MS,
    FitVolume,
    LowOrderModel,
    fit_model,
    fit_slice,
    read_model,
    write_model,
)
from rephase.diffusion.processes.objective import Batch
from rephase.diffusion.processes.regression import RegressionGenerator, RegressionObjective, to_one_sign
from rephase.diffusion.registry import make_generator, make_learned

GAUGE = torch.tensor([[2.0, 2.0, 0.0, 0.0, 0.0]])


def keys(count: int, seed: int = 0, volume_id: str = "v") -> list[SliceKey]:
    return [SliceKey(seed, volume_id, 0, index) for index in range(count)]


def polynomial(coefficients, height=40, width=30, spacing=(3.0, 4.0)) -> torch.Tensor:
    y = (torch.arange(height, dtype=torch.float64) - height // 2)[:, None] * spacing[0] / LENGTH_MM
    x = (torch.arange(width, dtype=torch.float64) - width // 2) * spacing[1] / LENGTH_MM
    return sum(float(c) * y**i * x**j for c, (i, j) in zip(coefficients, TERMS, strict=True))


def random_model(scale=1.0, exponent=1.0, steps=(0.0,)) -> LowOrderModel:
    root = torch.randn(len(TERMS), len(TERMS), generator=torch.Generator().manual_seed(0)).double() * 0.3
    moments = tuple(tuple(row) for row in (scale * root @ root.T).tolist())
    nothing = tuple((0.0,) * len(TERMS) for _ in TERMS)
    return LowOrderModel(moments, nothing, exponent, steps, {})


def test_a_polynomial_is_fitted_despite_phase_wraps():
    coefficients = torch.tensor([3.0, -2.0, 1.0, 8.0, 0.5, -1.0, 2.0, -6.0, 1.5])
    phase = polynomial(coefficients)
    assert float(phase.max() - phase.min()) > 2 * math.pi
    found = fit_slice(torch.polar(torch.ones_like(phase), phase), (3.0, 4.0))
    # differences of neighbours are those of the polynomial itself, so nothing but the tiny ridge is in the way
    torch.testing.assert_close(found, coefficients.double(), rtol=1e-2, atol=1e-2)


def test_dark_pixels_do_not_count():
    coefficients = torch.arange(1.0, 10.0) * 0.2
    phase = polynomial(coefficients)
    noise = torch.rand(phase.shape, generator=torch.Generator().manual_seed(0)).double() * 6
    dark = torch.zeros(phase.shape, dtype=torch.bool)
    dark[:8] = True
    image = torch.polar(torch.where(dark, 1e-3, 1.0).double(), torch.where(dark, noise, phase))
    torch.testing.assert_close(fit_slice(image, (3.0, 4.0)), coefficients.double(), rtol=0.03, atol=0.03)


def test_a_fit_of_sampled_phase_returns_the_statistics_of_the_model():
    """A round trip over 300 volumes of one slice: second moments within what so few can tell."""
    model = random_model(exponent=0.0)
    volumes = []
    for index in range(300):
        phase = model.phase(SliceKey(0, f"v{index}", 0, 0), 32, 32, Conditions((4.0, 4.0)))
        volumes.append(FitVolume(torch.polar(torch.ones_like(phase), phase)[None], (5.0, 4.0, 4.0), None, f"s{index}"))
    found, wanted = (torch.tensor(one.between) for one in (fit_model(volumes, {}), model))
    assert float((found - wanted).norm() / wanted.norm()) < 0.25


def test_coefficients_grow_with_the_echo_time_as_fitted():
    coefficients = torch.tensor([0.0, 0.3, 0.0, 0.0, 0.2, 0.1, 0.0, 0.0, 0.1])
    volumes = []
    for index, te_ms in enumerate((2.5, 5.0, 10.0)):
        phase = polynomial(coefficients * te_ms / TYPICAL_TE_MS)
        volumes.append(FitVolume(torch.polar(torch.ones_like(phase), phase)[None], (5.0, 3.0, 4.0), te_ms, f"s{index}"))
    model = fit_model(volumes, {})
    assert model.te_exponent == pytest.approx(1.0, abs=0.01)
    torch.testing.assert_close(torch.tensor(model.between).diagonal(), coefficients**2, rtol=0.05, atol=1e-4)


def test_all_sessions_have_the_same_weight():
    strong, weak = (polynomial([0, 0, 0, 0, 0, 0, value, 0, 0]) for value in (1.0, 0.1))
    volumes = [
        FitVolume(torch.polar(torch.ones_like(phase), phase)[None], (5.0, 3.0, 4.0), None, session)
        for phase, session in [(strong, "a")] * 9 + [(weak, "b")]
    ]
    assert fit_model(volumes, {}).between[6][6] == pytest.approx((1.0 + 0.01) / 2, rel=0.02)


def test_the_phase_step_from_slice_to_slice_is_fitted_and_sampled():
    turning = torch.polar(torch.ones(6, 16, 16), 0.4 * torch.arange(6.0)[:, None, None].expand(6, 16, 16))
    model = fit_model([FitVolume(turning, (5.0, 2.0, 2.0), None, "s")], {})
    assert model.steps_rad_per_mm == pytest.approx([0.08], abs=1e-5)
    still = dataclasses.replace(random_model(0.0), steps_rad_per_mm=model.steps_rad_per_mm)
    made = SmoothPhase(still).sample_phase(torch.ones(3, 8, 8), keys(3), Conditions((2.0, 2.0), slice_mm=10.0))
    steps = (made[1:] * made[:-1].conj()).angle().abs()
    torch.testing.assert_close(steps, torch.full_like(steps, 0.8), rtol=1e-3, atol=1e-3)


def test_a_single_volume_is_enough_for_a_fit():
    """Its moments are singular: with too few digits some eigenvalue would be negative."""
    drawn = SmoothPhase(random_model())
    for number in range(8):
        image = drawn.sample_phase(torch.ones(1, 48, 40), keys(1, seed=number), Conditions((4.0, 4.0)))
        fitted = SmoothPhase(fit_model([FitVolume(image, (5.0, 4.0, 4.0), 4.0, "s")], {}))
        again = fitted.sample_phase(torch.ones(1, 8, 8), keys(1), Conditions())
        assert bool(torch.isfinite(again.abs()).all())


def test_gradients_are_per_millimetre_not_per_pixel():
    model, key = random_model(), keys(1)
    fine = SmoothPhase(model).sample_phase(torch.ones(1, 64, 64), key, Conditions((1.0, 1.0)))[0]
    coarse = SmoothPhase(model).sample_phase(torch.ones(1, 32, 32), key, Conditions((2.0, 2.0)))[0]
    torch.testing.assert_close(fine[::2, ::2], coarse, rtol=1e-4, atol=1e-4)


def test_slices_of_a_volume_are_alike_and_volumes_are_not():
    generator, magnitude = make_generator("smooth"), torch.ones(2, 32, 32)
    one = generator.sample_phase(magnitude, keys(2), Conditions((8.0, 8.0), slice_mm=1.0))
    other = generator.sample_phase(magnitude, keys(2, volume_id="w"), Conditions((8.0, 8.0), slice_mm=1.0))
    fixed = fix_gauge(torch.stack([one[0], one[1], other[0]]))
    near, far = ((fixed[0] * fixed[index].conj()).mean().abs() for index in (1, 2))
    assert near > 0.98 > far


def test_the_noise_level_is_that_of_the_magnitude():
    clean, noisy = SmoothPhase(), NoisySmoothPhase()
    magnitude = torch.ones(1, 64, 64)
    magnitude[:, :, 32:] = 0.0
    apart = [one.sample_phase(magnitude, keys(1), Conditions()) for one in (clean, noisy)]
    error = (apart[0] * apart[1].conj()).angle().abs()
    assert float(error[..., :32].median()) < 0.01 and float(error[..., 32:].median()) > 1.0


def test_the_shipped_fit_can_be_read_and_written(tmp_path):
    model = read_model()
    write_model(model, tmp_path / "s.json")
    assert read_model(tmp_path / "s.json") == model and model.data["split"] == "train"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"between": [[1.0]]}, "9 x 9"),
        ({"te_exponent": math.nan}, "finite"),
        ({"steps_rad_per_mm": []}, "one step"),
        ({"within": None}, "not a fit"),
    ],
)
def test_a_damaged_fit_is_refused(tmp_path, change, expected):
    path = tmp_path / "s.json"
    write_model(read_model(), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=expected):
        read_model(path)


def test_a_missing_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fit-baseline"):
        read_model(tmp_path / "gone.json")
    negative = tuple(tuple(-float(i == j) for j in range(len(TERMS))) for i in range(len(TERMS)))
    with pytest.raises(ValueError, match="negative"):
        dataclasses.replace(read_model(), between=negative)
    with pytest.raises(ValueError, match="no slice"):
        fit_model([FitVolume(torch.zeros(2, 8, 8, dtype=torch.complex64), (1.0, 1.0, 1.0), None, "s")], {})


def test_command_fits_and_evaluate_takes_the_fit(tmp_path, capsys):
    y, x = np.mgrid[-1:1:24j, -1:1:24j].astype(np.float32)
    np.save(tmp_path / "m.npy", np.exp(-(x**2) - y**2)[None].repeat(2, 0))
    np.save(tmp_path / "p.npy", np.angle(np.exp(1j * (x + 2 * y * y)))[None].repeat(2, 0))
    manifest = tmp_path / "p.csv"
    manifest.write_text("volume_id,path,phase,split,anatomy\nv,m.npy,p.npy,train,abdomen\n")
    fit = tmp_path / "out" / "fit.json"
    assert main(["fit-baseline", "smooth", "--real", str(manifest), "--split", "train", "-o", str(fit)]) == 0
    assert read_model(fit).data["volumes"] == 1
    words = ["--generators", "smooth", "--no-classifier", "--smooth"]
    assert main(["evaluate", "phase", "--real", str(manifest), *words, str(fit)]) == 0
    assert main(["evaluate", "phase", "--real", str(manifest), *words, str(tmp_path / "gone.json")]) == 2
    assert main(["fit-baseline", "smooth", "--real", str(manifest), "--split", "test", "-o", str(fit)]) == 2
    assert "expected rows with real phase" in capsys.readouterr().err


@pytest.fixture
def regression() -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(ComplexUNet(TINY).eval().requires_grad_(False), "regression", GAUGE, "0" * 64, {})


def test_targets_of_one_sign_do_not_depend_on_the_scanner():
    image = torch.randn(4, 6, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    turned = to_one_sign(image)
    torch.testing.assert_close(to_one_sign(image.conj().resolve_conj()), turned)
    assert bool((turned.square().sum(dim=(-2, -1)).imag >= 0).all())


def test_a_perfect_prediction_has_no_error(regression, monkeypatch):
    objective = RegressionObjective()
    image = torch.randn(2, 8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    tensors = objective.prepare(Batch(image, torch.full((2, 4), 2.0)), 0.0, torch.Generator().manual_seed(0), 4)
    assert float(objective.error(regression.network, tensors).min()) > 0.1
    monkeypatch.setattr(
        "rephase.diffusion.processes.regression.predict", lambda network, weight, conditions: tensors[0]
    )
    assert float(objective.error(regression.network, tensors).max()) == 0.0


def test_the_expected_phase_is_one_answer_with_two_signs(regression):
    """Seeds change only the sense, the gauge and the noise; the gauge is none here, and bright pixels have no noise."""
    generator = RegressionGenerator(regression)
    magnitude = 100 * torch.ones(1, 16, 16)
    draws = [generator.sample_phase(magnitude, keys(1, seed), Conditions((2.0, 2.0)))[0] for seed in range(6)]
    plain = [one * one.mean().conj() / one.mean().abs() for one in draws]
    for one in plain[1:]:
        assert min(float((one - plain[0]).abs().mean()), float((one.conj() - plain[0]).abs().mean())) < 0.02


def test_a_regression_is_recognised_by_its_card_and_has_one_evaluation(tmp_path, regression):
    path = tmp_path / "r.safetensors"
    save_checkpoint(regression.network, GAUGE, {"process": "regression"}, path)
    assert make_generator("regression", path).nfe == 1
    assert isinstance(make_learned(load_checkpoint(path)), RegressionGenerator)
    with pytest.raises(ValueError, match="one evaluation"):
        make_generator("regression", path, steps=4)
    save_checkpoint(regression.network, GAUGE, {"process": "flow"}, path)
    with pytest.raises(CheckpointError, match="expected some for regression"):
        make_generator("regression", path)


@pytest.mark.parametrize("name", ["smooth", "smooth-noise"])
def test_a_recipe_of_an_earlier_algorithm_keeps_the_earlier_fit_of_smooth_phase(name, monkeypatch, tmp_path):
    now, earlier = (make_generator(name, algorithm=one) for one in (None, 11))
    assert (now.model, earlier.model) == (read_model(), read_model(low_order.EARLIER_FIT))
    assert now.licence == "BSD-2-Clause and CC0-1.0 and MIT" and earlier.licence == "GPL-3.0"
    assert make_generator("spin-echo", algorithm=11).model == make_generator("spin-echo").model
    monkeypatch.setattr(registry, "EARLIER_FIT", tmp_path / "smooth-11.json")
    with pytest.raises(ValueError, match=r"smooth-11.json: .* is not part of this installation; copy it from"):
        make_generator(name, algorithm=11)
