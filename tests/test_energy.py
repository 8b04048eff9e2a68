import itertools
import math

import pytest
import torch

from diffusion.energy import energy_score, modulus_error, patch_distance, singularity_density, to_modulus

SIZE = 72


def image(slope: float, phase: float = 0.0) -> torch.Tensor:
    """A bright disc with a linear phase, real blocks `(1 2 height width)`."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    angle = slope * x + phase
    return torch.stack((torch.cos(angle), torch.sin(angle)))[None] * (x**2 + y**2 < 0.8)


WEIGHT = torch.cat((image(0.0)[:, :1], torch.zeros(1, 1, SIZE, SIZE)), dim=1)


def test_a_distance_is_none_for_equal_phase_up_to_its_global_value_and_the_same_both_ways():
    assert float(patch_distance(image(2.0), image(2.0, 1.3), WEIGHT)) < 5e-3
    there = float(patch_distance(image(2.0), image(9.0), WEIGHT))
    assert there == pytest.approx(float(patch_distance(image(9.0), image(2.0), WEIGHT)), rel=1e-5)
    assert 0.1 < float(patch_distance(image(2.0), image(4.0), WEIGHT)) < there < math.sqrt(2.0)


def test_steep_phase_is_seen_by_small_patches_and_slow_phase_by_large_ones():
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


def test_the_modulus_is_given_and_its_gradient_is_finite_where_there_is_no_angle():
    drawn = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn[:, :, 0] = 0.0
    drawn.requires_grad_(True)
    weight = torch.cat((torch.full((2, 1, 8, 8), 0.5), torch.zeros(2, 1, 8, 8)), dim=1)
    made = to_modulus(drawn, weight)
    assert torch.allclose(made[:, :, 1:].square().sum(dim=1).sqrt(), torch.full((2, 7, 8), 0.5), atol=0.05)
    made.sum().backward()
    assert bool(torch.isfinite(drawn.grad).all())
    assert not bool(to_modulus(drawn.detach(), 0.0 * weight).any())


def test_the_error_of_the_modulus_is_none_where_it_is_right_and_largest_where_the_image_vanishes():
    errors = [float(modulus_error(scale * image(3.0), WEIGHT)) for scale in (1.0, 0.7, 0.0)]
    assert errors[0] < 1e-4 < errors[1] < errors[2] < 1.0
    assert errors[1] == pytest.approx(0.3**2, rel=0.1)
    vanishing = torch.zeros(1, 2, SIZE, SIZE, requires_grad=True)
    modulus_error(vanishing, WEIGHT).sum().backward()
    assert bool(torch.isfinite(vanishing.grad).all())


def test_singularities_are_counted_in_the_tissue():
    y, x = torch.meshgrid(torch.arange(SIZE) - 30.5, torch.arange(SIZE) - 40.5, indexing="ij")
    around = torch.atan2(y, x) - torch.atan2(y, x + 21.0)  # two vortices that turn against each other
    turned = torch.stack((torch.cos(around), torch.sin(around)))[None]
    full = torch.ones(1, 2, SIZE, SIZE)
    right = full * (torch.arange(SIZE) > 30)  # holds one of them
    whole, part = singularity_density(turned.repeat(2, 1, 1, 1), torch.cat((full, right))).tolist()
    assert whole == pytest.approx(2.0 / (SIZE - 1) ** 2)
    assert part == pytest.approx(1.0 / (SIZE - 1) / (SIZE - 32))
    assert float(singularity_density(image(9.0), WEIGHT)) == float(singularity_density(turned, 0.0 * full)) == 0.0
