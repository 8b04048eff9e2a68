"""Gauges measured on the training volumes, from which sampling draws one for each volume.

What a scanner's phase does on the whole (its linear part, and how it turns from slice to slice) hangs together with
the scanner and its protocol: a volume takes the gauge of a training volume of similar echo time and resolution.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.noise import Stream, uniform, volume_key
from rephase.diffusion.physics.grid import GRID_MM

COLUMNS = ("te_ms", "spacing_mm", "ramp_height", "ramp_width", "turn")
"""Of a pool `(volume 5)`: echo time and in-plane spacing (NaN where not known), linear phase in rad/mm, and the turn of
the phase from a slice to the next in rad."""
NEAREST = 8
_ALIKE = math.log(1.25)


class VolumeGauge(NamedTuple):
    """Of one volume: linear phase in radians per pixel (height, width), global phase, turn from slice to slice."""

    ramp: tuple[float, float]
    phase: float
    turn: float


def alike_gauges(pool: Tensor, spacing_mm: tuple[float, float] | None) -> Tensor:
    """The gauges of the training volumes whose spacing is the same within a quarter; of none where it is not known."""
    if spacing_mm is None:
        return pool[:0]
    return pool[(pool[:, 1] / math.sqrt(spacing_mm[0] * spacing_mm[1])).log().abs() < _ALIKE]


def near_gauges(pool: Tensor, te_ms: float | None) -> Tensor:
    """The `NEAREST` gauges by the logarithm of the echo time; all where it is not known of the volume or of any."""
    timed = pool[torch.isfinite(pool[:, 0])]
    if te_ms is None or te_ms <= 0 or not len(timed):
        return pool
    distance = (timed[:, 0] / te_ms).log().abs()
    return timed[torch.sort(distance, stable=True).indices[:NEAREST]]


def draw_gauge(pool: Tensor, key: SliceKey, conditions: Conditions) -> VolumeGauge:
    """Draw the gauge of a slice's volume: that of a training volume of the same spacing and a similar echo time.

    The ramp gets random signs. The turn keeps its own, which goes with the order of the slices. Where no training
    volume has that spacing, the ramp is drawn from all of them and there is no turn: some scanners turn the phase by
    nearly pi from slice to slice, and nothing would say that this one does.
    """
    alike = alike_gauges(pool, conditions.spacing_mm)
    near = near_gauges(alike if len(alike) else pool, conditions.te_ms)
    first, *signs, phase = uniform(volume_key(key), Stream.GAUGE, 4).tolist()
    *ramp, turn = near[int(first * len(near)), 2:].tolist()
    spacing = conditions.spacing_mm or (GRID_MM, GRID_MM)
    height, width = (
        slope * step * (1.0 if sign < 0.5 else -1.0) for slope, step, sign in zip(ramp, spacing, signs, strict=True)
    )
    return VolumeGauge((height, width), 2.0 * math.pi * phase, turn if len(alike) else 0.0)
