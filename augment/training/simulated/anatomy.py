"""Simulated complex slices: training data with anatomy and phase from a physical model.

Random anatomy (a body with organs, fat, bone and air) defines a susceptibility map; its field follows from the dipole
kernel in k-space (Salomir et al., Concepts Magn Reson B 2003; Marques and Bowtell, Concepts Magn Reson B 2005), is
shimmed, and acts over the echo time; fat has its chemical shift; receive and transmit add a smooth phase. Values of
susceptibility are those of Schenck, Med Phys 1996. The magnitude has decay, dephasing within a voxel, and noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rephase.config import Whole
from rephase.diffusion.physics.field_phase import (
    FAT_SHIFT_PPM,
    GYROMAGNETIC,
    TYPICAL_FIELD_T,
    dipole_kernel,
    water_fat_signal,
)
from rephase.training.batches import TrainingSlice

_STRENGTH = (0.3, 1.2)
_EVERY = 3
_DEPTH = 36


@dataclass(frozen=True)
class SimulationConfig:
    """Simulated training data in addition to the rows."""

    volumes: Whole = 0
    """Number of volumes with simulated anatomy and phase."""
    phases: Whole = 0
    """Number of simulated phases, each on the magnitude of a random volume."""
    seed: Whole = 0
    """Random seed of the simulation."""


class Echo(NamedTuple):
    """Dephasing time (ms; 0 for a spin echo) and field strength (T)."""

    te_ms: float
    field_t: float

    @property
    def cycles_per_ppm(self) -> float:
        """Cycles of phase per ppm of field."""
        return GYROMAGNETIC * self.field_t * self.te_ms * 1e-3


class Tissue(NamedTuple):
    """Ranges of a tissue: signal, susceptibility relative to water (ppm), R2* (1/s); fat fraction."""

    signal: tuple[float, float]
    susceptibility: tuple[float, float]
    rate: tuple[float, float]
    fat: float


ORGAN = Tissue((0.3, 1.2), (-0.08, 0.08), (10.0, 60.0), 0.0)
FAT = Tissue((0.6, 1.4), (0.4, 0.7), (10.0, 30.0), 1.0)
BONE = Tissue((0.05, 0.25), (-2.2, -1.2), (80.0, 200.0), 0.2)
AIR = Tissue((0.0, 0.0), (9.3, 9.5), (0.0, 0.0), 0.0)
_INSIDE = (ORGAN, FAT, BONE, AIR)
_SHARES = (0.68, 0.12, 0.1, 0.1)


class Anatomy(NamedTuple):
    """Maps `(slice height width)`: signal, susceptibility (ppm, relative to water), R2* (1/s), fat fraction."""

    signal: Tensor
    susceptibility: Tensor
    rate: Tensor
    fat: Tensor


def simulate(config: SimulationConfig) -> Iterator[list[TrainingSlice]]:
    """Yield the slices of each volume of a configuration; a function of seed and number alone."""
    for number in range(config.volumes):
        yield simulate_volume(np.random.Generator(np.random.Philox(key=[config.seed, number])))


def simulate_volume(random: np.random.Generator) -> list[TrainingSlice]:
    """Simulate a volume and return every third of its inner slices.

    Parameters
    ----------
    random
        Source of anatomy, geometry and acquisition.
    """
    height, width = (int(8 * random.integers(9, 17)) for _ in range(2))
    in_plane, through = random.uniform(1.4, 3.0), random.uniform(3.0, 6.0)
    spacing = (through, in_plane, in_plane)
    anatomy = sample_anatomy((_DEPTH, height, width), spacing, random)
    axis = 0 if random.random() < 0.6 else 1  # axial slices, or coronal and sagittal ones
    field_ppm = dipole_field(anatomy.susceptibility, spacing, axis)
    field_ppm = field_ppm + magnet_field(anatomy.signal.shape, spacing, random)
    field_ppm = sample_strength(random) * shim(field_ppm, anatomy.signal, random.uniform(0.7, 1.0))
    echo = sample_echo(random)
    image = acquire(anatomy, field_ppm, echo)
    image = image * receive(image.shape, spacing, echo.field_t, random)
    peak = float(image.abs().flatten().quantile(0.99))
    level = peak * 10.0 ** random.uniform(-2.7, -1.4)
    image = image + level * torch.view_as_complex(white_noise((*image.shape, 2), random))
    inner = range(_EVERY, len(image) - _EVERY, _EVERY)
    chosen = [image[index].clone() for index in inner]
    return [TrainingSlice(one, spacing[1:], echo.te_ms, echo.field_t, "simulated") for one in chosen]


def sample_echo(random: np.random.Generator) -> Echo:
    """Sample an acquisition: 1.5 or 3 T, TE 1.5 to 15 ms; 25 % are spin echoes, which refocus the field."""
    field_t = float(random.choice((1.5, 3.0)))
    te_ms = float(math.exp(random.uniform(math.log(1.5), math.log(15.0))))
    refocused = random.random() < 0.25
    return Echo(0.0 if refocused else te_ms, field_t)


def sample_strength(random: np.random.Generator) -> float:
    """Sample a factor of the simulated field, log-uniform from 0.3 to 1.2.

    Weak signal is not always air, and scanners shim beyond second order: at 3 T, phase of the full field is about as
    steep as the real phase of some scanners, and much steeper than that of others.
    """
    return math.exp(random.uniform(math.log(_STRENGTH[0]), math.log(_STRENGTH[1])))


def magnet_field(shape: tuple[int, ...], spacing_mm: tuple[float, float, float], random: np.random.Generator) -> Tensor:
    """Sample the inhomogeneity of the magnet in ppm, `(slice height width)`.

    It grows with a high power of the distance from the isocentre, near that of the volume, and is up to 4 ppm at a
    radius of 190 to 280 mm.
    """
    centre = random.uniform(-40.0, 40.0, 3)
    grid = _positions((shape[0], shape[1], shape[2]), spacing_mm)
    stretch = random.uniform(0.7, 1.3, 3)
    square = torch.zeros(shape)
    for axis in range(3):
        square = square + ((grid[axis] - centre[axis]) * stretch[axis]).square()
    distance = square.sqrt() / random.uniform(190.0, 280.0)
    return float(random.uniform(-4.0, 4.0)) * distance.clamp(max=1.5) ** float(random.uniform(4.0, 8.0))


def dipole_field(susceptibility: Tensor, spacing_mm: tuple[float, float, float], axis: int) -> Tensor:
    """Return the relative field of a susceptibility distribution, in its unit.

    Parameters
    ----------
    susceptibility
        `(slice height width)`, periodic.
    spacing_mm
        Along (slice, height, width).
    axis
        Axis of the main field.

    Returns
    -------
    field
        Same shape: the convolution with `1/3 - k_axis^2 / k^2` in k-space, mean 0.
    """
    squares = [
        torch.fft.fftfreq(size, step).square().reshape([-1 if i == j else 1 for j in range(3)])
        for i, (size, step) in enumerate(zip(susceptibility.shape, spacing_mm, strict=True))
    ]
    total = squares[0] + squares[1] + squares[2]
    kernel = dipole_kernel(squares[axis], total)
    field: Tensor = torch.fft.ifftn(torch.fft.fftn(susceptibility) * kernel).real
    return field


def shim(field: Tensor, signal: Tensor, share: float) -> Tensor:
    """Subtract the fraction `share` of a fitted second-order polynomial, as shim coils do.

    The fit is over the object: `signal` above a tenth of its maximum.
    """
    axes = [torch.linspace(-1.0, 1.0, size) for size in field.shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    terms = torch.stack([torch.ones_like(x), x, y, z, x * y, y * z, x * z, x * x - y * y, z * z - x * x, z * z])
    inside = signal > 0.1 * signal.max()
    basis, values = terms[:, inside].double(), field[inside].double()
    normal = basis @ basis.T
    # regular also for one or two slices, where some terms are the same
    normal = normal + (1e-6 * normal.trace() + 1e-9) * torch.eye(len(terms), dtype=normal.dtype)
    fit = torch.linalg.solve(normal, basis @ values).float()
    explained: Tensor = torch.tensordot(fit, terms, dims=1)
    return field - share * explained


def acquire(anatomy: Anatomy, field_ppm: Tensor, echo: Echo) -> Tensor:
    """Return the complex image of a gradient echo, `(slice height width)`; TE 0 is a spin echo.

    The phase is 2 pi times off-resonance times TE. The field gradient along the slice axis dephases a voxel: its signal
    is multiplied by the sinc of the cycles across it.
    """
    signal = anatomy.signal * torch.exp(-anatomy.rate * echo.te_ms * 1e-3) * dephased(field_ppm, echo)
    return signal * _precess(field_ppm, anatomy.fat, echo)


def dephased(field_ppm: Tensor, echo: Echo, thickness: float = 1.0) -> Tensor:
    """Return the share of the signal that is left where the field differs across a slice, of the shape of the field.

    `thickness` is that of a slice, in slice distances.
    """
    if len(field_ppm) < 2:
        return torch.ones_like(field_ppm)
    return torch.sinc(echo.cycles_per_ppm * thickness * torch.gradient(field_ppm, dim=0)[0]).abs()


def phase_phasor(field_ppm: Tensor, fat: Tensor, echo: Echo) -> Tensor:
    """Return the phase of `acquire` as unit phasors, same shape as the field."""
    image = _precess(field_ppm, fat, echo)
    return torch.polar(torch.ones_like(field_ppm), image.angle())


def _precess(field_ppm: Tensor, fat: Tensor, echo: Echo) -> Tensor:
    per_ppm = 2.0 * math.pi * echo.cycles_per_ppm  # radians
    precession = torch.polar(torch.ones_like(field_ppm), per_ppm * field_ppm)
    return water_fat_signal(fat, torch.tensor(per_ppm * FAT_SHIFT_PPM)) * precession


def sample_anatomy(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], random: np.random.Generator
) -> Anatomy:
    """Sample a body in air with a layer of fat and 8 to 24 structures; edges are about a pixel wide."""
    grid = _positions(shape, spacing_mm)
    extent = torch.tensor([n * mm for n, mm in zip(shape, spacing_mm, strict=True)])
    bend = 0.09 * smooth_field(shape, spacing_mm, 60.0, random)
    maps = [torch.zeros(shape) for _ in range(4)]
    _paint(maps, torch.ones(shape), AIR, random)
    radii = extent * torch.tensor([random.uniform(0.6, 1.5), random.uniform(0.3, 0.44), random.uniform(0.3, 0.44)])
    body = _ellipsoid(grid, torch.zeros(3), radii, 0.0) + bend
    soft = float(radii[1:].min()) / spacing_mm[1]
    _paint(maps, _soft_mask(body, soft), FAT, random)
    thickness = random.uniform(0.02, 0.15)
    _paint(maps, _soft_mask(body + thickness, soft), ORGAN, random)
    for _ in range(random.integers(8, 25)):
        size = math.exp(random.uniform(math.log(0.04), math.log(0.35)))
        inner = radii * size * torch.from_numpy(random.uniform(0.5, 1.8, 3)).float()
        place = radii * torch.from_numpy(random.uniform(-0.7, 0.7, 3)).float()
        part = _ellipsoid(grid, place, inner, random.uniform(0, math.pi)) + 1.5 * bend
        mask = _soft_mask(part, float(inner[1:].min()) / spacing_mm[1]) * _soft_mask(body + thickness, soft)
        _paint(maps, mask, _INSIDE[random.choice(len(_INSIDE), p=_SHARES)], random)
    texture = 1.0 + 0.1 * smooth_field(shape, spacing_mm, 6.0, random)
    vessels = 0.03 * smooth_field(shape, spacing_mm, 5.0, random) * (maps[0] > 0)
    return Anatomy(maps[0] * texture.clamp(min=0.2), maps[1] + vessels, maps[2], maps[3])


def smooth_field(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], correlation_mm: float, random: np.random.Generator
) -> Tensor:
    """Sample a Gaussian random field, mean 0, deviation 1; its correlation falls to 1/e over `correlation_mm`."""
    exponent = torch.zeros(shape)
    for axis, (size, step) in enumerate(zip(shape, spacing_mm, strict=True)):
        frequency = torch.fft.fftfreq(size, step).reshape([-1 if i == axis else 1 for i in range(len(shape))])
        exponent = exponent + (math.pi * correlation_mm * frequency).square()
    field: Tensor = torch.fft.ifftn(torch.fft.fftn(white_noise(shape, random)) * torch.exp(-0.5 * exponent)).real
    return (field - field.mean()) / field.std().clamp(min=1e-12)


def receive(
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float, float],
    field_t: float,
    random: np.random.Generator,
    magnitude: bool = True,
) -> Tensor:
    """Sample receive and transmit sensitivity: smooth magnitude and phase, or phase alone.

    The phase has components with correlation lengths of 60 to 140 mm and of 20 to 50 mm. It grows with the square root
    of the field strength: the phase of the wave grows in proportion, that of the coil positions does not.
    """
    modulus = torch.exp(0.3 * smooth_field(shape, spacing_mm, 150.0, random)) if magnitude else torch.ones(shape)
    wide = random.uniform(0.7, 2.5) * smooth_field(shape, spacing_mm, random.uniform(60.0, 140.0), random)
    narrow = random.uniform(0.2, 0.8) * smooth_field(shape, spacing_mm, random.uniform(20.0, 50.0), random)
    return torch.polar(modulus, (wide + narrow) * math.sqrt(field_t / TYPICAL_FIELD_T))


def white_noise(shape: tuple[int, ...], random: np.random.Generator) -> Tensor:
    """Sample independent standard normals."""
    values: NDArray[np.float32] = random.standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(values)


def _positions(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Tensor:
    axes = [(torch.arange(n) - n // 2) * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _ellipsoid(grid: Tensor, place: Tensor, radii: Tensor, angle: float) -> Tensor:
    """Return the distance from `place` in radii, minus 1 (negative inside); `angle` rotates in plane."""
    z, y, x = grid - place[:, None, None, None]
    y, x = math.cos(angle) * y - math.sin(angle) * x, math.sin(angle) * y + math.cos(angle) * x
    return torch.sqrt((z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2) - 1.0


def _soft_mask(distance: Tensor, pixels: float) -> Tensor:
    """Return 1 inside, 0 outside; `pixels` is the radius in pixels."""
    return torch.sigmoid(-2.0 * pixels * distance)


def _paint(maps: list[Tensor], mask: Tensor, tissue: Tissue, random: np.random.Generator) -> None:
    values = [random.uniform(*bounds) for bounds in tissue[:3]] + [tissue.fat]
    for index, value in enumerate(values):
        maps[index] = maps[index] + mask * (value - maps[index])
