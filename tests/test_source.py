import math

import pytest
import torch

from diffusion.generators import SliceKey
from diffusion.noise import Stream, random_phasor
from diffusion.singularities import find_singularities
from diffusion.source import AMPLITUDE, CORRELATION_MM, FIELDS, source_phasor, training_source

SPACING = torch.tensor([2.0, 4.0])


def field(seed: int = 0, size: int = 256) -> torch.Tensor:
    return training_source((16, size, size), SPACING.expand(16, 2), torch.Generator().manual_seed(seed), "smooth")


def likeness(phasor: torch.Tensor, mm: float, axis: int) -> float:
    lag = round(mm / float(SPACING[axis]))
    size = phasor.shape[axis + 1]
    far, near = phasor.narrow(axis + 1, lag, size - lag), phasor.narrow(axis + 1, 0, size - lag)
    return float((far * near.conj()).real.mean())


def test_source_is_unit_modulus_and_its_phase_is_spread_as_said():
    source = field()
    assert torch.allclose(source.abs(), torch.ones(16, 256, 256), atol=1e-5)
    mean = float(source.mean().abs())
    assert mean < 3 * torch.exp(torch.tensor(-(AMPLITUDE**2) / 2))


def test_likeness_falls_with_the_distance_in_mm_as_that_of_a_gaussian_field():
    source = field()
    for axis in (0, 1):
        for mm in (8.0, 24.0, 48.0):
            correlation = torch.exp(torch.tensor(-((mm / CORRELATION_MM) ** 2)))
            expected = float(torch.exp(-(AMPLITUDE**2) * (1 - correlation)))
            assert abs(likeness(source, mm, axis) - expected) < 0.08


def test_source_of_a_key_is_repeatable_at_any_size():
    key, unknown = SliceKey(1, "v", 0, 2), torch.full((2,), torch.nan)
    for shape in ((1, 1), (7, 10), (32, 32)):
        source = source_phasor(key, *shape, unknown, None)
        assert torch.equal(source, source_phasor(key, *shape, unknown, None))
        assert source.shape == shape and bool(torch.isfinite(torch.view_as_real(source)).all())


def test_neighbouring_slices_start_alike_and_distant_ones_do_not():
    def source(index: int) -> torch.Tensor:
        return source_phasor(SliceKey(1, "v", 0, index), 128, 128, SPACING, 5.0, "scales")

    first = source(3)
    alike = [float((first * source(3 + step).conj()).mean().abs()) for step in (0, 1, 60)]
    assert alike[0] > 0.999 and alike[1] > 0.8 and alike[2] < 0.6


def test_the_independent_source_is_uniform_in_every_pixel_and_no_two_slices_share_it():
    shape = (4, 128, 128)
    source = training_source(shape, SPACING.expand(4, 2), torch.Generator().manual_seed(0), "independent")
    assert torch.allclose(source.abs(), torch.ones(shape), atol=1e-6)
    counts = torch.histc(source.angle(), 16, -math.pi, math.pi)
    expected = source.numel() / 16
    assert float(((counts - expected).square() / expected).sum()) < 45  # chi square, 15 degrees of freedom
    assert abs(likeness(source, 2.0, 0)) < 0.02

    key, following = SliceKey(1, "v", 0, 2), SliceKey(1, "v", 0, 3)
    drawn = source_phasor(key, 64, 64, SPACING, 5.0, "independent")
    assert torch.equal(drawn, random_phasor(key, Stream.SOURCE, 64, 64))
    other = source_phasor(following, 64, 64, SPACING, 5.0, "independent")
    assert float((drawn * other.conj()).mean().abs()) < 0.05


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_a_smooth_source_has_the_likeness_of_its_sum_of_fields_and_no_singularities(kind):
    source = training_source((16, 256, 256), SPACING.expand(16, 2), torch.Generator().manual_seed(0), kind)
    for axis in (0, 1):
        for mm in (8.0, 24.0, 48.0):
            spread = sum(a**2 * (1 - math.exp(-((mm / length) ** 2))) for length, a in FIELDS[kind])
            assert abs(likeness(source, mm, axis) - math.exp(-spread)) < 0.08
    singular, counted = find_singularities(source, torch.ones(source.shape, dtype=torch.bool))
    assert int(singular.sum()) == 0 and bool(counted.all())
