"""The off-resonance field of a whole volume, computed in three dimensions, so that phase is coherent through slices.

The dipole kernel is `1/3 - (k . b)^2 / k^2`, b the direction of the main field (Salomir et al., Concepts Magn Reson B
2003). Air and field vary over a centimetre and more, so they are computed on a grid of `GRID_MM`, from which slices are
interpolated: a volume takes a few milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rephase.diffusion.generators import WholeVolume
from rephase.diffusion.physics.anatomy import estimate_axis, local_mean, share_below
from rephase.diffusion.physics.field_phase import AIR_PPM, FieldSample, dipole_kernel
from rephase.diffusion.physics.magnet import Places, magnet_field
from rephase.diffusion.physics.measurement import bright_level

GRID_MM = 4.0
"""Spacing of the grid; that of the slices through the plane if they are thicker."""
_MARGIN, _MARGIN_MM = 0.25, 60.0
"""Extension at each side, over which the rim is repeated: a share of the size, at least a distance through slices."""
_OBJECT = 0.1
_AXES = (2, 0, 1)
"""Axis of the main field as in `FieldSample`, by the index of (slice, height, width)."""


class VolumeField(NamedTuple):
    """The field of a volume.

    Attributes
    ----------
    ppm
        Shimmed field on the grid, `(1 1 plane row column)`.
    level
        Bright level of the volume.
    axis
        Axis of the bore, as in `FieldSample`, `(1)`.
    num_slices
        Number of slices of the volume, over which the planes are spread.
    """

    ppm: Tensor
    level: Tensor
    axis: Tensor
    num_slices: int

    def at(self, slices: Sequence[int], height: int, width: int) -> Tensor:
        """Interpolate slices of that matrix: float32 ppm, `(slice height width)`."""
        planes = self.ppm.shape[2]
        images = []
        for index in slices:
            place = min(max((index + 0.5) * planes / self.num_slices - 0.5, 0.0), planes - 1.0)
            below = min(int(place), max(planes - 2, 0))
            plane = torch.lerp(self.ppm[:, :, below], self.ppm[:, :, min(below + 1, planes - 1)], place - below)
            images.append(functional.interpolate(plane, (height, width), mode="bicubic", align_corners=False)[0, 0])
        return torch.stack(images)


def volume_field(volume: WholeVolume, sampled: FieldSample, device: torch.device) -> VolumeField:
    """Compute the field of air, magnet and shim of a volume.

    Parameters
    ----------
    volume
        The volume.
    sampled
        Its parameters, of batch size 1.
    device
        Device that computes it and holds the result.
    """
    magnitude = volume.magnitude.to(device)
    spacing = volume.spacing_mm
    level = bright_level(magnitude[:, ::2, ::2].reshape(1, -1))[0]
    size = [max(1, round(n * min(step / GRID_MM, 1.0))) for n, step in zip(magnitude.shape, spacing, strict=True)]
    step = [n * one / count for n, one, count in zip(magnitude.shape, spacing, size, strict=True)]
    air, bright = _on_grid(magnitude, level, spacing, size, sampled.air)
    direction = volume.main_field
    if direction is None:  # one axis for the volume
        axis = estimate_axis(bright.mean(dim=0, keepdim=True), sampled.axis)
        direction = (float(axis == 2), float(axis == 0), float(axis == 1))
    else:
        largest = max(range(3), key=lambda one: abs(direction[one]))
        axis = torch.full((1,), _AXES[largest], device=device)
    start = sampled.start + 0.5 * (step[0] - spacing[0])
    through = start + step[0] * torch.arange(size[0], device=device)
    place_mm = torch.stack((through, *(torch.zeros_like(through),) * 2), dim=1)
    in_plane = torch.tensor(step[1:], device=device).expand(size[0], 2)
    magnet = magnet_field(Places(torch.Size(size), in_plane, place_mm), sampled.magnet)
    ppm = _dipole_field(AIR_PPM * air, step, direction) + magnet
    ppm = ppm - sampled.shim * _second_order_fit(ppm, bright > _OBJECT)
    return VolumeField(ppm[None, None], level, axis, len(magnitude))


def _on_grid(
    magnitude: Tensor, level: Tensor, spacing: Sequence[float], size: Sequence[int], threshold: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the fraction of air and the relative magnitude on the grid, `(plane row column)`."""
    air, bright = [], []
    for one in magnitude:  # slice by slice, since a volume of full resolution may be large
        relative = one[None] / level
        inside = share_below(local_mean(relative, spacing[1:]), threshold[:, None, None])
        both = functional.adaptive_avg_pool2d(torch.cat((inside, relative)), (size[1], size[2]))
        air.append(both[0])
        bright.append(both[1])
    pooled = functional.adaptive_avg_pool3d(
        torch.stack((torch.stack(air), torch.stack(bright))), (size[0], size[1], size[2])
    )
    return pooled[0], pooled[1]


def _dipole_field(susceptibility: Tensor, step: Sequence[float], direction: Sequence[float]) -> Tensor:
    """Compute the dipole field in ppm; the volume is extended by its edge values."""
    size = susceptibility.shape
    margins = [math.ceil(_MARGIN * count) for count in size]
    margins[0] = max(margins[0], math.ceil(_MARGIN_MM / step[0]))
    pads = [margin for margin in reversed(margins) for _ in range(2)]
    whole = functional.pad(susceptibility[None, None], pads, mode="replicate")[0, 0]
    frequencies = [
        transform(count, device=whole.device).reshape([-1 if axis == other else 1 for other in range(3)]) / step[axis]
        for axis, (count, transform) in enumerate(
            zip(whole.shape, (torch.fft.fftfreq, torch.fft.fftfreq, torch.fft.rfftfreq), strict=True)
        )
    ]
    z, y, x = frequencies
    along = (z * direction[0] + y * direction[1] + x * direction[2]).square()
    kernel = dipole_kernel(along, z.square() + y.square() + x.square())
    field: Tensor = torch.fft.irfftn(torch.fft.rfftn(whole) * kernel, s=whole.shape)
    cut = [slice(margin, margin + count) for margin, count in zip(margins, size, strict=True)]
    return field[cut[0], cut[1], cut[2]]


def _second_order_fit(field: Tensor, inside: Tensor) -> Tensor:
    """Return the polynomial of second order that fits a field over the object, as a shim does."""
    z, y, x = torch.meshgrid(
        *(torch.linspace(-1.0, 1.0, count, dtype=torch.float64, device=field.device) for count in field.shape),
        indexing="ij",
    )
    terms = torch.stack((torch.ones_like(x), x, y, z, x * y, x * z, y * z, x * x, y * y, z * z)).flatten(1)
    weighted = terms * inside.flatten()
    # regular also for a volume without an object
    normal = weighted @ terms.T + 1e-3 * torch.eye(len(terms), dtype=terms.dtype, device=field.device)
    fit = torch.linalg.solve(normal, weighted @ field.double().flatten())
    polynomial: Tensor = (fit @ terms).reshape(field.shape).float()
    return polynomial
