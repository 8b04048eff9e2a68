import torch

from diffusion.generators import SliceKey
from diffusion.source import CORRELATION_MM, GRAIN, shape_source, source_phasor, training_source

SPACING = torch.tensor([2.0, 4.0])


def field(seed: int = 0, size: int = 256) -> torch.Tensor:
    return training_source((8, size, size), SPACING.expand(8, 2), torch.Generator().manual_seed(seed))


def correlation(phasor: torch.Tensor, mm: float, axis: int) -> float:
    lag = round(mm / float(SPACING[axis]))
    size = phasor.shape[axis + 1]
    far, near = phasor.narrow(axis + 1, lag, size - lag), phasor.narrow(axis + 1, 0, size - lag)
    return float((far * near.conj()).real.mean())


def test_source_is_unit_modulus_and_without_a_preferred_phase():
    source = field()
    assert torch.allclose(source.abs(), torch.ones(8, 256, 256), atol=1e-5)
    assert float(source.mean().abs()) < 0.2


def test_source_is_smooth_within_the_correlation_length_and_random_beyond():
    source = field()
    for axis in (0, 1):
        assert correlation(source, 4.0, axis) > 0.85
        assert 0.2 < correlation(source, CORRELATION_MM, axis) < 0.6
        assert abs(correlation(source, 4 * CORRELATION_MM, axis)) < 0.2


def test_grain_lowers_the_correlation_of_neighbours_as_expected():
    """Far from the zeros of a unit field, grain of standard deviation g turns each phase by about g / sqrt(2)."""
    smooth = torch.full((64, 64), 100.0 + 0j)
    draws = torch.randn((2, 64, 64), generator=torch.Generator().manual_seed(0))
    source = shape_source(smooth / 100.0, torch.complex(*draws), SPACING)
    scale = float(shape_source(smooth, torch.zeros(64, 64, dtype=torch.complex64), SPACING).angle().abs().max())
    assert scale < 1e-4
    assert 0.0 < float(source.angle().std()) < 3 * GRAIN


def test_source_of_a_key_is_repeatable_at_any_size():
    key = SliceKey(1, "v", 0, 2)
    for shape in ((1, 1), (7, 10), (32, 32)):
        unknown = torch.full((2,), torch.nan)
        source = source_phasor(key, *shape, unknown, None)
        assert torch.equal(source, source_phasor(key, *shape, unknown, None))
        assert source.shape == shape


def test_neighbouring_slices_start_alike_and_distant_ones_do_not():
    def source(index: int) -> torch.Tensor:
        return source_phasor(SliceKey(1, "v", 0, index), 128, 128, SPACING, 5.0)

    first = source(3)
    likeness = [float((first * source(3 + step).conj()).mean().abs()) for step in (0, 1, 40)]
    assert likeness[0] > 0.999 and likeness[1] > 0.8 and likeness[2] < 0.4
