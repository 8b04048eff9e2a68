import numpy as np
import pytest
import torch

from rephase.diffusion.fourier import fft2c, ifft2c, resize_kspace

SHAPES = [(8, 8), (7, 9), (1, 5), (16, 11), (64, 48)]


def complex_noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.complex(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_numpy(shape):
    image = complex_noise(3, *shape)
    axes = (-2, -1)
    expected = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image.numpy(), axes=axes), norm="ortho"), axes=axes)
    np.testing.assert_allclose(fft2c(image).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_is_a_unitary_pair(shape):
    image, kspace = complex_noise(*shape), complex_noise(*shape, seed=1)
    assert torch.allclose(ifft2c(fft2c(image)), image, atol=1e-5)
    assert torch.allclose((fft2c(image) * kspace.conj()).sum(), (image * ifft2c(kspace).conj()).sum(), atol=1e-4)


def test_constant_image_is_a_point_in_the_centre():
    kspace = fft2c(torch.ones(5, 6, dtype=torch.complex64))
    expected = torch.zeros(5, 6, dtype=torch.complex64)
    expected[2, 3] = 30**0.5
    assert torch.allclose(kspace, expected, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [((8, 8), (16, 12)), ((7, 9), (13, 20)), ((6, 10), (9, 11))])
def test_zero_filling_keeps_a_plane_wave_and_cropping_undoes_it(old, new):
    """A plane wave of few periods is sampled on the finer grid at the same positions from the centre."""

    def wave(height: int, width: int) -> torch.Tensor:
        y = (torch.arange(height) - height // 2)[:, None] / height
        x = (torch.arange(width) - width // 2) / width
        return torch.polar(torch.ones(height, width), 2 * torch.pi * (y + 2 * x))

    filled = resize_kspace(fft2c(wave(*old)), *new)
    assert torch.allclose(ifft2c(filled), wave(*new), atol=1e-5)
    assert torch.allclose(ifft2c(resize_kspace(filled, *old)), wave(*old), atol=1e-5)
