import math

import pytest
import torch

from rephase.diffusion.generators import SliceKey
from rephase.diffusion.physics.gauge import estimate_ramp
from rephase.diffusion.physics.singularities import find_singularities
from rephase.diffusion.physics.source import (
    FIELDS,
    OF_MAGNITUDE,
    SOURCES,
    source_phasors,
    training_source,
)

SPACING = torch.tensor([2.0, 4.0])
KNOWN = torch.tensor([2.0, 4.0, 4.6, 3.0])


def drawn(count: int, kind: str, size: int = 256) -> torch.Tensor:
    magnitude = torch.ones(count, size, size)
    return training_source(magnitude, KNOWN.expand(count, 4), torch.Generator().manual_seed(0), kind)


def of_key(key: SliceKey, shape: tuple[int, int], kind: str, conditions: torch.Tensor = KNOWN) -> torch.Tensor:
    return source_phasors([key], torch.ones(1, *shape), conditions, 5.0, kind).phasor[0]


def likeness(phasor: torch.Tensor, mm: float, axis: int) -> float:
    lag = round(mm / float(SPACING[axis]))
    size = phasor.shape[axis + 1]
    far, near = phasor.narrow(axis + 1, lag, size - lag), phasor.narrow(axis + 1, 0, size - lag)
    return float((far * near.conj()).real.mean())


@pytest.mark.parametrize("kind", SOURCES)
def test_source_of_a_key_is_repeatable_at_any_size(kind):
    key, unknown = SliceKey(1, "v", 0, 2), torch.full((4,), torch.nan)
    for shape in ((1, 1), (7, 10), (32, 32)):
        source = of_key(key, shape, kind, unknown)
        assert torch.equal(source, of_key(key, shape, kind, unknown))
        assert source.shape == shape and bool(torch.isfinite(torch.view_as_real(source)).all())
        assert torch.allclose(source.abs(), torch.ones(shape), atol=1e-5)


def test_neighbouring_slices_start_alike_and_distant_ones_do_not():
    def source(index: int) -> torch.Tensor:
        return of_key(SliceKey(1, "v", 0, index), (128, 128), "scales")

    first = source(3)
    alike = [float((first * source(3 + step).conj()).mean().abs()) for step in (0, 1, 60)]
    assert alike[0] > 0.999 and alike[1] > 0.8 and alike[2] < 0.6


@pytest.mark.parametrize("kind", sorted(set(FIELDS) - set(OF_MAGNITUDE)))
def test_a_smooth_source_has_the_likeness_of_its_sum_of_fields_and_no_singularities(kind):
    source = drawn(16, kind)
    assert torch.allclose(source.abs(), torch.ones(16, 256, 256), atol=1e-5)
    for axis in (0, 1):
        for mm in (8.0, 24.0, 48.0):
            spread = sum(a**2 * (1 - math.exp(-((mm / length) ** 2))) for length, a in FIELDS[kind])
            assert abs(likeness(source, mm, axis) - math.exp(-spread)) < 0.08
    singular, counted = find_singularities(source, torch.ones(source.shape, dtype=torch.bool))
    assert int(singular.sum()) == 0 and bool(counted.all())


def test_the_field_source_is_in_the_gauge_of_the_targets_and_follows_the_magnitude():
    magnitude = torch.zeros(1, 96, 96)
    magnitude[:, 16:80, 16:80] = 1.0
    magnitude[:, 40:56, 40:56] = 0.0  # air in the middle
    key = SliceKey(3, "v", 0, 9)
    source = source_phasors([key], magnitude, KNOWN, 5.0, "field").phasor
    image = magnitude * source
    assert float(estimate_ramp(image).abs().max()) < 1e-3
    assert abs(float((image * magnitude).sum().angle())) < 1e-3
    other = magnitude.roll(8, dims=2)
    moved = source_phasors([key], other, KNOWN, 5.0, "field").phasor
    both = (magnitude > 0) & (other > 0)
    assert float((source * moved.conj())[both].mean().abs()) < 0.999
    # the brightness of an image has no unit
    brighter = source_phasors([key], 512.0 * magnitude, KNOWN, 5.0, "field").phasor
    assert torch.allclose(source, brighter, atol=1e-3)


def test_neighbouring_slices_of_the_field_source_are_of_one_field():
    magnitude = torch.ones(3, 64, 64)
    keys = [SliceKey(1, "v", 0, index) for index in (4, 5, 60)]
    near, next_one, far = source_phasors(keys, magnitude, KNOWN, 5.0, "field").phasor
    apart = [1.0 - float((near * other.conj()).mean().abs()) for other in (next_one, far)]
    assert apart[1] > 10 * apart[0]


def test_with_its_gauge_the_field_source_is_smoother_through_the_volume_than_slice_by_slice():
    magnitude = torch.zeros(12, 96, 96)
    for index, plane in enumerate(magnitude):  # a body with a hole that moves
        plane[12:84, 10:86] = 1.0
        plane[30:50, 20 + 2 * index : 44 + 2 * index] = 0.01
    inside, late = magnitude[0] > 0.5, torch.tensor([2.0, 4.0, 10.8, 3.0])

    def step(phasor: torch.Tensor) -> float:
        return float((phasor[1:] * phasor[:-1].conj()).angle().abs()[:, inside].mean())

    with_gauge, without = 0.0, 0.0
    for seed in range(6):
        source = source_phasors([SliceKey(seed, "v", 0, index) for index in range(12)], magnitude, late, 5.0, "field")
        assert torch.allclose(source.gauge.abs(), torch.ones_like(magnitude), atol=1e-5)
        with_gauge, without = with_gauge + step(source.phasor * source.gauge), without + step(source.phasor)
    assert with_gauge < 0.92 * without


@pytest.mark.parametrize("kind", sorted(set(SOURCES) - set(OF_MAGNITUDE)))
def test_only_sources_of_the_magnitude_have_a_gauge(kind):
    source = source_phasors([SliceKey(1, "v", 0, 2)], torch.ones(1, 16, 16), KNOWN, 5.0, kind)
    assert torch.equal(source.gauge, torch.ones(1, 16, 16, dtype=torch.complex64))
