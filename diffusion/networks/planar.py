"""Complex layers for sampling on a CPU: real and imaginary planes, three real products per complex product.

With `t = Wr (x + y)`, the product `(Wr + i Wi)(x + i y)` is `t - (Wr + Wi) y + i (t + (Wi - Wr) x)` (Gauss's trick).
A block weight needs four. Tensors are real, `(2*slice channel height width)`, as
`rephase.diffusion.networks.layout.PLANES` has them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rephase.diffusion.networks.layers import ComplexConv2d, ComplexNorm
from rephase.diffusion.networks.upsample import pixel_shuffle_crop, upsample_weight


class PlanesConv2d(nn.Module):
    """A `ComplexConv2d` with constant weights."""

    def __init__(self, conv: ComplexConv2d) -> None:
        super().__init__()
        real, imag = conv.weight_real.detach(), conv.weight_imag.detach()
        bias_real, bias_imag = conv.bias.detach().chunk(2)
        weights = (self._arrange(weight) for weight in (real, imag - real, real + imag))
        self.weights = nn.ParameterList(nn.Parameter(weight, requires_grad=False) for weight in weights)
        repeats = self.weights[0].shape[0] // len(bias_real)
        biases = (bias.repeat(repeats) for bias in (bias_real, bias_imag - bias_real))
        self.biases = nn.ParameterList(nn.Parameter(bias, requires_grad=False) for bias in biases)
        self.stride, self.padding = conv.stride, conv.padding

    def _arrange(self, weight: Tensor) -> Tensor:
        return weight

    def forward(self, channels: Tensor) -> Tensor:
        """Convolve `(2*slice in_channels height width)` to `(2*slice out_channels height' width')`."""
        real, imag = channels.chunk(2)
        both = self._convolve(real + imag, 0)
        imag_out = self._convolve(real, 1).add_(both)
        return torch.cat((both.sub_(self._convolve(imag, 2)), imag_out))

    def _convolve(self, part: Tensor, which: int) -> Tensor:
        bias = self.biases[which] if which < len(self.biases) else None
        return functional.conv2d(part, self.weights[which], bias, self.stride, self.padding)


class PlanesUp2d(PlanesConv2d):
    """A `rephase.diffusion.networks.layers.ComplexUp2d` with constant weights."""

    def _arrange(self, weight: Tensor) -> Tensor:
        return upsample_weight(weight)

    def forward(self, channels: Tensor) -> Tensor:
        """Upsample and convolve `(2*slice in_channels height width)` to `(2*slice out_channels 2*height 2*width)`."""
        return pixel_shuffle_crop(super().forward(channels))


class PlanesNorm(nn.Module):
    """`ComplexNorm`."""

    def __init__(self, norm: ComplexNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, channels: Tensor, embedding: Tensor) -> Tensor:
        """Normalise `(2*slice num_channels height width)`, conditioned on `(slice embedding)`."""
        power = _mean_power(channels)
        factor, *shift = self.norm.scale(torch.cat(power.chunk(2), dim=1), embedding)
        return torch.addcmul(torch.cat(shift)[..., None, None], channels, factor.repeat(2, 1)[..., None, None])


def gate_planes(channels: Tensor) -> Tensor:
    """Compute `rephase.diffusion.networks.layers.complex_silu` in place: the network does not use its input again."""
    real, imag = channels.chunk(2)
    gate = torch.sigmoid(real)
    real *= gate
    imag *= gate
    return channels


def _mean_power(channels: Tensor) -> Tensor:
    """Compute `rephase.diffusion.networks.layers.mean_power` in one pass over channels-last memory."""
    pixels = channels.permute(0, 2, 3, 1).flatten(1, 2)
    power: Tensor = torch.linalg.vecdot(pixels, pixels, dim=1) / pixels.shape[1]
    return power
