import torch

from diffusion.generators import SliceKey
from diffusion.source import CORRELATION_PIXELS, GRAIN, shape_source, source_phasor, training_source


def field(seed: int = 0, size: int = 256) -> torch.Tensor:
    return training_source((4, size, size), torch.Generator().manual_seed(seed))


def correlation(phasor: torch.Tensor, lag: int) -> float:
    return float((phasor[..., lag:] * phasor[..., :-lag].conj()).real.mean())


def test_source_is_unit_modulus_and_without_a_preferred_phase():
    source = field()
    assert torch.allclose(source.abs(), torch.ones(4, 256, 256), atol=1e-5)
    assert float(source.mean().abs()) < 0.2


def test_source_is_smooth_within_the_correlation_length_and_random_beyond():
    source = field()
    near, far = correlation(source, 2), correlation(source, int(6 * CORRELATION_PIXELS))
    assert near > 0.75
    assert abs(far) < 0.15


def test_grain_lowers_the_correlation_of_neighbours_as_expected():
    """Far from the zeros of a unit field, grain of standard deviation g turns each phase by about g / sqrt(2)."""
    smooth = torch.full((64, 64), 100.0 + 0j)
    draws = torch.randn((2, 64, 64), generator=torch.Generator().manual_seed(0))
    source = shape_source(smooth / 100.0, torch.complex(*draws))
    scale = float(shape_source(smooth, torch.zeros(64, 64, dtype=torch.complex64)).angle().abs().max())
    assert scale < 1e-4
    assert 0.0 < float(source.angle().std()) < 3 * GRAIN


def test_source_of_a_key_is_repeatable_at_any_size():
    key = SliceKey(1, "v", 0, 2)
    for shape in ((1, 1), (7, 10), (32, 32)):
        assert torch.equal(source_phasor(key, *shape), source_phasor(key, *shape))
        assert source_phasor(key, *shape).shape == shape
