"""The expansion of an image to the k-space of all coils, against closed forms and the formula of the format."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from export_volumes import fft2c
from paths import PROJECT
from scipy_free import bessel_j1

from rephase.scanner.expand import CoilMaps
from rephase.scanner.harmonics import PERIOD, evaluate, fit


def some_coefficients(random, coils):
    shape = (coils, 5, 5, 5)
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(np.complex64)


@pytest.mark.parametrize("shape", [(3, 32, 24), (1, 33, 25), (2, 1, 7), (5, 6, 5)])
def test_kspace_and_maps_are_those_of_the_format(random, shape):
    text = (PROJECT / "augment" / "FORMAT.md").read_text()
    written: dict = {"np": np}
    exec(re.search(r"```python\n(def maps_of.*?)```", text, re.S)[1], written)  # noqa: S102
    coefficients = some_coefficients(random, 4)
    maps = CoilMaps(coefficients, *shape)
    image = (random.normal(size=shape[1:]) + 1j * random.normal(size=shape[1:])).astype(np.complex64)
    for number in (0, shape[0] - 1):
        expected = written["maps_of"](coefficients, *shape, number)
        np.testing.assert_allclose(maps.sensitivities(number), expected, atol=2e-6)
        np.testing.assert_allclose(maps.kspace(image, number), fft2c(expected * image), atol=2e-5)
        np.testing.assert_allclose((np.abs(maps.sensitivities(number)) ** 2).sum(0), 1, atol=2e-6)
        energy = np.square(np.abs(maps.kspace(image, number))).sum(dtype=np.float64)  # Parseval
        assert energy == pytest.approx(np.square(np.abs(image)).sum(dtype=np.float64), rel=1e-6)


def test_an_ellipse_with_known_coils_has_the_kspace_of_the_closed_form():
    """Coils of one wave each, so that their maps are known: the transform of the ellipse, shifted by a fraction."""
    size, fine, axes = 144, 32, (0.31, 0.22)
    line = (np.arange(size * fine) + 0.5) / (size * fine) - 0.5 - 0.5 / size
    inside = (line[:, None] / axes[0]) ** 2 + (line / axes[1]) ** 2 < 1
    image = inside.reshape(size, fine, size, fine).mean(axis=(1, 3)).astype(np.complex64)
    orders, gains = [(2, -1), (-2, 0)], np.array([1.0, 0.5j])
    coefficients = np.zeros((2, 5, 5, 5), np.complex64)
    for coil, (row, column) in enumerate(orders):
        coefficients[coil, 2, row + 2, column + 2] = gains[coil]
    # the middle: farther out, more replicas would have to be added
    middle = slice(size // 4, -size // 4)
    kspace = CoilMaps(coefficients, 1, size, size).kspace(image, 0)[:, middle, middle]
    k = np.arange(size)[middle] - size // 2
    for coil, (row, column) in enumerate(orders):
        q, p = k[:, None] - row / PERIOD, k - column / PERIOD
        # a pixel averages, and sampling adds the spectrum's replicas
        replicas = [(q + i * size, p + j * size) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        expected = sum(ellipse(*axes, *one) * np.sinc(one[0] / size) * np.sinc(one[1] / size) for one in replicas)
        expected = expected * size * gains[coil] / np.linalg.norm(gains)
        assert np.abs(kspace[coil] - expected).max() <= 1e-4 * np.abs(expected).max()


def ellipse(a, b, q, p):
    """Return the Fourier transform of an ellipse of half axes a and b."""
    radius = 2 * np.pi * np.hypot(a * q, b * p)
    return 2 * np.pi * a * b * np.where(radius > 0, bessel_j1(radius) / np.maximum(radius, 1e-9), 0.5)


def test_bytes_depend_neither_on_threads_nor_on_the_call_before(random):
    maps = CoilMaps(some_coefficients(random, 5), 3, 64, 48)
    images = (random.normal(size=(3, 64, 48)) + 0j).astype(np.complex64)
    threads = torch.get_num_threads()
    first = [maps.kspace(images[n], n).tobytes() for n in range(3)]
    try:
        torch.set_num_threads(2)
        assert [maps.kspace(images[n], n).tobytes() for n in (2, 1, 0)] == first[::-1]
    finally:
        torch.set_num_threads(threads)


def test_an_empty_slice_is_zero_without_a_sign(random):
    image = np.zeros((12, 10), np.complex64)
    image.imag = -0.0
    parts = CoilMaps(some_coefficients(random, 2), 1, 12, 10).kspace(image, 0).view(np.float32)
    assert not parts.any() and not np.signbit(parts).any()


def test_a_fit_finds_the_series_that_made_the_values(random):
    coefficients = torch.from_numpy(some_coefficients(random, 2))
    positions = torch.from_numpy(random.uniform(-0.5, 0.5, size=(900, 3)))
    found = fit(evaluate(coefficients, positions), positions, torch.ones(900, dtype=torch.float64))
    assert torch.abs(found - coefficients).max() < 1e-3
