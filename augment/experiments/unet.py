"""The U-Net of every experiment."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    """U-Net whose first resolution is half of the image, four pixels being channels: a quarter of the work.

    Its weights begin as zero. Sizes are multiples of `2 ** levels`.
    """

    def __init__(self, channels: int, levels: int, num_in: int = 2, num_out: int = 2, bias: bool = True) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(levels)]
        self.down = nn.ModuleList([_block(4 * num_in, widths[0])])
        self.down.extend(_block(a, b) for a, b in pairwise(widths[:-1]))
        self.middle = _block(widths[-2], widths[-1])
        self.up = nn.ModuleList([_block(a + b, a) for b, a in pairwise(widths[::-1])])
        self.last = nn.Conv2d(channels, 4 * num_out, 1, bias=bias)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch num_in height width)` to `(batch num_out height width)`."""
        x = F.pixel_unshuffle(x, 2)
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.middle(x)
        for block in self.up:
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), kept.pop()], dim=1))
        found: Tensor = F.pixel_shuffle(self.last(x), 2)
        return found


def _block(num_in: int, num_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (num_in, num_out):
        layers += [nn.Conv2d(channels, num_out, 3, padding=1), nn.GroupNorm(4, num_out), nn.SiLU()]
    return nn.Sequential(*layers)
