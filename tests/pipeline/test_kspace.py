from __future__ import annotations

import numpy as np
import pytest
from volumes import phantom

from rephase.corpus.layout import MAGNITUDE_TOLERANCE
from rephase.errors import VolumeError
from rephase.pipeline.kspace import make_kspace, real_phasor


def random_phasor(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.exp(1j * np.random.default_rng(seed).uniform(-np.pi, np.pi, shape)).astype(np.complex64)


@pytest.mark.parametrize("shape", [(2, 16, 16), (3, 15, 17), (1, 1, 9)])
def test_equals_numpys_centred_orthonormal_transform(shape):
    magnitude, phasor = phantom(1, shape), random_phasor(shape)
    image = magnitude.astype(np.float64) * phasor.astype(np.complex128)
    axes = (-2, -1)
    expected = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes), norm="ortho"), axes)
    kspace = make_kspace(magnitude, phasor)
    assert kspace.dtype == np.complex64
    np.testing.assert_allclose(kspace, expected, atol=1e-6 * max(np.abs(expected).max(), 1))


def test_magnitude_comes_back():
    magnitude, phasor = phantom(2), random_phasor((3, 20, 24))
    axes = (-2, -1)
    kspace = make_kspace(magnitude, phasor)
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes), norm="ortho"), axes)
    assert np.abs(np.abs(image) - magnitude).max() <= MAGNITUDE_TOLERANCE * magnitude.max()


def test_a_slice_does_not_depend_on_its_neighbours():
    magnitude, phasor = phantom(3, (5, 13, 11)), random_phasor((5, 13, 11))
    whole = make_kspace(magnitude, phasor)
    for start in range(4):
        part = make_kspace(np.ascontiguousarray(magnitude[start:]), phasor[start:])
        assert part.tobytes() == whole[start:].tobytes()


def test_empty_slice_is_positive_zero():
    kspace = make_kspace(np.zeros((1, 8, 8), np.float32), -random_phasor((1, 8, 8)))
    assert kspace.tobytes() == bytes(kspace.nbytes)


def test_phase_of_another_modulus_is_refused():
    with pytest.raises(VolumeError, match=r"slice 1 .*expected at most") as caught:
        phasor = random_phasor((3, 20, 24))
        phasor[1] *= np.float32(1.001)
        make_kspace(phantom(4), phasor)
    assert caught.value.reason == "failed"


def test_phase_that_is_not_finite_is_refused():
    phasor = random_phasor((3, 20, 24))
    phasor[2, 10, 12] = np.nan
    with pytest.raises(VolumeError, match="slice 2") as caught:
        make_kspace(phantom(4), phasor)
    assert caught.value.reason == "not_finite"


def test_real_phasor_is_the_unit_circle():
    phase = np.random.default_rng(0).uniform(-4, 4, (2, 7, 9)).astype(np.float32)
    np.testing.assert_allclose(real_phasor(phase), np.exp(1j * phase.astype(np.float64)), atol=2e-7)
