"""The one interface under which every phase generator, learned or not, stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class SliceKey:
    """Names the noise of one slice: equal keys give equal noise on every machine."""

    seed: int
    volume_id: str
    replica: int
    slice_index: int


@dataclass(frozen=True)
class Conditions:
    """What is known of the acquisition; every field may be None.

    `spacing_mm` is (height, width), `slice_mm` the distance of neighbouring slices.
    """

    spacing_mm: tuple[float, float] | None = None
    te_ms: float | None = None
    field_t: float | None = None
    slice_mm: float | None = None

    def numbers(self) -> list[float]:
        """What a network is told: spacing along height and width (mm), TE (ms), field strength (T); NaN where None."""
        values = (*(self.spacing_mm or (None, None)), self.te_ms, self.field_t)
        return [math.nan if value is None else value for value in values]


class PhaseGenerator(Protocol):
    """Gives phase to magnitude slices.

    Attributes
    ----------
    name
        For receipts and tables.
    nfe
        Network evaluations per slice; 0 without a network.
    tile
        Slices that are computed at once.
    device
        Where the work is done, and where magnitudes are best.
    """

    name: str
    nfe: int
    tile: int
    device: torch.device

    def sample_phase(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        """Sample unit-modulus phasors for slices of one volume.

        Parameters
        ----------
        magnitude
            float32 `(slice height width)`, any scale, all >= 0; the slices of one volume or a part of them.
        keys
            One per slice. The result of a slice depends on its own magnitude, key and conditions alone, not on the
            other slices of the call.
        conditions
            Of the volume.

        Returns
        -------
        phasor
            complex64, same shape, `|phasor| = 1`.
        """
        ...
