"""The interface of all phase generators, learned or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from rephase.diffusion.seen import Seen


@dataclass(frozen=True)
class SliceKey:
    """Identifies the noise of one slice: equal keys produce equal noise on every machine.

    Volumes of equal `exam` share what slices of a volume share: field, coil phase and gauge. None: the volume's own.
    """

    seed: int
    volume_id: str
    replica: int
    slice_index: int
    exam: str | None = None


@dataclass(frozen=True, eq=False)
class WholeVolume:
    """The volume to which sampled slices belong, from which a field is computed in three dimensions.

    Attributes
    ----------
    magnitude
        All slices, `(slice height width)`, in the scale of those that are sampled.
    spacing_mm
        Along (slice, height, width).
    main_field
        Direction of the main field, a unit vector along (slice, height, width); None if unknown.
    kept
        Results computed once per volume, by their key.
    """

    magnitude: Tensor
    spacing_mm: tuple[float, float, float]
    main_field: tuple[float, float, float] | None = None
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Conditions:
    """Known facts of the acquisition; every field may be None.

    `spacing_mm` is (height, width), `slice_mm` the distance of neighbouring slices. `dephasing_ms` is the time over
    which off-resonance adds phase (`rephase.sequences.dephasing_time_ms`), `sequence` one of
    `rephase.sequences.SEQUENCES`. With `gaussian_noise` all noise is that of recipes before algorithm 11: added to the
    measured magnitude, at the level of its texture. `acquired` is the share of k-space along (height, width) that was
    not filled with zeros; None: all of it.
    """

    spacing_mm: tuple[float, float] | None = None
    dephasing_ms: float | None = None
    field_t: float | None = None
    slice_mm: float | None = None
    sequence: str | None = None
    volume: WholeVolume | None = field(default=None, repr=False, compare=False)
    gaussian_noise: bool = False
    acquired: tuple[float, float] | None = None

    def numbers(self) -> list[float]:
        """Return spacing along height and width (mm), dephasing time (ms) and field strength (T); NaN for None."""
        values = (*(self.spacing_mm or (None, None)), self.dephasing_ms, self.field_t)
        return [math.nan if value is None else value for value in values]


class PhaseGenerator(Protocol):
    """Samples phase for magnitude slices.

    Attributes
    ----------
    name
        Name in receipts and tables.
    nfe
        Network evaluations per slice; 0 without a network.
    tile
        Slices per call of the network; 1 without a network.
    weights_sha256
        SHA-256 of the weights that the phase depends on; None without any.
    licence
        Licence of the weights, or of fitted statistics, that the phase depends on; None if not stated or without any.
    seen
        What the weights have seen in training; None if not stated or without any.
    device
        Device that computes the phase. Magnitudes may be on any device.
    families
        Families of pulse sequences for which it generates phase; None for all. `rephase.diffusion.registry` selects
        another generator for the others.
    """

    name: str
    nfe: int
    tile: int
    weights_sha256: str | None
    licence: str | None
    seen: Seen | None
    device: torch.device
    families: tuple[str, ...] | None

    def sample_phase(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        """Sample unit-modulus phasors for slices of one volume.

        Parameters
        ----------
        magnitude
            float32 `(slice height width)`, any scale, all >= 0; all slices of one volume or some of them.
        keys
            One key per slice. The result of a slice depends on its own magnitude, key and conditions (and the volume
            that they have), not on the other slices of the call.
        conditions
            Conditions of the volume.

        Returns
        -------
        phasor
            complex64, same shape, `|phasor| = 1`.
        """
        ...
