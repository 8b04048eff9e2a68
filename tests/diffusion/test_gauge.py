import pytest
import torch

from rephase.diffusion.physics.gauge import estimate_ramp, fix_gauge, ramp_phasor


def bumps(height: int, width: int) -> torch.Tensor:
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    return torch.exp(-4 * (y**2 + (x - 0.2) ** 2))


@pytest.mark.parametrize("ramp", [(0.0, 0.0), (0.3, -0.7), (-1.5, 2.9)])
def test_ramp_of_a_ramp_is_that_ramp(ramp):
    image = bumps(20, 33) * ramp_phasor(torch.tensor(ramp), 20, 33)
    assert torch.allclose(estimate_ramp(image), torch.tensor(ramp), atol=1e-4)


def test_fixing_the_gauge_removes_any_gauge():
    structure = torch.polar(bumps(24, 24), 2 * bumps(24, 24) ** 2)
    gauged = (
        structure * ramp_phasor(torch.tensor([0.4, -0.2]), 24, 24) * torch.polar(torch.tensor(1.0), torch.tensor(2.0))
    )
    assert torch.allclose(fix_gauge(gauged), fix_gauge(structure), atol=1e-4)
    assert torch.allclose(gauged.abs(), fix_gauge(gauged).abs(), atol=1e-6)


def test_an_empty_slice_stays_empty_and_finite():
    assert torch.equal(
        fix_gauge(torch.zeros(2, 8, 8, dtype=torch.complex64)), torch.zeros(2, 8, 8, dtype=torch.complex64)
    )
