"""Complex-valued layers, computed as real ones.

A complex tensor of C channels is stored as a real tensor of 2 C channels: the real parts, then the imaginary parts.
A complex convolution is then one real convolution with the block weight `[[Wr, -Wi], [Wi, Wr]]`, which is one kernel
call where native complex64 needs several.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional


def to_real(image: Tensor) -> Tensor:
    """Convert complex `(batch channel height width)` to real `(batch 2*channel height width)`."""
    return torch.cat((image.real, image.imag), dim=1)


def to_complex(channels: Tensor) -> Tensor:
    """Convert real `(batch 2*channel height width)` to complex `(batch channel height width)`."""
    real, imag = channels.float().chunk(2, dim=1)
    return torch.complex(real.contiguous(), imag.contiguous())


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad the last two axes with zeros, at the end, to multiples of a number."""
    height, width = image.shape[-2:]
    return functional.pad(image, (0, -width % multiple, 0, -height % multiple))


class ComplexConv2d(nn.Module):
    """Convolve complex channels with complex weights.

    The weight is `weight_real + 1j * weight_imag`, each `(out_channels in_channels kernel kernel)`; the bias is stored
    as `2 * out_channels` real numbers, the real parts first.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        shape = (out_channels, in_channels, kernel, kernel)
        bound = gain * math.sqrt(3.0 / (2.0 * in_channels * kernel * kernel))
        self.weight_real = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.weight_imag = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(2 * out_channels))
        self.stride, self.padding = stride, kernel // 2

    def block_weight(self) -> Tensor:
        """Return the real weight `(2*out_channels 2*in_channels kernel kernel)` of the equivalent real convolution."""
        upper = torch.cat((self.weight_real, -self.weight_imag), dim=1)
        lower = torch.cat((self.weight_imag, self.weight_real), dim=1)
        return torch.cat((upper, lower), dim=0)

    def forward(self, channels: Tensor) -> Tensor:
        """Convolve real `(batch 2*in_channels height width)` to `(batch 2*out_channels height' width')`."""
        return functional.conv2d(channels, self.block_weight(), self.bias, self.stride, self.padding)


class ComplexUp2d(ComplexConv2d):
    """`ComplexConv2d` after nearest-neighbour upsampling by 2."""

    def forward(self, channels: Tensor) -> Tensor:
        """Upsample real `(batch 2*in_channels height width)`, convolve to `(batch 2*out_channels 2*height 2*width)`."""
        return super().forward(upsample_nearest(channels))


def upsample_nearest(channels: Tensor) -> Tensor:
    """Double height and width by repeating pixels."""
    return functional.interpolate(channels, scale_factor=2.0, mode="nearest")


class _MeanPower(torch.autograd.Function):
    """The mean square of each channel in float32, with a backward pass of one multiplication.

    Autograd would need five passes over float32 copies, a fifth of the time of a training step on a CPU.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, channels: Tensor) -> Tensor:
        ctx.save_for_backward(channels)
        return channels.float().square().mean(dim=(2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        (channels,) = ctx.saved_tensors  # type: ignore[attr-defined]
        scale = gradient * (2.0 / (channels.shape[2] * channels.shape[3]))
        result: Tensor = channels * scale.to(channels.dtype)[..., None, None]
        return result


def mean_power(channels: Tensor) -> Tensor:
    """Compute the mean square of each channel, `(batch channel height width)` to float32 `(batch channel)`."""
    power: Tensor = _MeanPower.apply(channels)  # type: ignore[no-untyped-call]
    return power


class ComplexNorm(nn.Module):
    """Divide groups of complex channels by their root mean square modulus, then scale and shift them by the conditions.

    No mean is subtracted and no running statistics are kept: the result of a slice depends on that slice alone, and the
    phase is unchanged.
    """

    def __init__(self, num_channels: int, num_groups: int, embedding: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.gain = nn.Parameter(torch.ones(num_channels))
        self.modulation = nn.Linear(embedding, 3 * num_channels)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, channels: Tensor, embedding: Tensor) -> Tensor:
        """Normalise real `(batch 2*num_channels height width)`, conditioned on `(batch embedding)`."""
        factor, *shift = self.scale(mean_power(channels), embedding)
        factor, shifts = factor.repeat(1, 2).to(channels.dtype), torch.cat(shift, dim=1).to(channels.dtype)
        return torch.addcmul(shifts[..., None, None], channels, factor[..., None, None])

    def scale(self, power: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute factor, and real and imaginary shift of complex channels, each `(batch num_channels)`.

        Parameters
        ----------
        power
            Mean square of their real, then of their imaginary parts, `(batch 2*num_channels)`.
        embedding
            `(batch embedding)`.
        """
        grouped = power.reshape(len(power), 2, self.num_groups, -1).mean(dim=(1, 3)) * 2.0  # mean |z|^2 of each group
        inverse = torch.rsqrt(grouped + 1e-6).repeat_interleave(len(self.gain) // self.num_groups, dim=1)
        modulation: Tensor = self.modulation(embedding)
        gain, shift_real, shift_imag = modulation.float().chunk(3, dim=1)
        return inverse * self.gain * (1.0 + gain), shift_real, shift_imag


def complex_silu(channels: Tensor) -> Tensor:
    """Compute `z * sigmoid(Re z)` of complex channels, which is SiLU for real numbers."""
    real, imag = channels.chunk(2, dim=1)
    gate = torch.sigmoid(real)
    return torch.cat((real * gate, imag * gate), dim=1)
