import math

import numpy as np
import pytest
import torch

from rephase.config import ConfigError, from_mapping
from rephase.training.simulated import anatomy as simulation
from rephase.training.simulated.anatomy import (
    Anatomy,
    Echo,
    SimulationConfig,
    acquire,
    dipole_field,
    magnet_field,
    receive,
    sample_anatomy,
    sample_strength,
    shim,
    simulate,
    simulate_volume,
    smooth_field,
)

MM = (2.0, 2.0, 2.0)


def echo(te_ms: float) -> Echo:
    return Echo(te_ms, 3.0)


def sphere(size: int, radius_mm: float) -> torch.Tensor:
    axis = (torch.arange(size) - size // 2) * MM[0]
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return ((z**2 + y**2 + x**2) <= radius_mm**2).float()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_field_of_a_sphere_is_that_of_a_dipole_outside_and_none_inside(axis):
    size, radius = 96, 16.0
    field = dipole_field(sphere(size, radius), MM, axis)
    centre = [size // 2] * 3
    along, across = list(centre), list(centre)
    along[axis] += 14  # 28 mm
    across[(axis + 1) % 3] += 14
    expected = (radius / 28.0) ** 3 / 3.0  # times 3 cos^2 - 1
    background = float(field[0, 0, 0])
    assert float(field[tuple(along)]) == pytest.approx(2 * expected, rel=0.12, abs=abs(background))
    assert float(field[tuple(across)]) == pytest.approx(-expected, rel=0.12, abs=abs(background))
    assert abs(float(field[tuple(centre)])) < 0.02


def test_shim_removes_what_polynomials_explain():
    axis = torch.linspace(-1, 1, 12)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    field = 3.0 + x - 2 * y * z + 0.5 * x**2
    assert float(shim(field, torch.ones_like(field), 1.0).abs().max()) < 1e-4
    assert torch.allclose(shim(field, torch.ones_like(field), 0.5), field / 2, atol=1e-4)


def test_phase_of_a_known_field_and_of_fat():
    ones, zeros = torch.ones(4, 4, 4), torch.zeros(4, 4, 4)
    water = acquire(Anatomy(ones, zeros, zeros, zeros), 0.1 * ones, echo(5.0))
    assert torch.allclose(water.angle(), torch.tensor(2 * math.pi * 42.577 * 3.0 * 0.005 * 0.1), atol=1e-4)
    in_phase_ms = 1e3 / (42.577 * 3.0 * 3.4)
    fat = acquire(Anatomy(ones, zeros, zeros, ones), zeros, echo(in_phase_ms))
    assert torch.allclose(fat, torch.ones_like(fat), atol=1e-4)
    opposed = acquire(Anatomy(ones, zeros, zeros, ones), zeros, echo(in_phase_ms / 2))
    assert torch.allclose(opposed, -torch.ones_like(opposed), atol=1e-4)


def test_decay_and_dephasing_weaken_the_signal():
    ones, zeros = torch.ones(8, 4, 4), torch.zeros(8, 4, 4)
    decayed = acquire(Anatomy(ones, zeros, 50.0 * ones, zeros), zeros, echo(20.0))
    assert torch.allclose(decayed.abs(), torch.tensor(math.exp(-1.0)), atol=1e-5)
    one_cycle_a_slice = 1.0 / (42.577 * 3.0 * 0.02)
    ramp = one_cycle_a_slice * torch.arange(8.0)[:, None, None].expand(8, 4, 4)
    assert float(acquire(Anatomy(ones, zeros, zeros, zeros), ramp, echo(20.0)).abs().max()) < 1e-3


def test_smooth_field_has_its_correlation_length():
    field = smooth_field((512, 512), (1.0, 1.0), 12.0, np.random.default_rng(0))
    correlation = [float((field * field.roll(lag, 1)).mean()) for lag in (0, 12)]
    assert correlation[0] == pytest.approx(1.0, abs=0.01) and correlation[1] == pytest.approx(math.exp(-1), abs=0.08)


def test_anatomy_has_air_around_and_finite_maps():
    anatomy = sample_anatomy((16, 64, 64), (4.0, 3.0, 3.0), np.random.default_rng(3))
    assert all(bool(torch.isfinite(part).all()) for part in anatomy)
    assert float(anatomy.signal[:, 0, 0].max()) < 0.05 * float(anatomy.signal.max())
    assert float(anatomy.susceptibility[:, 0, 0].min()) > 9.0
    assert float(anatomy.signal.min()) >= 0.0


def test_volumes_are_a_function_of_seed_and_number():
    one, two = (next(simulate(SimulationConfig(1, seed=5))) for _ in range(2))
    other = next(simulate(SimulationConfig(1, seed=6)))
    assert all(torch.equal(a.image, b.image) for a, b in zip(one, two, strict=True))
    assert one[0].image.shape != other[0].image.shape or not torch.equal(one[0].image, other[0].image)
    assert all(part.image.dtype == torch.complex64 and bool(torch.isfinite(part.image.abs()).all()) for part in one)
    with pytest.raises(ConfigError, match="volumes: "):
        from_mapping({"volumes": -1}, SimulationConfig)


def test_the_magnet_is_homogeneous_in_the_middle_only():
    for seed in range(4):
        field = magnet_field((16, 100, 100), (5.0, 5.0, 5.0), np.random.default_rng(seed))
        assert float(field[6:10, 46:54, 46:54].abs().max()) < 0.05
        assert float(field.abs().max()) > 10 * float(field[6:10, 46:54, 46:54].abs().max())


def test_the_strength_of_the_field_varies_from_a_third_to_all_of_it():
    drawn = [sample_strength(np.random.default_rng(seed)) for seed in range(200)]
    assert 0.3 <= min(drawn) < 0.35 and 1.1 < max(drawn) <= 1.2


def test_the_phase_of_coils_grows_with_the_frequency():
    halves, whole = (receive((4, 48, 48), MM, field_t, np.random.default_rng(7), False) for field_t in (0.01, 0.04))
    assert torch.allclose(whole.angle(), 2 * halves.angle(), atol=1e-5)
    assert float(whole.angle().std()) > 1e-3 and torch.allclose(whole.abs(), torch.ones(4, 48, 48))


def test_a_stronger_field_makes_steeper_phase(monkeypatch):
    slopes = []
    for part in (0.01, 1.0):
        monkeypatch.setattr(simulation, "sample_strength", lambda random, part=part: part)
        image = simulate_volume(np.random.default_rng(2))[3].image
        step = image[1:] * image[:-1].conj()
        slopes.append(float((step.angle().abs() * step.abs()).sum() / step.abs().sum()))
    assert slopes[1] > 1.2 * slopes[0]
