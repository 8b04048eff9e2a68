"""Networks for sampling, whose weights do not change any more: what can be made of these once is."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion.layers import ComplexConv2d, ComplexUp2d, RealConv2d, RealUp2d, complex_silu
from diffusion.network import ComplexUNet


class _FixedConv2d(nn.Module):
    """A convolution whose weights do not change any more: a complex one holds the block weight."""

    def __init__(self, conv: ComplexConv2d | RealConv2d) -> None:
        super().__init__()
        weight, bias = self._arrange(_real_weight(conv).detach(), conv.bias.detach())
        self.weight, self.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
        self.stride, self.padding = conv.stride, conv.padding

    def _arrange(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return weight, bias

    def forward(self, channels: Tensor) -> Tensor:
        """See `ComplexConv2d`."""
        return functional.conv2d(channels, self.weight, self.bias, self.stride, self.padding)


class _FixedUp2d(_FixedConv2d):
    """As `_FixedConv2d`, of pixels that are doubled before: in 4 of every 9 multiplications.

    Over doubled pixels, 3 x 3 weights see 2 x 2 different ones, of which some count twice; which, differs for the four
    pixels that come of one.
    """

    def _arrange(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        parts = [one for rows in _add_twins(weight, 2) for one in _add_twins(rows, 3)]
        return torch.cat(parts), bias.repeat(len(parts))

    def forward(self, channels: Tensor) -> Tensor:
        """See `ComplexUp2d`."""
        batch, _, height, width = channels.shape
        parts = functional.conv2d(channels, self.weight, self.bias, padding=1)
        shape = (batch, parts.shape[1] // 4, 2 * height, 2 * width)
        doubled = torch.empty(shape, dtype=parts.dtype, device=parts.device, memory_format=torch.channels_last)
        for index, part in enumerate(parts.chunk(4, dim=1)):
            down, right = divmod(index, 2)
            doubled[:, :, down::2, right::2] = part[:, :, down : down + height, right : right + width]
        return doubled


def _add_twins(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Of three weights along an axis, the two that a first and a second of doubled pixels sees."""
    before, here, after = weight.unbind(dim)
    return torch.stack((before, here + after), dim), torch.stack((before + here, after), dim)


def _real_weight(conv: ComplexConv2d | RealConv2d) -> Tensor:
    return conv.block_weight() if isinstance(conv, ComplexConv2d) else conv.weight


def _gate_at_once(channels: Tensor) -> Tensor:
    """`complex_silu` into one new tensor: faster, but nothing for gradients."""
    half = channels.shape[1] // 2
    gated = torch.empty_like(channels)
    torch.sigmoid(channels[:, :half], out=gated[:, :half])
    gated[:, half:] = gated[:, :half]
    return gated.mul_(channels)


def fix_weights(network: ComplexUNet, device: torch.device) -> ComplexUNet:
    """A copy for sampling on a device, whose convolutions are arranged once, not at each call."""
    fixed = copy.deepcopy(network).requires_grad_(False)
    for module in list(fixed.modules()):
        if getattr(module, "gate", None) is complex_silu:
            module.gate = _gate_at_once  # type: ignore[assignment]
        for name, child in module.named_children():
            if isinstance(child, ComplexUp2d | RealUp2d):
                setattr(module, name, _FixedUp2d(child))
            elif isinstance(child, ComplexConv2d):
                setattr(module, name, _FixedConv2d(child))
    moved: ComplexUNet = fixed.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved
