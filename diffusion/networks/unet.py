"""`ComplexUNet`: the complex-valued residual U-Net that all processes share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le, MaxLen, MinLen
from torch import Tensor, nn

from rephase.diffusion.devices import from_scalars
from rephase.diffusion.networks.layers import ComplexConv2d, ComplexNorm, ComplexUp2d, complex_silu
from rephase.diffusion.networks.layout import BLOCKS

NUM_CONDITIONS = 4
"""Spacing along height and width in mm, echo time in ms, field strength in T."""
_TYPICAL = (2.0, 2.0, 5.0, 3.0)
_LEAST = (0.0, 0.0, 0.5, 0.0)
"""Shorter dephasing times act like none: that of a spin echo is 0."""
_Size = Annotated[int, Ge(1), Le(4096)]


@dataclass(frozen=True)
class NetworkConfig:
    """Architecture of a `ComplexUNet`; stored with every checkpoint."""

    RETIRED: ClassVar[dict[str, tuple[str, ...]]] = {"kind": ("complex",)}
    """Entries of cards of earlier versions, with the values that are the network of this version."""
    channels: Annotated[tuple[_Size, ...], MinLen(1), MaxLen(8)] = (16, 32, 64, 96)
    """Complex channels from the finest level to the coarsest."""
    blocks: Annotated[int, Ge(1), Le(64)] = 2
    """Residual blocks at each level of either side."""
    patch: _Size = 2
    """Side in pixels of the patches that are folded into channels before the first level."""
    groups: _Size = 4
    """Groups of the normalisation; `channels` are multiples of it."""
    embedding: _Size = 128
    """Channels of the embedding of time and conditions."""

    def __post_init__(self) -> None:
        if any(n % self.groups for n in self.channels):
            raise ValueError(f"channels {self.channels}: expected multiples of groups = {self.groups}")

    @property
    def multiple(self) -> int:
        """Return the number of which height and width of the input must be multiples."""
        return int(self.patch * 2 ** (len(self.channels) - 1))


class ResidualBlock(nn.Module):
    """A residual block: two normalised, conditioned, gated complex convolutions and a skip connection."""

    def __init__(self, in_channels: int, out_channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.gate = complex_silu
        self.norm_1 = ComplexNorm(in_channels, config.groups, config.embedding)
        self.conv_1 = ComplexConv2d(in_channels, out_channels, 3)
        self.norm_2 = ComplexNorm(out_channels, config.groups, config.embedding)
        self.conv_2 = ComplexConv2d(out_channels, out_channels, 3, gain=0.1)
        self.skip = nn.Identity() if in_channels == out_channels else ComplexConv2d(in_channels, out_channels, 1)

    def forward(self, channels: Tensor, embedding: Tensor) -> Tensor:
        """Map real `(batch 2*in_channels height width)` to `(batch 2*out_channels height width)`."""
        hidden = self.conv_1(self.gate(self.norm_1(channels, embedding)))
        hidden = self.conv_2(self.gate(self.norm_2(hidden, embedding)))
        result: Tensor = self.skip(channels) + hidden
        return result


class ComplexUNet(nn.Module):
    """Predict a complex image from a noisy one and a magnitude.

    Inputs and output are real-block tensors (see `rephase.diffusion.networks.layers`): two complex input channels
    (noisy image, magnitude), one complex output channel.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config, self.layout, self.gate = config, BLOCKS, complex_silu
        pixels, widths = config.patch**2, config.channels
        self.embed = nn.Sequential(
            nn.Linear(64 + 2 * NUM_CONDITIONS, config.embedding),
            nn.SiLU(),
            nn.Linear(config.embedding, config.embedding),
            nn.SiLU(),
        )
        # zero, so that a condition that never varies in training has no effect at sampling
        nn.init.zeros_(self.embed[0].weight[:, 64:])  # type: ignore[index]
        self.stem = ComplexConv2d(2 * pixels, widths[0], 3)
        self.encoder = nn.ModuleList(self._level(width, width, config) for width in widths)
        self.down = nn.ModuleList(
            ComplexConv2d(fine, coarse, 3, stride=2) for fine, coarse in itertools.pairwise(widths)
        )
        self.decoder = nn.ModuleList(self._level(2 * width, width, config) for width in widths[:-1])
        self.up = nn.ModuleList(ComplexUp2d(coarse, fine, 3) for fine, coarse in itertools.pairwise(widths))
        self.head_norm = ComplexNorm(widths[0], config.groups, config.embedding)
        self.head = ComplexConv2d(widths[0], pixels, 3, gain=0.1)

    @staticmethod
    def _level(in_channels: int, out_channels: int, config: NetworkConfig) -> nn.ModuleList:
        widths = [in_channels] + [out_channels] * config.blocks
        return nn.ModuleList(ResidualBlock(a, b, config) for a, b in itertools.pairwise(widths))

    def forward(self, noisy: Tensor, magnitude: Tensor, t: Tensor, conditions: Tensor) -> Tensor:
        """Predict a complex image.

        Parameters
        ----------
        noisy
            Complex image as real blocks, `(batch 2 height width)`; sizes are multiples of `config.multiple`.
        magnitude
            The same shape; imaginary part zero.
        t
            Time in [0, 1], `(batch)`.
        conditions
            `(batch 4)`: spacing along height and width (mm), TE (ms), field strength (T); NaN if unknown.

        Returns
        -------
        prediction
            `(batch 2 height width)`.
        """
        embedding = self.embed(torch.cat((embed_time(t), embed_conditions(conditions)), dim=1))
        hidden = self.stem(self.layout.fold(noisy, magnitude, self.config.patch))
        skips = []
        for level, blocks in enumerate(self.encoder):
            if level:
                hidden = self.down[level - 1](hidden)
            for block in _blocks(blocks):
                hidden = block(hidden, embedding)
            skips.append(hidden)
        for level in reversed(range(len(self.down))):
            hidden = self.up[level](hidden)
            hidden = self.layout.join(hidden, skips[level])
            for block in _blocks(self.decoder[level]):
                hidden = block(hidden, embedding)
        hidden = self.head(self.gate(self.head_norm(hidden, embedding)))
        return self.layout.unfold(hidden, self.config.patch)


def _blocks(level: nn.Module) -> Sequence[nn.Module]:
    return list(level.children())


def embed_time(t: Tensor) -> Tensor:
    """Compute sinusoidal features of the time, `(batch)` to `(batch 64)`."""
    frequencies = torch.exp(torch.linspace(0.0, math.log(200.0), 32, device=t.device))
    angles = t[:, None] * frequencies
    return torch.cat((torch.cos(angles), torch.sin(angles)), dim=1)


def embed_conditions(conditions: Tensor) -> Tensor:
    """Return logarithms relative to typical values, 0 if unknown, and flags of the known ones: `(batch 8)`.

    Only positive numbers count as known, and an echo time of 0, which is that of a refocused echo.
    """
    least = from_scalars(_LEAST, conditions.device)
    known = torch.isfinite(conditions) & ((conditions > 0.0) | (least > 0.0))
    typical = from_scalars(_TYPICAL, conditions.device)
    logs = torch.log(torch.where(known, torch.maximum(conditions, least), typical) / typical)
    return torch.cat((logs, known.to(logs.dtype)), dim=1)
