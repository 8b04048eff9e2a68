"""Networks for sampling: their weights are constant, so they are rearranged once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from rephase.diffusion.networks.layers import ComplexConv2d, ComplexNorm, ComplexUp2d
from rephase.diffusion.networks.layout import PLANES
from rephase.diffusion.networks.planar import PlanesConv2d, PlanesNorm, PlanesUp2d, gate_planes
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.networks.upsample import pixel_shuffle_crop, upsample_weight


class _BlockConv2d(nn.Module):
    """A `ComplexConv2d` with a constant block weight."""

    def __init__(self, conv: ComplexConv2d) -> None:
        super().__init__()
        weight, bias = self._arrange(conv.block_weight().detach(), conv.bias.detach())
        self.weight, self.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, bias))
        self.stride, self.padding = conv.stride, conv.padding

    def _arrange(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return weight, bias

    def forward(self, channels: Tensor) -> Tensor:
        """Compute the convolution as `ComplexConv2d.forward` does."""
        return functional.conv2d(channels, self.weight, self.bias, self.stride, self.padding)


class _BlockUp2d(_BlockConv2d):
    """`_BlockConv2d` after nearest-neighbour upsampling."""

    def _arrange(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return upsample_weight(weight), bias.repeat(4)

    def forward(self, channels: Tensor) -> Tensor:
        """Upsample and convolve as `ComplexUp2d.forward` does."""
        return pixel_shuffle_crop(super().forward(channels))


def silu_(channels: Tensor) -> Tensor:
    """Compute `complex_silu` with one allocation: faster, but without gradients."""
    half = channels.shape[1] // 2
    gated = torch.empty_like(channels)
    torch.sigmoid(channels[:, :half], out=gated[:, :half])
    gated[:, half:] = gated[:, :half]
    return gated.mul_(channels)


def for_inference(network: ComplexUNet, device: torch.device) -> ComplexUNet:
    """Return a copy of a network for sampling on a device.

    On a CPU, where multiplications take most of the time, planes are used, which need fewer of them. On a
    GPU the more and smaller convolutions of planes would be slower, so block weights are used.
    """
    fixed = copy.deepcopy(network).requires_grad_(False)
    if device.type == "cpu":
        to_planar(fixed)
    else:
        to_block(fixed)
    moved: ComplexUNet = fixed.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def to_planar(network: ComplexUNet) -> None:
    """Replace the layers of a network by those of `rephase.diffusion.networks.planar`, in place."""
    network.layout = PLANES
    _replace(network, gate_planes, {ComplexUp2d: PlanesUp2d, ComplexConv2d: PlanesConv2d, ComplexNorm: PlanesNorm})


def to_block(network: ComplexUNet) -> None:
    """Replace the convolutions of a network by real ones with a constant weight each, in place."""
    _replace(network, silu_, {ComplexUp2d: _BlockUp2d, ComplexConv2d: _BlockConv2d})


def _replace(
    network: ComplexUNet, gate: Callable[[Tensor], Tensor], layers: Mapping[type[nn.Module], Callable[..., nn.Module]]
) -> None:
    """Set the gate of a network, and replace its layers by type."""
    for module in list(network.modules()):
        if hasattr(module, "gate"):
            module.gate = gate  # type: ignore[assignment]
        for name, child in module.named_children():
            if type(child) in layers:
                setattr(module, name, layers[type(child)](child))
