import itertools
import math

import pytest
import torch
from torch.nn import functional

from rephase.diffusion.networks.layers import to_complex
from rephase.diffusion.processes.energy import (
    PATCHES,
    calm_places,
    energy_score,
    frequency_score,
    modulus_error,
    patch_distance,
    spectrum_score,
    to_modulus,
)

SIZE = 72


def image(slope: float, phase: float = 0.0) -> torch.Tensor:
    """A bright disc with a linear phase, real blocks `(1 2 height width)`."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    angle = slope * x + phase
    return torch.stack((torch.cos(angle), torch.sin(angle)))[None] * (x**2 + y**2 < 0.8)


EVERYWHERE = torch.ones(1, SIZE, SIZE)
WEIGHT = torch.cat((image(0.0)[:, :1], torch.zeros(1, 1, SIZE, SIZE)), dim=1)


def test_the_distance_is_0_up_to_global_phase_and_symmetric():
    assert float(patch_distance(image(2.0), image(2.0, 1.3), WEIGHT)) < 5e-3
    there = float(patch_distance(image(2.0), image(9.0), WEIGHT))
    assert there == pytest.approx(float(patch_distance(image(9.0), image(2.0), WEIGHT)), rel=1e-5)
    assert 0.1 < float(patch_distance(image(2.0), image(4.0), WEIGHT)) < there < math.sqrt(2.0)


def test_small_patches_resolve_steep_phase_and_large_ones_slow_phase():
    """Of an image smaller than the larger patches, these are left out."""
    cut = slice(30, 36)
    parts = [one[..., cut, cut] for one in (image(2.0), image(4.0), WEIGHT)]
    assert float(patch_distance(*parts)) < 0.3 * float(patch_distance(image(2.0), image(4.0), WEIGHT))


def expected_score(answers: list[torch.Tensor], truths: list[torch.Tensor]) -> float:
    """Of a generator that gives each answer alike, where each truth is as likely."""
    cases = itertools.product(itertools.product(answers, repeat=2), truths)
    scores = [float(energy_score(pair, truth, WEIGHT)) for pair, truth in cases]
    return sum(scores) / len(scores)


def test_the_score_is_best_for_samples_that_are_distributed_as_the_real_ones():
    truths = [image(-6.0), image(6.0)]
    right = expected_score(truths, truths)
    for wrong in ([image(0.0)], [image(6.0)], [image(-3.0), image(3.0)], [image(-6.0), image(0.0), image(6.0)]):
        assert expected_score(wrong, truths) > right + 0.01


def test_the_modulus_is_set_with_a_finite_gradient_at_zero():
    drawn = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn[:, :, 0] = 0.0
    drawn.requires_grad_(True)
    weight = torch.cat((torch.full((2, 1, 8, 8), 0.5), torch.zeros(2, 1, 8, 8)), dim=1)
    made = to_modulus(drawn, weight)
    assert torch.allclose(made[:, :, 1:].square().sum(dim=1).sqrt(), torch.full((2, 7, 8), 0.5), atol=0.05)
    made.sum().backward()
    assert bool(torch.isfinite(drawn.grad).all())
    assert not bool(to_modulus(drawn.detach(), 0.0 * weight).any())


def test_the_error_of_the_modulus_is_0_if_it_is_right_and_largest_for_an_empty_image():
    errors = [float(modulus_error(scale * image(3.0), WEIGHT, EVERYWHERE)) for scale in (1.0, 0.7, 0.0)]
    assert errors[0] < 1e-4 < errors[1] < errors[2] < 1.0
    assert errors[1] == pytest.approx(0.3**2, rel=0.1)
    vanishing = torch.zeros(1, 2, SIZE, SIZE, requires_grad=True)
    modulus_error(vanishing, WEIGHT, EVERYWHERE).sum().backward()
    assert bool(torch.isfinite(vanishing.grad).all())
    left = EVERYWHERE * (torch.arange(SIZE) < SIZE // 2)
    assert float(modulus_error(0.0 * WEIGHT, WEIGHT, left)) == pytest.approx(errors[2] / 2.0, rel=1e-3)


def test_calm_places_have_no_singularity_of_tissue_nearby():
    y, x = torch.meshgrid(torch.arange(SIZE) - 30.5, torch.arange(SIZE) - 40.5, indexing="ij")
    around = torch.atan2(y, x)
    turned = torch.stack((torch.cos(around), torch.sin(around)))[None]
    full = torch.cat((EVERYWHERE, 0.0 * EVERYWHERE))[None]
    calm = calm_places(turned, full, 17)[0]
    assert calm.shape == (SIZE, SIZE)
    assert float(calm[28:34, 38:44].max()) < 0.05
    assert float(calm[:20].min()) == float(calm[:, :30].min()) == float(calm[:, 52:].min()) == 1.0
    assert float(calm_places(image(9.0), WEIGHT, 17).min()) == float(calm_places(turned, 0.1 * full, 17).min()) == 1.0
    whole = calm_places(torch.cat((turned, image(9.0))), full.repeat(2, 1, 1, 1), 0)
    assert whole.shape == (2, SIZE, SIZE)
    assert torch.allclose(whole[0], torch.tensor(math.exp(-1e3 / (SIZE - 1) ** 2))) and bool((whole[1] == 1.0).all())


def waves(along: float, across: float) -> torch.Tensor:
    """A plane wave, real blocks `(1 2 height width)`; radians a pixel."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    angle = across * y + along * x
    return torch.stack((torch.cos(angle), torch.sin(angle)))[None] * WEIGHT[:, :1]


def test_local_frequencies_distinguish_waves_from_speckle_in_any_direction():
    """For the score of the images, a wave of another direction is as far away as speckle."""
    speckle = torch.randn((1, 2, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    speckle = WEIGHT[:, :1] * speckle / speckle.square().sum(dim=1, keepdim=True).sqrt()
    there, other = [waves(1.2, 0.3), waves(1.2, 0.3)], [speckle, speckle]
    real = waves(-0.4, 1.1)
    near, far = (float(frequency_score(one, real, WEIGHT)) for one in (there, other))
    assert near < 0.1 < 0.5 < far
    by_image = [float(energy_score(one, real, WEIGHT)) for one in (there, other)]
    assert by_image[0] > 0.7 * by_image[1]


def test_gradients_are_finite_in_air():
    drawn = torch.zeros(2, 2, 16, 16, requires_grad=True)
    nothing = torch.zeros(1, 2, 16, 16)
    samples = torch.split(to_modulus(drawn, nothing.repeat(2, 1, 1, 1)), 1)
    frequency_score(samples, nothing, nothing).sum().backward()
    assert bool(torch.isfinite(drawn.grad).all())


@pytest.mark.parametrize("sides", [(130, 67), (64, 64), (9, 40), (1, 3)])
def test_the_distance_equals_that_of_directly_pooled_patches(sides):
    generator = torch.Generator().manual_seed(3)
    one, other = (torch.randn((2, 2, *sides), generator=generator) for _ in range(2))
    weight = torch.rand((2, 2, *sides), generator=generator)
    first, second = to_complex(one)[:, 0], to_complex(other)[:, 0]
    total, whole = torch.zeros(2), 0.0
    for size, step, counts in ((0, 1, 1.0), *PATCHES):
        if size > min(sides):
            continue

        def pool(image, size=size, step=step):
            return functional.avg_pool2d(image[:, None], size or sides, step)[:, 0]

        powers = pool(first.abs().square()), pool(second.abs().square())
        product = first * second.conj()
        square = powers[0] ** 2 + powers[1] ** 2 - 2.0 * (pool(product.real) ** 2 + pool(product.imag) ** 2)
        distance = (square.clamp(min=0.0) + 1e-6).sqrt().mean(dim=(1, 2))
        total, whole = total + counts * distance / pool(weight[:, 0].square()).mean(dim=(1, 2)), whole + counts
    torch.testing.assert_close(patch_distance(one, other, weight), total / whole, rtol=1e-4, atol=1e-5)


def ripples(count: int, seed: int) -> list[torch.Tensor]:
    """Discs with a phase of random waves, `count` to the field of view."""
    y, x = torch.meshgrid(torch.arange(SIZE) / SIZE, torch.arange(SIZE) / SIZE, indexing="ij")
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(6):
        turn, shift = (float(one) * 2.0 * math.pi for one in torch.rand(2, generator=generator))
        angle = 1.5 * torch.sin(2.0 * math.pi * count * (x * math.cos(turn) + y * math.sin(turn)) + shift)
        made.append(torch.stack((torch.cos(angle), torch.sin(angle)))[None] * WEIGHT[:, :1])
    return made


def test_the_spectrum_shows_how_steep_a_phase_is_but_not_where():
    *samples, real = ripples(4, 1)
    alike = float(spectrum_score(samples, real, WEIGHT))
    others = [float(spectrum_score(ripples(count, 2), real, WEIGHT)) for count in (1, 4, 9)]
    assert abs(others[1] - alike) < 0.15 * min(others[0], others[2])
    assert min(others[0], others[2]) > 2.0 * alike
    turned = [one.flip(2) for one in samples]
    assert float(spectrum_score(turned, real.flip(2), WEIGHT)) == pytest.approx(alike, abs=0.02)


def test_the_spectrum_of_an_empty_slice_has_a_score_and_a_gradient():
    nothing = torch.zeros_like(WEIGHT)
    sample = torch.zeros_like(WEIGHT).requires_grad_()
    score = spectrum_score([sample, sample], nothing, nothing)
    (gradient,) = torch.autograd.grad(score.sum(), sample)
    assert bool(score.isfinite().all()) and bool(gradient.isfinite().all())
