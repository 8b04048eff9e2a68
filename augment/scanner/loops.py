"""Receive coils as current loops around an object, and their sensitivities by the law of Biot and Savart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SEGMENTS = 24
_SOFTENING_MM = 12.0
"""Distance below which a conductor no longer grows stronger: the width of the conductor and of a voxel's average."""

_OVERLAP = 1.15
"""Size of a loop relative to the distance of its neighbours: neighbours overlap, which decouples them."""

_RELATIVE_PERMITTIVITY = 50.0
_LIGHT_MM_HZ = 2.998e11
_HERTZ_PER_TESLA = 42.577e6


@dataclass(frozen=True)
class LoopArray:
    """Loops on a cylinder along the main field, with the elliptical cross-section of the object and a gap.

    Attributes
    ----------
    gap_mm
        From the object to the loops.
    most_per_ring
        More coils form further rings, one beside the other along the axis.
    """

    gap_mm: float
    most_per_ring: int

    def sensitivities(
        self, num_coils: int, half_mm: tuple[float, float, float], points_mm: Tensor, field_t: float
    ) -> Tensor:
        """Compute the receive field `Bx - i By` of every loop, with the phase of the wave's way through tissue.

        Parameters
        ----------
        num_coils
            Loops.
        half_mm
            Half axes of the object along x, y and z (LPS, the main field is z).
        points_mm
            float64 `(point xyz)`, from the centre of the array.
        field_t
            Field strength, for the wavelength.

        Returns
        -------
        sensitivities
            complex128 `(coil point)`.
        """
        wave_number = 2 * math.pi * _HERTZ_PER_TESLA * field_t * math.sqrt(_RELATIVE_PERMITTIVITY) / _LIGHT_MM_HZ
        fields = []
        for centre, across, along in self._loops(num_coils, half_mm):
            b = _loop_field(centre, across, along, points_mm)
            distance = torch.linalg.vector_norm(points_mm - centre, dim=1)
            fields.append(torch.complex(b[:, 0], -b[:, 1]) * torch.exp(-1j * wave_number * distance))
        return torch.stack(fields)

    def _loops(self, num_coils: int, half_mm: tuple[float, float, float]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the centre of every loop and its half axes across (around the cylinder) and along it."""
        num_rings = math.ceil(num_coils / self.most_per_ring)
        a, b = half_mm[0] + self.gap_mm, half_mm[1] + self.gap_mm
        length = 2 * max(half_mm[2], (a + b) / 4) / num_rings
        loops = []
        for ring in range(num_rings):
            count = num_coils // num_rings + (ring < num_coils % num_rings)
            z = (ring - (num_rings - 1) / 2) * length
            half_across = _OVERLAP * math.pi * math.sqrt((a * a + b * b) / 2) / max(count, 3)
            half_along = _OVERLAP * min(length / 2, 1.5 * half_across)
            for number in range(count):
                angle = 2 * math.pi * (number + 0.5 * (ring % 2)) / count
                tangent = torch.tensor([-a * math.sin(angle), b * math.cos(angle), 0.0], dtype=torch.float64)
                centre = torch.tensor([a * math.cos(angle), b * math.sin(angle), z], dtype=torch.float64)
                across = tangent / torch.linalg.vector_norm(tangent) * half_across
                loops.append((centre, across, torch.tensor([0.0, 0.0, half_along], dtype=torch.float64)))
        return loops


def _loop_field(centre: Tensor, across: Tensor, along: Tensor, points_mm: Tensor) -> Tensor:
    """Compute the field of an elliptical loop of straight conductors, without its constant, `(point xyz)`."""
    angle = 2 * math.pi * torch.arange(_SEGMENTS + 1, dtype=torch.float64) / _SEGMENTS
    corners = centre + torch.cos(angle)[:, None] * across + torch.sin(angle)[:, None] * along
    middle, step = (corners[1:] + corners[:-1]) / 2, corners[1:] - corners[:-1]
    away = points_mm[:, None] - middle
    distance = torch.sqrt(away.square().sum(dim=-1) + _SOFTENING_MM**2)
    crossed: Tensor = torch.linalg.cross(step.expand_as(away), away, dim=-1)
    return (crossed / distance[..., None] ** 3).sum(dim=1)
