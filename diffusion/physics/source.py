"""The source phase, from which the flow starts: a random phase that is smooth on the scale of anatomy.

Flow matching is valid for any source. From independent uniform phase, few network evaluations leave noise in the image;
from a smooth phase without singularities they produce a smooth phase, like that of shim and coils. Small scales of the
source reappear, stretched, where the phase must be steep. Scales that it lacks have to be created from the noise
by a flow of many evaluations, which becomes too smooth.

`narrow`: a Gaussian random field with scales of 9, 3 and 1 cm, with deviations so small that few phases are far from
its mean. `scales`: the same scales, covering the full circle. Neither depends on the slice.

`field`: an off-resonance phase computed from magnitude and conditions, with the chemical shift of fat
(`rephase.diffusion.physics.field_phase`), and coil phase with scales of 8 and 3 cm. So much of the steep phase, which
few evaluations can hardly produce, exists from the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rephase.diffusion.devices import from_scalars
from rephase.diffusion.generators import SliceKey, WholeVolume
from rephase.diffusion.noise import Stream, anchored_normals, uniforms, volume_key
from rephase.diffusion.physics.field_phase import (
    FIRST_MM,
    NUM_UNIFORMS,
    TYPICAL_SPACING_MM,
    FieldSample,
    SliceField,
    coil_deviation,
    fat_phasor,
    field_phase,
    sample_field,
)
from rephase.diffusion.physics.gauge import find_gauge
from rephase.diffusion.physics.volume_field import volume_field

SOURCES = ("narrow", "scales", "field")
OF_MAGNITUDE = ("field", "field-10")
"""Sources that depend on the magnitude of the slice; `field-10` is `field` up to algorithm 10, without fat."""
DEFAULT_SOURCE = "narrow"
CORRELATION_MM = 90.0
"""Distance at which the correlation of the smooth phase has fallen to 1/e."""
FIELDS = {
    "scales": ((CORRELATION_MM, 2.0), (30.0, 0.6), (10.0, 0.2)),
    "narrow": ((CORRELATION_MM, 0.7), (30.0, 0.4), (10.0, 0.15)),
    "field": ((80.0, 1.0), (30.0, 0.5)),
    "field-10": ((80.0, 1.0), (30.0, 0.5)),
}
"""By source: correlation length in mm and standard deviation in rad of the random fields that are added."""
TYPICAL_SLICE_MM = 5.0
"""Slice distance in mm, used if it is unknown."""


class SourcePhase(NamedTuple):
    """Source phases, complex64 of unit modulus.

    Attributes
    ----------
    phasor
        The source in the gauge of the targets (without global and linear phase).
    gauge
        The removed global and linear phase, by which a sample is multiplied. The gauge of single slices jumps
        even if the phase is smooth through the volume. 1 for sources that do not depend on the slice.
    rim_phase
        Optional phase that multiplies the finished sample: few network evaluations would smooth it.
    """

    phasor: Tensor
    gauge: Tensor
    rim_phase: Tensor | None = None

    def whole(self) -> Tensor:
        """Return the source multiplied by its gauge and the phase at the rim."""
        phasor = self.phasor * self.gauge
        return phasor if self.rim_phase is None else phasor * self.rim_phase


def shape_angle(white: Tensor, spacing_mm: Tensor, kind: str = DEFAULT_SOURCE) -> Tensor:
    """Compute smooth Gaussian random fields from independent normals.

    Parameters
    ----------
    white
        float32 `(*batch height width)`, standard normal.
    spacing_mm
        Along height and width, `(*batch 2)`; NaN if unknown.
    kind
        One of `FIELDS`.

    Returns
    -------
    angle
        Radians, of the same shape.
    """
    height, width = white.shape[-2:]
    cycles = math.pi / torch.nan_to_num(spacing_mm, nan=TYPICAL_SPACING_MM)[..., None]
    y, x = (
        (cycles[..., axis, :] * torch.fft.fftfreq(size, device=white.device)).square()
        for axis, size in enumerate((height, width))
    )
    power = torch.zeros((), device=white.device)
    for length, deviation in FIELDS[kind]:
        rows, columns = (_normalised(torch.exp(-(length**2) * square)) for square in (y, x))
        power = power + deviation**2 * rows[..., :, None] * columns[..., None, : width // 2 + 1]
    angle: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * power.sqrt(), s=(height, width))
    return angle


def _normalised(density: Tensor) -> Tensor:
    """Divide by the mean along the last axis."""
    return density / density.mean(dim=-1, keepdim=True)


def source_phasors(
    keys: Sequence[SliceKey],
    magnitude: Tensor,
    conditions: Tensor,
    slice_mm: float | None,
    kind: str = DEFAULT_SOURCE,
    volume: WholeVolume | None = None,
) -> SourcePhase:
    """Sample the source phases of slices of a volume: each depends on its own key, position and magnitude.

    Through the volume the smooth fields are interpolated between anchors `CORRELATION_MM / 2` apart, so neighbouring
    slices have similar sources.

    Parameters
    ----------
    keys
        Keys of the slices.
    magnitude
        `(key height width)`; the result is on its device.
    conditions
        `(4)`: spacing along height and width (mm), TE (ms), field strength (T); NaN if unknown.
    slice_mm
        Distance of neighbouring slices; `TYPICAL_SLICE_MM` if None.
    kind
        One of `SOURCES`.
    volume
        The volume of the slices: their field is that of the volume in three dimensions.

    Returns
    -------
    source
        Each part `(key height width)`.
    """
    device, (height, width) = magnitude.device, magnitude.shape[-2:]
    places = [key.slice_index * (slice_mm or TYPICAL_SLICE_MM) for key in keys]
    white = anchored_normals(keys, places, 0.5 * CORRELATION_MM, Stream.SOURCE, height * width, device)
    angle = shape_angle(white.reshape(-1, height, width), conditions[:2], kind)
    if kind not in OF_MAGNITUDE:
        return _in_no_gauge(torch.polar(torch.ones_like(angle), angle))
    sampled = sample_field(uniforms([volume_key(key) for key in keys], Stream.SOURCE, NUM_UNIFORMS, device))
    place_mm = torch.zeros(len(keys), 3, device=device)
    place_mm[:, 0] = from_scalars(places, device) + sampled.start
    whole = None if volume is None else _slice_field(volume, keys, height, width, device)
    return _field_source(angle, magnitude, conditions.expand(len(keys), -1), place_mm, sampled, kind, whole)


def _slice_field(
    volume: WholeVolume, keys: Sequence[SliceKey], height: int, width: int, device: torch.device
) -> SliceField:
    """Interpolate the field of a volume at some of its slices; it is computed once per volume."""
    key = volume_key(keys[0])
    field = volume.kept.get((key, device))
    if field is None:
        sampled = sample_field(uniforms([key], Stream.SOURCE, NUM_UNIFORMS, device))
        field = volume.kept[key, device] = volume_field(volume, sampled, device)
    return SliceField(field.at([one.slice_index for one in keys], height, width), field.level, field.axis)


def training_source(
    magnitude: Tensor,
    conditions: Tensor,
    generator: torch.Generator,
    kind: str = DEFAULT_SOURCE,
    place_mm: Tensor | None = None,
) -> Tensor:
    """Sample source phases for training, complex64 of the shape of the magnitude.

    Parameters
    ----------
    magnitude
        `(batch height width)`.
    conditions
        `(batch 4)`, as in `source_phasors`.
    generator
        Generator of the random numbers.
    kind
        One of `SOURCES`.
    place_mm
        Position of the centre of each slice in the one that it was cropped from, along height and width, `(batch 2)`;
        its centre if None.
    """
    angle = shape_angle(torch.randn(magnitude.shape, generator=generator), conditions[:, :2], kind)
    if kind not in OF_MAGNITUDE:
        return torch.polar(torch.ones_like(angle), angle)
    sampled = sample_field(torch.rand((len(magnitude), NUM_UNIFORMS), generator=generator))
    in_plane = torch.zeros(len(magnitude), 2) if place_mm is None else place_mm
    # slices from anywhere in a volume, whose centre is near the isocentre
    through = sampled.start - sum(FIRST_MM) / 2.0
    place = torch.cat((through[:, None], in_plane), dim=1)
    return _field_source(angle, magnitude, conditions, place, sampled, kind).phasor


def _field_source(
    angle: Tensor,
    magnitude: Tensor,
    conditions: Tensor,
    place_mm: Tensor,
    sampled: FieldSample,
    kind: str,
    whole: SliceField | None = None,
) -> SourcePhase:
    """Combine off-resonance, coil phase and fat."""
    coils = coil_deviation(conditions, sampled)[:, None, None] * angle
    field = field_phase(magnitude, conditions, place_mm, sampled, whole)
    image = torch.polar(magnitude, field.plain + coils)
    if kind == "field":
        image = image * fat_phasor(magnitude, conditions, sampled)
    gauge = find_gauge(image)
    fixed = (image * gauge.conj()).angle()
    one = torch.ones_like(fixed)
    return SourcePhase(torch.polar(one, fixed), gauge, torch.polar(one, field.folded))


def _in_no_gauge(phasor: Tensor) -> SourcePhase:
    return SourcePhase(phasor, torch.ones_like(phasor))
