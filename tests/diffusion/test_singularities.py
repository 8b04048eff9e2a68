import math

import pytest
import torch

from rephase.diffusion.physics.measurement import estimate_sigma
from rephase.diffusion.physics.singularities import bright_squares, find_singularities
from rephase.diffusion.physics.singularity_removal import (
    REACH_MM,
    remove_densely,
    remove_singularities,
    remove_sparsely,
)

SIZE = 48


def vortices(*places: tuple[float, float, int]) -> torch.Tensor:
    """Phasors `(1 SIZE SIZE)` that turn around places (row, column) in the sense of the third number."""
    y, x = torch.meshgrid(
        torch.arange(SIZE, dtype=torch.float64), torch.arange(SIZE, dtype=torch.float64), indexing="ij"
    )
    angle = sum(sense * torch.atan2(y - row, x - column) for row, column, sense in places)
    return torch.polar(torch.ones_like(y), torch.as_tensor(angle, dtype=torch.float64)).to(torch.complex64)[None]


def bright_tissue() -> torch.Tensor:
    noise = torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return 100.0 + noise


def count(phasor: torch.Tensor, inside: torch.Tensor | None = None) -> int:
    everywhere = torch.ones(phasor.shape, dtype=torch.bool)
    return int(find_singularities(phasor, everywhere if inside is None else inside)[0].sum())


def remove(phasor: torch.Tensor, magnitude: torch.Tensor, spacing_mm: float = 1.5) -> torch.Tensor:
    return remove_singularities(phasor, magnitude, bright_squares(magnitude, estimate_sigma(magnitude)), spacing_mm)


@pytest.mark.parametrize("apart", [2, 3, 5, 7])
def test_a_pair_in_bright_tissue_vanishes_and_the_rest_stays(apart):
    phasor = vortices((20.5, 20.5, 1), (20.5, 20.5 + apart, -1))
    assert count(phasor) == 2
    found = remove(phasor, bright_tissue())
    assert count(found) == 0
    assert torch.allclose(found.abs(), torch.ones_like(found.abs()), atol=1e-5)
    changed = (found != phasor)[0].nonzero()
    reach = REACH_MM / 1.5 + apart
    assert len(changed) and float((changed - torch.tensor([20, 20])).abs().max()) <= reach + 1
    assert int((found != phasor).sum()) < SIZE**2 / 2


def test_a_pair_in_the_dark_stays_bit_for_bit():
    phasor, magnitude = vortices((20.5, 20.5, 1), (20.5, 22.5, -1)), bright_tissue()
    magnitude[:, 18:25, 18:26] = 4.0
    assert torch.equal(remove(phasor, magnitude), phasor)


def test_dark_is_relative_to_the_noise_and_to_the_neighbourhood():
    magnitude = torch.full((1, SIZE, SIZE), 100.0)
    magnitude[:, 10] = 15.0  # darker than its neighbourhood
    for sigma, bright in ((1.0, True), (20.0, False)):
        squares = bright_squares(magnitude, torch.tensor([sigma]))
        assert squares.shape == (1, SIZE - 1, SIZE - 1)
        assert bool(squares[:, 20:].all()) is bright and not bool(squares[:, 9:11].any())


def test_a_singularity_next_to_a_dark_region_moves_there():
    magnitude = bright_tissue()
    magnitude[:, :, 26:29] = 2.0
    phasor = vortices((20.5, 23.5, 1))
    found = remove(phasor, magnitude)
    bright = magnitude > 50.0
    assert count(phasor, bright) == 1 and count(found, bright) == 0 and count(found) == 1


def test_the_removal_of_a_single_singularity_ends():
    found = remove(vortices((23.5, 23.5, 1)), bright_tissue(), 0.01)
    assert torch.allclose(found.abs(), torch.ones_like(found.abs()), atol=1e-5)


def test_a_phase_without_singularities_is_unchanged():
    ramp = torch.polar(torch.ones(1, SIZE, SIZE), torch.linspace(0, 40, SIZE).expand(1, SIZE, SIZE))
    assert torch.equal(remove(ramp, bright_tissue()), ramp)
    empty = torch.zeros(1, SIZE, SIZE)
    assert torch.equal(remove(vortices((9.5, 9.5, 1)), empty), vortices((9.5, 9.5, 1)))


def test_nan_does_not_become_a_phase():
    phasor = vortices((20.5, 20.5, 1), (20.5, 23.5, -1))
    phasor[0, 20, 22] = complex(math.nan, math.nan)
    assert bool(torch.isnan(remove(phasor, bright_tissue())[0, 20, 22].abs()))


def test_a_slice_does_not_depend_on_the_others():
    phases = [vortices((20.5, 20.5, 1), (20.5, 20.5 + apart, -1)) for apart in (1, 4, 8)]
    magnitudes = [bright_tissue() * scale for scale in (1.0, 2.0, 512.0)]
    together = remove(torch.cat(phases), torch.cat(magnitudes))
    for index, (phase, magnitude) in enumerate(zip(phases, magnitudes, strict=True)):
        assert torch.equal(remove(phase, magnitude), together[index : index + 1])


@pytest.mark.parametrize("apart", [2, 3, 5, 7])
def test_dense_removal_gives_the_same_as_sparse_removal(apart):
    """What a GPU does is what a CPU does, but for rounding."""
    phasor = torch.cat([vortices((20.5, 20.5, 1), (23.5, 20.5 + apart, -1)), vortices((1.5, 46.5, 1), (3.5, 46.5, -1))])
    magnitude = bright_tissue().repeat(2, 1, 1)
    magnitude[:, 30:34] = 3.0
    bright = bright_squares(magnitude, estimate_sigma(magnitude))
    for reach in (1, 6, 9):
        sparse = remove_sparsely(phasor, magnitude, bright, reach)
        dense = remove_densely(phasor, magnitude, bright, reach)
        assert float((sparse * dense.conj()).angle().abs().max()) < 1e-3
        assert torch.equal(sparse == phasor, dense == phasor)
