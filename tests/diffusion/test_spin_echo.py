"""The phase of spin echoes and the noise of a phase, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from rephase.diffusion.baselines import SpinEchoPhase
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.physics.gauge import fix_gauge
from rephase.diffusion.physics.phase_noise import background_sigma, measure_noise, noise_angle, von_mises


def noisy_disc(sigma: float, level: float = 40.0, size: int = 96, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Magnitude of a disc with a dark centre and complex noise, `(1 size size)`, and its phase error."""
    random = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    radius = torch.hypot(x, y)
    signal = level * ((radius < 0.7) & (radius > 0.3)).float()
    noise = sigma * torch.randn(size, size, 2, generator=random)
    image = signal + torch.view_as_complex(noise)
    return image.abs()[None], image.angle()[None]


def order(kappa: float) -> float:
    """`<cos>` of a von Mises distribution: I1 / I0."""
    k = torch.tensor(kappa, dtype=torch.float64)
    return float(torch.special.i1e(k) / torch.special.i0e(k))


@pytest.mark.parametrize("kappa", [0.0, 0.05, 0.5, 2.0, 10.0, 49.0, 51.0, 1000.0])
def test_quantiles_of_von_mises_have_its_moments(kappa):
    uniforms = (torch.arange(100_001) + 0.5) / 100_001
    angle = von_mises(torch.full_like(uniforms, kappa), uniforms)
    assert float(torch.cos(angle).double().mean()) == pytest.approx(order(kappa), abs=6e-3)
    assert float(torch.sin(angle).double().mean()) == pytest.approx(0.0, abs=1e-4)
    assert bool((angle.diff() >= -1e-6).all())
    assert float(angle.abs().max()) <= math.pi + 1e-5


def test_the_least_and_the_largest_uniform_number_are_finite_angles():
    uniforms = torch.tensor([0.0, 2.0**-24, 0.5, 1.0 - 2.0**-24])
    for kappa in (0.0, 10.0, 1e4, 1e30):
        assert bool(torch.isfinite(von_mises(torch.full((4,), kappa), uniforms)).all())


@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_noise_is_read_off_the_air(sigma):
    magnitude, _ = noisy_disc(sigma)
    assert float(background_sigma(magnitude)) == pytest.approx(sigma, rel=0.05)
    assert float(measure_noise(magnitude)) == pytest.approx(sigma, rel=0.05)


def test_a_masked_background_says_nothing_of_noise():
    magnitude, _ = noisy_disc(3.0)
    masked = torch.where(magnitude < 12.0, 0.0, magnitude)
    assert math.isnan(float(background_sigma(masked)))
    assert float(measure_noise(masked)) > 0


def test_without_air_the_noise_is_read_off_homogeneous_tissue_whatever_the_texture_elsewhere():
    magnitude, _ = noisy_disc(1.0, level=100.0, size=160)
    masked = torch.where(magnitude < 40.0, 0.0, magnitude)
    plain = float(measure_noise(masked))
    rough = masked.clone()
    rough[:, :, :80] *= 1.0 + 0.2 * torch.rand(1, 160, 80, generator=torch.Generator().manual_seed(1))
    assert plain == pytest.approx(1.5, rel=0.2)  # 1.6 times the lowest tenth, which is below the mean
    assert float(measure_noise(rough)) == pytest.approx(plain, rel=0.2)


def test_a_background_noisier_than_tissue_is_no_background_of_this_image():
    magnitude, _ = noisy_disc(0.5, level=40.0)
    other, _ = noisy_disc(5.0, level=40.0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    radius = torch.hypot(x, y)[None]
    mixed = torch.where(radius > 0.7, other, torch.where(radius < 0.35, magnitude + 40.0, magnitude))
    assert float(background_sigma(mixed)) == pytest.approx(5.0, rel=0.2)
    assert float(measure_noise(mixed)) < 2.0


def test_a_small_slice_has_no_background():
    assert math.isnan(float(background_sigma(torch.ones(1, 5, 7))))


def test_phase_errors_are_those_of_the_measurement():
    """In tissue, in a hole without signal and in air, as complex noise makes them."""
    magnitude, error = noisy_disc(8.0, size=192)
    sampled = noise_angle(
        magnitude, torch.tensor([8.0]), torch.rand(1, 192, 192, generator=torch.Generator().manual_seed(1))
    )
    y, x = torch.meshgrid(torch.linspace(-1, 1, 192), torch.linspace(-1, 1, 192), indexing="ij")
    radius = torch.hypot(x, y)
    for inside in ((radius < 0.62) & (radius > 0.38), radius < 0.25, radius > 0.8):
        real, ours = (torch.cos(angle[0][inside]).mean() for angle in (error, sampled))
        assert float(ours) == pytest.approx(float(real), abs=0.15)


def phasors(te_ms: float | None, volume_id: str = "v", slices: int = 2) -> torch.Tensor:
    magnitude = torch.cat([noisy_disc(0.5, seed=index)[0] for index in range(slices)])
    keys = [SliceKey(3, volume_id, 0, index) for index in range(slices)]
    return SpinEchoPhase().sample_phase(magnitude, keys, Conditions((1.0, 1.0), te_ms, 3.0, 5.0))


def test_a_spin_echo_feels_no_echo_time():
    assert torch.equal(phasors(90.0), phasors(None))
    assert not torch.equal(phasors(90.0), phasors(90.0, "w"))


def test_a_spin_echo_is_calm_but_for_global_and_linear_phase():
    magnitude, _ = noisy_disc(0.5)
    flat = fix_gauge(magnitude * phasors(90.0, slices=1))[0]
    tissue = magnitude[0] > 20
    assert float((flat[tissue] / flat[tissue].abs()).real.mean()) > 0.9


def test_neighbouring_slices_are_alike():
    first, second = phasors(90.0)
    tissue = (noisy_disc(0.5)[0][0] > 20) & (noisy_disc(0.5, seed=1)[0][0] > 20)
    assert float((first * second.conj())[tissue].real.mean()) > 0.95
