import math

import pytest
import torch

from rephase.diffusion.physics.anatomy import estimate_axis
from rephase.diffusion.physics.field_phase import (
    AIR_PPM,
    FIRST_MM,
    GYROMAGNETIC,
    MOST_FOLDED_PHASE,
    NUM_UNIFORMS,
    FieldSample,
    _dipole_field,
    coil_deviation,
    field_phase,
    sample_field,
)
from rephase.diffusion.physics.magnet import Magnet, Places, magnet_field

MIDDLE = torch.zeros(1, 3)
NOWHERE = torch.full((1, 4), math.nan)


def conditions(te_ms: float = 4.6, field_t: float = 3.0, mm: float = 2.0) -> torch.Tensor:
    return torch.tensor([[mm, mm, te_ms, field_t]])


def draw(**changes: object) -> FieldSample:
    plain = sample_field(torch.full((1, NUM_UNIFORMS), 0.5))
    values = {name: torch.tensor([value]) for name, value in changes.items()}
    magnet = {name: values.pop(name) for name in Magnet._fields if name in values}
    return plain._replace(sign=torch.ones(1), magnet=plain.magnet._replace(**magnet), **values)


def values(draw: FieldSample) -> list[torch.Tensor]:
    return [*draw.magnet, *(value for value in draw if isinstance(value, torch.Tensor))]


def rings(size: int = 128) -> torch.Tensor:
    y, x = torch.meshgrid(*(torch.arange(size) - size // 2,) * 2, indexing="ij")
    return torch.sqrt((x**2 + y**2).float())


def test_sampled_parameters_are_in_range_and_used():
    low, high = (sample_field(torch.full((1, NUM_UNIFORMS), u)) for u in (0.0, 1.0 - 2.0**-24))
    assert float(low.air) == pytest.approx(0.05) and float(high.air) == pytest.approx(0.075)
    assert float(low.start) == FIRST_MM[0] and float(high.start) == pytest.approx(FIRST_MM[1], abs=1e-4)
    assert (int(low.axis), int(high.axis)) == (0, 2) and float(low.sign) == -float(high.sign)
    assert float(low.magnet.rim_ppm) == -3.75 and float(high.magnet.rim_ppm) == pytest.approx(3.75)
    for index in range(NUM_UNIFORMS):
        uniform = torch.zeros(1, NUM_UNIFORMS)
        uniform[0, index] = 0.9
        changed = sample_field(uniform)
        assert any(not torch.equal(a, b) for a, b in zip(values(low), values(changed), strict=True)), index


@pytest.mark.parametrize("axis", [0, 1])
def test_the_field_of_a_transverse_cylinder_is_analytic(axis):
    disc = (rings(256) < 12).float()[None]
    field = _dipole_field(disc, torch.ones(1, 2), torch.tensor([axis]))[0]
    far = float(field[0, 0])
    assert float(field[128, 128]) - far == pytest.approx(-1.0 / 6.0, abs=0.02)
    # outside half a^2 / r^2 times cos of twice the angle to the main field: more along it, less across
    along, across = (field[128 + 24, 128], field[128, 128 + 24]) if axis == 0 else (field[128, 152], field[152, 128])
    assert float(along) - far == pytest.approx(0.5 / 4.0, abs=0.02)
    assert float(across) - far == pytest.approx(-0.5 / 4.0, abs=0.02)


def test_the_field_of_an_object_along_the_main_field_is_a_third_of_its_susceptibility():
    disc = (rings(64) < 12).float()[None]
    field = _dipole_field(disc, torch.ones(1, 2), torch.tensor([2]))[0]
    assert float(field[32, 32] - field[0, 0]) == pytest.approx(1.0 / 3.0, abs=1e-3)


def test_the_phase_grows_with_echo_time_and_field_strength():
    magnitude = (rings() < 50).float()[None]
    one = field_phase(magnitude, conditions(2.0, 1.5), MIDDLE, draw()).plain
    assert torch.allclose(field_phase(magnitude, conditions(4.0, 1.5), MIDDLE, draw()).plain, 2 * one, rtol=1e-4)
    assert torch.allclose(field_phase(magnitude, conditions(2.0, 3.0), MIDDLE, draw()).plain, 2 * one, rtol=1e-4)
    assert float(one.abs().max()) > 0.1
    coils = [float(coil_deviation(conditions(field_t=t), draw())) for t in (1.5, 6.0)]
    assert coils[1] == pytest.approx(2 * coils[0])


def test_air_is_dark_over_a_centimetre_and_causes_phase_around_it():
    body = (rings() < 60).float()
    hole, speck = body * (rings() > 12), body * (rings() > 1)
    still = {"rim_ppm": 0.0, "axis": 0}
    phases = [field_phase(one[None], conditions(), MIDDLE, draw(**still)).plain[0] for one in (body, hole, speck)]
    beside = (rings() > 14) & (rings() < 22)
    change = [float((one - phases[0])[beside].std()) for one in phases[1:]]
    assert change[0] > 0.5 and change[1] < 0.1 * change[0]
    assert AIR_PPM > 9


def test_the_magnet_is_steep_at_its_rim_and_a_crop_has_the_field_of_its_position():
    whole = magnet_field(Places(torch.Size((1, 256, 192)), torch.full((1, 2), 2.0), MIDDLE), draw(rim_ppm=4.0).magnet)[
        0
    ]
    slope = torch.gradient(whole)[0].abs()
    assert float(slope[:16, 96].mean()) > 20 * float(slope[112:144, 96].mean())
    place = torch.tensor([[0.0, (200 - 128) * 2.0, (32 - 96) * 2.0]])
    part = magnet_field(Places(torch.Size((1, 64, 64)), torch.full((1, 2), 2.0), place), draw(rim_ppm=4.0).magnet)[0]
    assert torch.allclose(part[:56], whole[168:224, 0:64], atol=1e-4)


def test_bright_tissue_is_steeper_only_far_from_the_axis():
    away = rings(256)
    far, near = ((away < 105) + 2.0 * ((away > low) & (away < low + 15)) for low in (90, 20))
    round_one, wall = draw(axis=2, fold=0.7), (away > 92) & (away < 102)
    (plain, one), (_, other) = (
        (phase[0] for phase in field_phase(image[None], conditions(), MIDDLE, round_one)) for image in (far, near)
    )
    slopes = [float(torch.gradient(phase)[0].abs()[wall].mean()) for phase in (plain, plain + one)]
    assert slopes[1] > 2 * slopes[0]
    assert float(one[away < 70].abs().max()) < 0.05
    assert float(other.abs().max()) < 0.1 * float(one.abs().max())
    # along the axis there is no wall
    along = field_phase(far[None], conditions(), MIDDLE, draw(axis=0, fold=0.7)).folded[0]
    assert float(along[:, 124:132].abs().max()) < 0.05 < float(along[124:132].abs().max())


def test_folded_tissue_is_no_steeper_at_long_echo_times():
    away = rings(256)
    image = ((away < 105) + 2.0 * ((away > 90) & (away < 105)))[None]
    short, middle, long = (
        field_phase(image, conditions(te_ms=te), MIDDLE, draw(axis=2, fold=0.7)) for te in (2.0, 4.0, 9.0)
    )
    limit = MOST_FOLDED_PHASE / (2.0 * math.pi * GYROMAGNETIC * 1e-3 * 3.0)
    assert 3.5 < limit < 4.0
    torch.testing.assert_close(middle.folded, short.folded * limit / 2.0)
    assert torch.equal(long.folded, middle.folded)
    torch.testing.assert_close(long.plain, short.plain * 4.5, rtol=1e-4, atol=1e-4)


def test_the_main_field_lies_along_an_object_that_continues_beyond_the_slice():
    y, x = torch.meshgrid(torch.arange(64) - 32, torch.arange(64) - 32, indexing="ij")
    upright, round_one = (x.abs() < 20).float(), (x**2 + y**2 < 400).float()
    slices = torch.stack((upright, upright.T, round_one, torch.zeros(64, 64)))
    assert estimate_axis(slices, torch.tensor([2, 2, 1, 2])).tolist() == [0, 1, 1, 2]
    assert estimate_axis(torch.ones(1, 1, 3), torch.tensor([2])).tolist() == [2]


def test_unknown_conditions_are_sampled_and_an_empty_slice_has_a_phase():
    magnitude = (rings(64) < 20).float()[None]
    known = field_phase(magnitude, torch.tensor([[math.nan, math.nan, 3.0, 3.0]]), MIDDLE, draw(te_ms=9.0)).plain
    drawn = field_phase(magnitude, NOWHERE, MIDDLE, draw(te_ms=3.0)).plain
    assert torch.allclose(known, drawn, atol=1e-4)
    for shape in ((1, 1, 1), (1, 3, 50), (2, 32, 32)):
        count = shape[0]
        many = sample_field(torch.full((count, NUM_UNIFORMS), 0.5))
        phase = field_phase(torch.zeros(shape), NOWHERE.expand(count, 4), MIDDLE.expand(count, 3), many)
        assert all(part.shape == shape and bool(torch.isfinite(part).all()) for part in phase)
