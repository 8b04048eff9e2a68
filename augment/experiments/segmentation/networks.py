"""Small networks that segment single-coil k-space: one sees the complex image, one k-space alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rephase.diffusion.fourier import fft2c, ifft2c
from rephase.experiments.segmentation.config import NetworkConfig
from rephase.experiments.unet import UNet

_TINY = 1e-12


class Segmenter(nn.Module, ABC):
    """A network with its loss.

    `forward` maps k-space, `(batch height width)`, complex, to a map of this shape, to which a threshold is applied.
    """

    @abstractmethod
    def loss(self, kspace: Tensor, labels: Tensor) -> Tensor:
        """Return the loss for labels of 0 and 1, `(batch height width)`."""


def make_network(model: str, config: NetworkConfig, magnitude_only: bool) -> Segmenter:
    """Return a network; its weights are those of torch's generator."""
    network: Segmenter = ImageNetwork(config) if model == "image" else KSpaceNetwork(config)
    return MagnitudeOnly(network) if magnitude_only else network


class ImageNetwork(Segmenter):
    """A U-Net on real and imaginary part of the image: a probability for each pixel."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.unet = UNet(config.channels, config.levels)

    def forward(self, kspace: Tensor) -> Tensor:
        """Return probabilities."""
        return torch.sigmoid(self._logits(kspace))

    def loss(self, kspace: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy plus 1 - Dice of the batch."""
        logits = self._logits(kspace)
        found = torch.sigmoid(logits)
        overlap = (2 * (found * labels).sum() + 1) / (found.sum() + labels.sum() + 1)
        return F.binary_cross_entropy_with_logits(logits, labels) + 1 - overlap

    def _logits(self, kspace: Tensor) -> Tensor:
        image = ifft2c(kspace)
        found: Tensor = self.unet(torch.stack([image.real, image.imag], dim=1))[:, 0]
        return found


class KSpaceNetwork(Segmenter):
    """Complex convolutions on k-space, whose output is the k-space of the labelled part (k-Strip, Rempe et al. 2022).

    The mask is where the magnitude of its inverse transform exceeds the threshold. A convolution of k-space multiplies
    the image by a smooth window, the rest is left to what lies between them. The range of k-space is compressed first.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = (1, config.complex_channels, config.complex_channels, 1)
        self.layers = nn.ModuleList(ComplexConvolution(a, b, config.kernel) for a, b in pairwise(widths))

    def forward(self, kspace: Tensor) -> Tensor:
        """Return the magnitude of the image of the output."""
        return self._image(kspace).abs()

    def loss(self, kspace: Tensor, labels: Tensor) -> Tensor:
        """Return the mean error of the complex image, relative to the mean of the labelled one of the batch."""
        truth = ifft2c(kspace) * labels
        error = (self._image(kspace) - truth).abs().mean()
        return error / (truth.abs().mean() + _TINY)

    def _image(self, kspace: Tensor) -> Tensor:
        size = kspace.abs()
        compressed = kspace * (torch.log1p(size) / (size + _TINY))
        real, imaginary = compressed.real[:, None], compressed.imag[:, None]
        for place, layer in enumerate(self.layers):
            if place:
                real, imaginary = F.leaky_relu(real, 0.1), F.leaky_relu(imaginary, 0.1)
            real, imaginary = layer(real, imaginary)
        return ifft2c(torch.complex(real, imaginary)[:, 0])


class ComplexConvolution(nn.Module):
    """A convolution with complex weights and without bias; random at the start, with a gain of about 1."""

    def __init__(self, num_in: int, num_out: int, kernel: int) -> None:
        super().__init__()
        scale = (2 * num_in * kernel**2) ** -0.5
        self.real = nn.Parameter(scale * torch.randn(num_out, num_in, kernel, kernel))
        self.imaginary = nn.Parameter(scale * torch.randn(num_out, num_in, kernel, kernel))
        self.padding = kernel // 2

    def forward(self, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve `(batch channel height width)`, real and imaginary part."""
        first = torch.cat([self.real, -self.imaginary], dim=1)
        second = torch.cat([self.imaginary, self.real], dim=1)
        found = F.conv2d(torch.cat([real, imaginary], dim=1), torch.cat([first, second]), padding=self.padding)
        half = len(first)
        return found[:, :half], found[:, half:]


class MagnitudeOnly(Segmenter):
    """The same network, given the k-space of the magnitude: a control that has no phase to use."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, kspace: Tensor) -> Tensor:
        """Apply the network."""
        found: Tensor = self.network(_of_magnitude(kspace))
        return found

    def loss(self, kspace: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the network."""
        return self.network.loss(_of_magnitude(kspace), labels)


def _of_magnitude(kspace: Tensor) -> Tensor:
    magnitude = ifft2c(kspace).abs()
    return fft2c(torch.complex(magnitude, torch.zeros_like(magnitude)))
