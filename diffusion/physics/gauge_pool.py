"""Gauges (global and linear phase) measured on the training volumes; sampling selects one of them per volume.

The linear phase and the phase step from slice to slice depend on the scanner and its protocol, so a volume is assigned
those of a training volume of similar echo time and resolution.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.noise import Stream, uniform, volume_key
from rephase.diffusion.physics.grid import GRID_MM

COLUMNS = ("te_ms", "spacing_mm", "ramp_height", "ramp_width", "phase_step")
"""Columns of a pool `(volume 5)`: echo time in ms and in-plane spacing in mm (NaN if unknown), linear phase in rad/mm,
and the phase step from slice to slice in rad."""
NEAREST = 8
LATE_MS = 10.0
"""Most echoes of unknown time are earlier; late ones have steeper linear phase."""
_ALIKE = math.log(1.25)


class VolumeGauge(NamedTuple):
    """Linear phase of a volume in rad per pixel (height, width), global phase and phase step per slice, both in rad."""

    ramp: tuple[float, float]
    phase: float
    phase_step: float


def alike_gauges(pool: Tensor, spacing_mm: tuple[float, float] | None) -> Tensor:
    """Return the gauges `(volume 5)` of training volumes whose spacing agrees within 25 %; none if it is unknown."""
    if spacing_mm is None:
        return pool[:0]
    return pool[(pool[:, 1] / math.sqrt(spacing_mm[0] * spacing_mm[1])).log().abs() < _ALIKE]


def near_gauges(pool: Tensor, te_ms: float | None) -> Tensor:
    """Return the `NEAREST` gauges by the logarithm of the echo time; for an unknown one, all but late ones."""
    timed = pool[torch.isfinite(pool[:, 0])]
    if te_ms is None or te_ms <= 0 or not len(timed):
        early = pool[~(pool[:, 0] > LATE_MS)]
        return early if len(early) else pool
    distance = (timed[:, 0] / te_ms).log().abs()
    return timed[torch.sort(distance, stable=True).indices[:NEAREST]]


def sample_gauge(pool: Tensor, key: SliceKey, conditions: Conditions) -> VolumeGauge:
    """Sample the gauge of a slice's volume: that of a training volume of the same spacing and a similar echo time.

    The linear phase is assigned random signs. The phase step keeps its sign, which depends on the order of the slices.
    If no training volume has that spacing, the linear phase is taken from any of them and the phase step is zero: only
    some scanners step by nearly pi per slice.
    """
    alike = alike_gauges(pool, conditions.spacing_mm)
    # echoes of an exam differ in echo time, but share their gauge
    te_ms = conditions.dephasing_ms if key.exam is None else None
    near = near_gauges(alike if len(alike) else pool, te_ms)
    first, *signs, phase = uniform(volume_key(key), Stream.GAUGE, 4).tolist()
    *ramp, phase_step = near[int(first * len(near)), 2:].tolist()
    spacing = conditions.spacing_mm or (GRID_MM, GRID_MM)
    height, width = (
        slope * step * (1.0 if sign < 0.5 else -1.0) for slope, step, sign in zip(ramp, spacing, signs, strict=True)
    )
    return VolumeGauge((height, width), 2.0 * math.pi * phase, phase_step if len(alike) else 0.0)
