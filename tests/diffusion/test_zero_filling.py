"""Phase of images whose k-space was filled with zeros is that of the acquired matrix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from volumes import write_manifest

from rephase.diffusion.fourier import fft2c, ifft2c, resize_kspace
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.physics.zero_filling import acquired_magnitude, sample_filled
from rephase.diffusion.registry import make_generator
from rephase.manifests.parse import read_manifest
from rephase.pipeline.sampling import conditions_of
from rephase.readers.registry import read_volume

ACQUIRED, STORED = (64, 60), (128, 120)
SHARE = (ACQUIRED[0] / STORED[0], ACQUIRED[1] / STORED[1])


def filled(image: torch.Tensor, size: tuple[int, int] = STORED) -> torch.Tensor:
    return ifft2c(resize_kspace(fft2c(image), *size))


def noisy_image(count: int = 1) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, ACQUIRED[0]), torch.linspace(-1, 1, ACQUIRED[1]), indexing="ij")
    radius = torch.hypot(y, x / 0.8)
    body = 100.0 * (radius < 0.8) * (1.0 - 0.4 * (radius < 0.4))
    noise = torch.randn((count, *ACQUIRED), dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    return torch.polar(body, 2.0 * y * x) + 4.0 * noise


def outside(image: torch.Tensor) -> float:
    """Share of the energy of k-space beyond the acquired box."""
    power = fft2c(image).abs().square()
    top, left = (STORED[0] - ACQUIRED[0]) // 2, (STORED[1] - ACQUIRED[1]) // 2
    return 1.0 - float(power[:, top : top + ACQUIRED[0], left : left + ACQUIRED[1]].sum() / power.sum())


def test_the_magnitude_of_the_acquired_pixels_is_that_before_filling():
    image = noisy_image()
    found = acquired_magnitude(filled(image).abs(), *ACQUIRED)
    torch.testing.assert_close(found, image.abs(), rtol=0.0, atol=1e-2)
    cropped = ifft2c(resize_kspace(fft2c(filled(image).abs().to(torch.complex64)), *ACQUIRED)).real
    assert float((cropped - image.abs()).abs().max()) > 1.0


@pytest.mark.parametrize("name", ["field", "spin-echo", "smooth-noise", "diffusion"])
def test_less_of_k_space_is_beyond_the_acquired_box(name):
    magnitude = filled(noisy_image()).abs()
    keys, conditions = [SliceKey(1, "v", 0, 0)], Conditions((1.0, 1.0), 4.0, 3.0, 5.0)
    generator = make_generator(name)
    known, blind = (generator.sample_phase(magnitude, keys, replace(conditions, acquired=one)) for one in (SHARE, None))
    torch.testing.assert_close(known.abs(), torch.ones_like(magnitude))
    assert outside(magnitude * known) < 0.6 * outside(magnitude * blind)


def test_the_sampler_sees_the_acquired_matrix_with_its_spacing():
    seen = []

    def sample(magnitude, keys, conditions):
        seen.append((tuple(magnitude.shape), conditions))
        return torch.ones_like(magnitude, dtype=torch.complex64)

    magnitude = filled(noisy_image(2)).abs()
    given = Conditions((1.0, 1.0), 4.0, acquired=SHARE)
    sample_filled(sample, magnitude, [], given)
    sample_filled(sample, magnitude, [], replace(given, acquired=None))
    (shape, small), (whole, same) = seen
    assert (shape, small) == ((2, *ACQUIRED), Conditions((2.0, 2.0), 4.0))
    assert (whole, same) == ((2, *STORED), replace(given, acquired=None))


def test_filling_is_found_in_the_magnitude_from_algorithm_12_on(tmp_path: Path):
    for name, image in (("filled", filled(noisy_image(3))), ("plain", noisy_image(3))):
        np.save(tmp_path / f"{name}.npy", image.abs().numpy())
    rows = read_manifest(write_manifest(tmp_path / "m.csv", ["a,filled.npy", "b,plain.npy"], "volume_id,path"))
    known, plain = (read_volume(row) for row in rows)
    assert conditions_of(known, magnitude=known.magnitude).acquired == pytest.approx(SHARE, abs=0.1)
    assert conditions_of(known, 11, known.magnitude).acquired is None
    assert conditions_of(plain, magnitude=plain.magnitude).acquired is None
