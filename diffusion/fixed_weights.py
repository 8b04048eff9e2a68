"""Networks for sampling, whose weights do not change any more: what can be made of these once is."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion.layers import ComplexConv2d, ComplexUp2d, RealConv2d, RealUp2d

_Network = TypeVar("_Network", bound=nn.Module)


class _FixedConv2d(nn.Module):
    """A convolution whose weights do not change any more: a complex one holds the block weight."""

    def __init__(self, conv: ComplexConv2d | RealConv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(self._arrange(_real_weight(conv).detach()), requires_grad=False)
        self.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
        self.stride, self.padding = conv.stride, conv.padding

    def _arrange(self, weight: Tensor) -> Tensor:
        return weight

    def forward(self, channels: Tensor) -> Tensor:
        """See `ComplexConv2d`."""
        return functional.conv2d(channels, self.weight, self.bias, self.stride, self.padding)


class _FixedUp2d(_FixedConv2d):
    """As `_FixedConv2d`, of pixels that are doubled before: in 4 of every 9 multiplications.

    Over doubled pixels, 3 x 3 weights see 2 x 2 different ones, of which some count twice; which, differs for the four
    pixels that come of one.
    """

    def _arrange(self, weight: Tensor) -> Tensor:
        parts = [_add_twins(rows, 3) for rows in _add_twins(weight, 2)]
        return torch.cat([one for pair in parts for one in pair])

    def forward(self, channels: Tensor) -> Tensor:
        """See `ComplexUp2d`."""
        (batch, _, height, width), outs = channels.shape, len(self.bias)
        parts = functional.conv2d(channels, self.weight, self.bias.repeat(4), padding=1)
        shape = (batch, outs, 2 * height, 2 * width)
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


def fix_weights(network: _Network) -> _Network:
    """A copy for sampling, whose convolutions are arranged once for weights that do not change any more."""
    fixed = copy.deepcopy(network)
    for module in list(fixed.modules()):
        for name, child in module.named_children():
            if isinstance(child, ComplexUp2d | RealUp2d):
                setattr(module, name, _FixedUp2d(child))
            elif isinstance(child, ComplexConv2d):
                setattr(module, name, _FixedConv2d(child))
    return fixed
