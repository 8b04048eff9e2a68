import pytest
import torch

from rephase.diffusion.physics.measurement import add_noise, estimate_sigma, noise_modulus


def complex_normals(*shape: int, seed: int = 0) -> torch.Tensor:
    draws = torch.randn((2, *shape), generator=torch.Generator().manual_seed(seed))
    return torch.complex(draws[0], draws[1])


def anatomy(size: int = 128) -> torch.Tensor:
    """A smooth disc with an edge, a dark hole and air around."""
    y, x = torch.linspace(-1, 1, size)[:, None], torch.linspace(-1, 1, size)
    disc = (x**2 + y**2 < 0.7).float() * (1.0 + 0.3 * x * y)
    return disc * (1 - 0.8 * ((x - 0.2) ** 2 + y**2 < 0.05).float())


@pytest.mark.parametrize("sigma", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("scale", [1.0, 4096.0])
def test_sigma_of_a_noisy_magnitude_is_found_despite_edges_and_air(sigma, scale):
    noisy = (anatomy() + sigma * complex_normals(3, 128, 128)).abs() * scale
    estimate = estimate_sigma(noisy) / scale
    assert torch.allclose(estimate, torch.full((3,), sigma), rtol=0.15)


def test_a_clean_magnitude_has_only_the_floor():
    assert float(estimate_sigma(anatomy())) == pytest.approx(0.003 * float(anatomy().max()), rel=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (8, 8)])
def test_empty_and_tiny_slices_have_a_finite_sigma(shape):
    assert float(estimate_sigma(torch.zeros(shape))) == 0.0
    assert bool(torch.isfinite(estimate_sigma(torch.rand(shape))))


def test_phase_noise_is_sigma_over_magnitude_where_bright_and_uniform_in_air():
    magnitude = torch.tensor([1.0, 0.0])[:, None, None].expand(2, 200, 200)
    noisy = add_noise(torch.ones(2, 200, 200) + 0j, magnitude, torch.full((2,), 0.02), complex_normals(2, 200, 200))
    assert float(noisy[0].angle().std()) == pytest.approx(0.02, rel=0.05)
    assert float(noisy[1].angle().std()) == pytest.approx(3.1416 / 3**0.5, rel=0.05)


def test_the_noise_of_the_flow_has_the_ratio_of_the_image_and_none_where_empty():
    magnitude = torch.tensor([[[0.0, 0.01, 0.5, 2.0]]])
    weight = torch.tensor([[[0.0, 0.1, 0.8, 1.2]]])
    modulus = noise_modulus(magnitude, weight, torch.tensor([0.02]))
    assert modulus[0, 0].tolist() == pytest.approx([0.0, 0.1, 0.8 * 0.04, 1.2 * 0.01])
    assert not noise_modulus(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2), torch.zeros(1)).any()
