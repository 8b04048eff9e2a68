"""Where the flow starts: a random phase that is smooth on the scale of anatomy, with a little of smaller scales.

Flow matching holds for any source. From independent uniform phases, few evaluations leave the source's grain in the
picture; what they leave of a smooth phase without singularities is a smooth phase, as shim and coils make it. What the
source has of small scales comes back, stretched, where the phase is to be steep: a centimetre becomes islands a
centimetre apart. What it lacks, a flow of many evaluations has to stretch out of the noise, and gets too smooth. So
"narrow", for flows, has scales of 9, 3 and 1 cm, and "broad", for students of few evaluations, of 9 and 3 cm, both with
deviations so small that hardly a phase is far from its mean. "scales" is as narrow, but all around the circle, "smooth"
has the largest scale only, and "independent" is the published process's: they are there to be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.fourier import fft2c, ifft2c
from diffusion.generators import SliceKey
from diffusion.noise import Stream, anchor_key, normals, random_phasors
from diffusion.scalars import from_scalars

SOURCES = ("narrow", "broad", "scales", "smooth", "independent")
DEFAULT_SOURCE = "narrow"
CORRELATION_MM = 90.0
"""Distance at which the correlation of the smooth phase has fallen to 1/e."""
AMPLITUDE = 2.0
"""Its standard deviation in radians: enough for it to be anything."""
FIELDS = {
    "smooth": ((CORRELATION_MM, AMPLITUDE),),
    "scales": ((CORRELATION_MM, AMPLITUDE), (30.0, 0.6), (10.0, 0.2)),
    "narrow": ((CORRELATION_MM, 0.7), (30.0, 0.4), (10.0, 0.15)),
    "broad": ((CORRELATION_MM, 0.7), (30.0, 0.4)),
}
"""By the kind of the source: the random fields whose sum its phase is, correlation length and standard deviation."""
TYPICAL_SPACING_MM = 1.5
"""Taken where the spacing is not known."""
TYPICAL_SLICE_MM = 5.0
"""Taken where the distance of the slices is not known."""


def shape_source(drawn: Tensor, spacing_mm: Tensor, kind: str = DEFAULT_SOURCE) -> Tensor:
    """Make source phasors from independent normals.

    Parameters
    ----------
    drawn
        float32 `(*batch height width)`, standard normal.
    spacing_mm
        Along height and width, `(*batch 2)`; NaN where not known.
    kind
        One of `FIELDS`.

    Returns
    -------
    phasor
        complex64 of the same shape, unit modulus: the phase is a Gaussian random field.
    """
    height, width = drawn.shape[-2:]
    y = (torch.arange(height, device=drawn.device) - height // 2) / height
    x = (torch.arange(width, device=drawn.device) - width // 2) / width
    cycles = math.pi / torch.nan_to_num(spacing_mm, nan=TYPICAL_SPACING_MM)
    square = (cycles[..., 0, None, None] * y[:, None]) ** 2 + (cycles[..., 1, None, None] * x) ** 2
    power = torch.zeros_like(square)
    for length, deviation in FIELDS[kind]:
        density = torch.exp(-(length**2) * square)
        power = power + deviation**2 * density / density.mean(dim=(-2, -1), keepdim=True)
    angle = ifft2c(fft2c(drawn.to(torch.complex64)) * power.sqrt()).real
    return torch.polar(torch.ones_like(angle), angle)


def source_phasor(
    key: SliceKey, height: int, width: int, spacing_mm: Tensor, slice_mm: float | None, kind: str = DEFAULT_SOURCE
) -> Tensor:
    """The source of one slice; see `source_phasors`."""
    return source_phasors([key], height, width, spacing_mm, slice_mm, kind)[0]


def source_phasors(
    keys: Sequence[SliceKey],
    height: int,
    width: int,
    spacing_mm: Tensor,
    slice_mm: float | None,
    kind: str = DEFAULT_SOURCE,
) -> Tensor:
    """The sources of slices of a volume: each a function of its key and place.

    The smooth one passes over, every half `CORRELATION_MM` through the volume, from one field to the next, so that
    neighbouring slices start alike.

    Parameters
    ----------
    keys
        Of the slices.
    height, width
        Their size.
    spacing_mm
        Along height and width, `(2)`; NaN where not known. The result is on its device.
    slice_mm
        Distance of neighbouring slices; `TYPICAL_SLICE_MM` where None.
    kind
        One of `SOURCES`.

    Returns
    -------
    phasor
        complex64 `(key height width)`.
    """
    device = spacing_mm.device
    if kind == "independent":
        return random_phasors(keys, Stream.SOURCE, height, width, device)
    positions = [key.slice_index * (slice_mm or TYPICAL_SLICE_MM) / (0.5 * CORRELATION_MM) for key in keys]
    anchors = [math.floor(position) for position in positions]
    # cos^2 + sin^2 = 1 keeps the variance between two anchors
    turns = [(position - anchor) * math.pi / 2.0 for position, anchor in zip(positions, anchors, strict=True)]
    here, there = (
        normals(
            [anchor_key(key, anchor + step) for key, anchor in zip(keys, anchors, strict=True)],
            Stream.SOURCE,
            height * width,
            device,
        )
        for step in (0, 1)
    )
    cosines, sines = (from_scalars(map(f, turns), device)[:, None] for f in (math.cos, math.sin))
    return shape_source((cosines * here + sines * there).reshape(-1, height, width), spacing_mm, kind)


def training_source(
    shape: tuple[int, ...], spacing_mm: Tensor, generator: torch.Generator, kind: str = DEFAULT_SOURCE
) -> Tensor:
    """Sources for training, complex64 of the given shape `(*batch height width)`; spacing `(*batch 2)`."""
    if kind == "independent":
        angle = 2.0 * math.pi * torch.rand(shape, generator=generator)
        return torch.polar(torch.ones_like(angle), angle)
    return shape_source(torch.randn(shape, generator=generator), spacing_mm, kind)
