"""Small networks that reconstruct single-coil k-space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rephase.diffusion.fourier import fft2c, ifft2c
from rephase.experiments.reconstruction.config import NetworkConfig
from rephase.experiments.unet import UNet

_TINY = 1e-12


def make_network(model: str, config: NetworkConfig, magnitude_only: bool) -> nn.Module:
    """Return a network, `(kspace, mask) -> magnitude`; its weights are those of torch's generator."""
    if magnitude_only:
        return MagnitudeNetwork(config)
    return UNetWithConsistency(config) if model == "unet" else Unrolled(config)


class ComplexCorrection(nn.Module):
    """A U-Net that corrects a complex image by a map of gains, with which it is multiplied, and a map that is added.

    It is given real part, imaginary part and magnitude. What depends on the magnitude alone, such as that air is dark,
    is so learned from few slices of any phase.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.unet = UNet(channels, levels, 3, 4, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return the correction of complex images `(batch height width)`."""
        maps = self.unet(torch.stack([image.real, image.imag, image.abs()], dim=1))
        return torch.complex(maps[:, 0], maps[:, 1]) * image + torch.complex(maps[:, 2], maps[:, 3])


class UNetWithConsistency(nn.Module):
    """A U-Net that corrects the zero-filled complex image; the samples replace its k-space where they were taken."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.correction = ComplexCorrection(config.channels, config.levels)

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct the magnitude, `(batch height width)`, from k-space of this shape and masks `(batch width)`."""
        image, scale = _normalised(kspace)
        found = fft2c(image + self.correction(image))
        return ifft2c(torch.where(mask[:, None] != 0, kspace / scale, found)).abs() * scale


class Unrolled(nn.Module):
    """Steps of a gradient towards the samples, with a learned weight, and a small U-Net, as in VarNet (one coil)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            [ComplexCorrection(config.cascade_channels, config.levels) for _ in range(config.cascades)]
        )
        self.weights = nn.Parameter(torch.ones(config.cascades))

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct the magnitude, as `UNetWithConsistency` does."""
        _, scale = _normalised(kspace)
        start = kspace / scale
        current = start
        for weight, correction in zip(self.weights, self.steps, strict=True):
            change = fft2c(correction(ifft2c(current)))
            current = current - weight * mask[:, None] * (current - start) + change
        return ifft2c(current).abs() * scale


class MagnitudeNetwork(nn.Module):
    """The same U-Net on the magnitude of the zero-filled image: a control that has no phase to use."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.unet = UNet(config.channels, config.levels, 1, 1, bias=False)

    def forward(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct the magnitude, as `UNetWithConsistency` does, without the data consistency, which needs phase."""
        image, scale = _normalised(kspace)
        found = image.abs()[:, None]
        corrected: Tensor = found + self.unet(found)
        return corrected[:, 0].abs() * scale


def _normalised(kspace: Tensor) -> tuple[Tensor, Tensor]:
    """Return the zero-filled image at a root mean square of 1, and the scale `(batch 1 1)`."""
    image = ifft2c(kspace)
    scale = image.abs().square().mean(dim=(-2, -1), keepdim=True).sqrt() + _TINY
    return image / scale, scale
