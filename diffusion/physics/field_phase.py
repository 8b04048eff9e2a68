"""A random off-resonance phase computed from a magnitude: susceptibility of air, magnet, shim, and fat.

A magnitude contains little of the required information: air is where it is weak over a centimetre, and an object that
extends beyond the image is aligned with the main field. The rest is sampled per volume, in ranges narrow enough that
most phases are about as steep as measured ones. So this is not the true phase, but it is steep where a true one is: at
the rim of the field of view and next to air, growing with echo time and field strength. Fat is guessed:
bright tissue near the surface.

The dipole field of a single slice is that of its infinite extension through the plane (kernel `1/3 - k_axis^2 / k^2` in
the plane's k-space; Salomir et al., Concepts Magn Reson B 2003); `volume_field` computes that of contiguous slices. The
susceptibility is that of Schenck, Med Phys 1996.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rephase.diffusion.physics.anatomy import estimate_axis, local_mean, share_below
from rephase.diffusion.physics.magnet import Magnet, Places, gradient_fold, magnet_field
from rephase.diffusion.physics.measurement import bright_level

GYROMAGNETIC = 42.577
"""Gyromagnetic ratio of hydrogen (gamma / 2 pi) in MHz/T, which is also Hz per tesla and ppm."""
AIR_PPM = 9.4
"""Susceptibility of air relative to water (Schenck, Med Phys 1996)."""
FIRST_MM = (-160.0, 0.0)
"""Range of the position of the first slice of a volume, from the isocentre."""
FAT_SHIFT_PPM = -3.4
"""Chemical shift of the main fat peak relative to water at body temperature."""
MOST_FOLDED_PHASE = 3.2
"""Largest phase of folded tissue in rad/ppm, that of 4 ms at 3 T: beyond it such tissue is dephased, so not bright."""
NUM_UNIFORMS = 19
"""Uniform numbers that `sample_field` needs per volume."""
TYPICAL_FIELD_T, TYPICAL_SPACING_MM = 3.0, 1.5
"""Typical values, used if unknown."""
_MARGIN = 0.25
_SHIM_STRIDE = 4
_FAT_EDGE = 0.0125
_NEAR_SHARE, _NEAR_DEVIATIONS = 0.1, 1.2816
"""Share of a normal distribution beyond as many deviations."""


class FieldSample(NamedTuple):
    """Parameters sampled per volume, each `(batch)`.

    Attributes
    ----------
    air
        Relative magnitude below which a centimetre counts as air.
    strength, shim
        Fraction of the field that is applied, and fraction that the shim removes.
    axis
        Axis of the main field if the slice does not show it: 0 along height, 1 along width, 2 through the slice.
    magnet
        Field deviation of the magnet.
    te_ms
        Echo time in ms, used if that of the slice is unknown.
    coils
        Standard deviation of the coil phase at 3 T, in radians.
    sign
        Sign of the phase, a convention of the scanner.
    start
        Position of the first slice in mm, from the isocentre.
    fat, fat_mm
        Relative magnitude above which tissue counts as fat, and the depth below air down to which it can.
    fold
        Relative magnitude above which tissue far from the axis counts as folded.
    """

    air: Tensor
    strength: Tensor
    axis: Tensor
    shim: Tensor
    magnet: Magnet
    te_ms: Tensor
    coils: Tensor
    sign: Tensor
    start: Tensor
    fat: Tensor
    fat_mm: Tensor
    fold: Tensor


def sample_field(uniforms: Tensor) -> FieldSample:
    """Sample volumes from uniform numbers on [0, 1), `(batch NUM_UNIFORMS)`."""
    u = uniforms.unbind(dim=-1)
    return FieldSample(
        air=_log_range(u[0], 0.05, 0.075),
        strength=_log_range(u[1], 0.6, 0.95),
        axis=(u[2] >= 0.4).long() + (u[2] >= 0.8).long(),
        shim=0.75 + 0.2 * u[3],
        magnet=Magnet(
            rim_ppm=_signed(u[4], 1.25, 3.75),
            power=5.5 + u[5],
            radius=210.0 + 30.0 * u[6],
            centre=-40.0 + 80.0 * torch.stack(u[7:10], dim=-1),
            stretch=0.85 + 0.3 * torch.stack(u[10:12], dim=-1),
        ),
        te_ms=_log_range(u[12], 1.5, 15.0),
        coils=1.1 + 0.4 * u[13],
        sign=torch.where(u[14] < 0.5, -1.0, 1.0),
        start=FIRST_MM[0] + (FIRST_MM[1] - FIRST_MM[0]) * u[15],
        fat=0.36 + 0.42 * u[16],
        fat_mm=10.0 + 50.0 * u[18],
        fold=_log_range(u[17], 0.85, 1.4),
    )


class FieldAngles(NamedTuple):
    """Off-resonance phase in radians, `(batch height width)`.

    Add `folded` to `plain` where gradient fold-over maps tissue from farther away
    (`rephase.diffusion.physics.magnet`); it is zero elsewhere.
    """

    plain: Tensor
    folded: Tensor


class SliceField(NamedTuple):
    """The field of some slices as computed for their whole volume (`rephase.diffusion.physics.volume_field`).

    Attributes
    ----------
    ppm
        Shimmed field, `(batch height width)`.
    level
        Bright level of the volume, `(1 1)`.
    axis
        Axis of the bore, as in `FieldSample`, `(1)`.
    """

    ppm: Tensor
    level: Tensor
    axis: Tensor


def field_phase(
    magnitude: Tensor, conditions: Tensor, place_mm: Tensor, sampled: FieldSample, whole: SliceField | None = None
) -> FieldAngles:
    """Compute the off-resonance phase, without fat and coils.

    Parameters
    ----------
    magnitude
        float32 `(batch height width)`.
    conditions
        `(batch 4)`: spacing along height and width (mm), TE (ms), field strength (T); NaN if unknown.
    place_mm
        Position of the centre of each slice along slice, height and width, from the isocentre, `(batch 3)`.
    sampled
        Parameters of the volume of each slice.
    whole
        The field of the slices, computed in three dimensions; if None, that of infinitely thick slices is computed.
    """
    spacing = torch.nan_to_num(conditions[:, :2], nan=TYPICAL_SPACING_MM)
    relative = magnitude / (bright_level(magnitude) if whole is None else whole.level)
    # The slices of a batch may differ in spacing, but the windows may not, so the first slice sets them.
    level = local_mean(relative, spacing[0].tolist())
    air, calm = (share_below(level, threshold[:, None, None]) for threshold in (sampled.air, sampled.fold))
    axis = estimate_axis(relative, sampled.axis) if whole is None else whole.axis.expand(len(magnitude))
    places = Places(magnitude.shape, spacing, place_mm)
    magnet = magnet_field(places, sampled.magnet)
    folded = magnet_field(places, sampled.magnet, gradient_fold(places, axis, 1.0 - calm)) - magnet
    if whole is None:
        field = _shimmed(_dipole_field(AIR_PPM * air, spacing, axis) + magnet, relative, sampled.shim)
    else:
        field = whole.ppm
    phase_per_ppm, strength = _phase_per_ppm(conditions, sampled), sampled.strength[:, None, None]
    folded_per_ppm = phase_per_ppm.clamp(-MOST_FOLDED_PHASE, MOST_FOLDED_PHASE)
    return FieldAngles(phase_per_ppm * (strength * field), folded_per_ppm * strength * folded)


def fat_phasor(magnitude: Tensor, conditions: Tensor, sampled: FieldSample) -> Tensor:
    """Compute the phase of fat's chemical shift: unit phasors `(batch height width)`; arguments as in `field_phase`."""
    fat = likely_fat(magnitude, conditions, sampled)
    mixture = water_fat_signal(fat, FAT_SHIFT_PPM * _phase_per_ppm(conditions, sampled))
    return torch.polar(torch.ones_like(fat), mixture.angle())


def likely_fat(magnitude: Tensor, conditions: Tensor, sampled: FieldSample) -> Tensor:
    """Guess the fat fraction, `(batch height width)`: bright tissue not too deep below air is fat.

    A magnitude does not determine it: brightness and depth that count are sampled per volume. Arguments as in
    `field_phase`.
    """
    spacing = torch.nan_to_num(conditions[:, :2], nan=TYPICAL_SPACING_MM)
    relative = magnitude / bright_level(magnitude)
    air = share_below(local_mean(relative, spacing[0].tolist()), sampled.air[:, None, None])
    bright = torch.sigmoid((relative - sampled.fat[:, None, None]) / _FAT_EDGE)
    return bright * near_surface(air, spacing, sampled.fat_mm)


def near_surface(air: Tensor, spacing: Tensor, depth_mm: Tensor) -> Tensor:
    """Return about 1 within a depth below air and 0 beyond it, by a Gaussian mean: at a plane surface it is exact."""
    deviation = depth_mm / _NEAR_DEVIATIONS
    squares = [
        (2.0 * math.pi * deviation / spacing[:, axis])[:, None].square()
        * torch.fft.fftfreq(size, device=air.device).square()
        for axis, size in enumerate(air.shape[1:])
    ]
    kernel = torch.exp(-0.5 * (squares[0][:, :, None] + squares[1][:, None, : air.shape[2] // 2 + 1]))
    mean = torch.fft.irfft2(torch.fft.rfft2(air) * kernel, s=air.shape[1:])
    near: Tensor = torch.sigmoid((mean - _NEAR_SHARE) / 0.01)
    return near


def water_fat_signal(share: Tensor, phase: Tensor) -> Tensor:
    """Compute the complex signal of water and a fraction of fat, whose phase relative to water is given in radians."""
    return torch.complex(1.0 - share + share * torch.cos(phase), share * torch.sin(phase))


def _phase_per_ppm(conditions: Tensor, sampled: FieldSample) -> Tensor:
    """Return the phase of a field of one ppm in radians, with the sign of the volume, `(batch 1 1)`."""
    te_ms = torch.where(conditions[:, 2].isnan(), sampled.te_ms, conditions[:, 2])
    field_t = torch.where(conditions[:, 3] > 0, conditions[:, 3], TYPICAL_FIELD_T)
    return (sampled.sign * 2.0 * math.pi * GYROMAGNETIC * 1e-3 * field_t * te_ms)[:, None, None]


def coil_deviation(conditions: Tensor, sampled: FieldSample) -> Tensor:
    """Return the standard deviation of the receive and transmit phase in radians, `(batch)`.

    The phase of wave propagation grows with the frequency, that of the coil positions does not; so the square root of
    the frequency is used.
    """
    field_t = torch.where(conditions[:, 3] > 0, conditions[:, 3], TYPICAL_FIELD_T)
    return sampled.coils * (field_t / TYPICAL_FIELD_T).sqrt()


def _signed(uniform: Tensor, low: float, high: float) -> Tensor:
    """Map a uniform number to +-`low` to +-`high`."""
    side = 2.0 * uniform - 1.0
    return torch.where(side < 0, -1.0, 1.0) * (low + (high - low) * side.abs())


def _log_range(uniform: Tensor, low: float, high: float) -> Tensor:
    return torch.exp(math.log(low) + (math.log(high) - math.log(low)) * uniform)


def dipole_kernel(along: Tensor, total: Tensor) -> Tensor:
    """Return the kernel of the field of a susceptibility, `1/3 - k_axis^2 / k^2`, and 0 in the centre of k-space.

    Parameters
    ----------
    along
        Square of the spatial frequency along the main field.
    total
        Square of the spatial frequency.
    """
    kernel = 1.0 / 3.0 - along / total.clamp(min=torch.finfo(torch.float32).tiny)
    return kernel.masked_fill(total == 0.0, 0.0)


def _dipole_field(susceptibility: Tensor, spacing: Tensor, axis: Tensor) -> Tensor:
    """Compute the dipole field in ppm; the slice is extended by its edge values."""
    height, width = susceptibility.shape[1:]
    margins = [math.ceil(_MARGIN * size) for size in (height, width)]
    pads = (margins[1], margins[1], margins[0], margins[0])
    whole = functional.pad(susceptibility[:, None], pads, mode="replicate")[:, 0]
    device = whole.device
    k_y = torch.fft.fftfreq(whole.shape[1], device=device)[:, None] / spacing[:, 0, None, None]
    k_x = torch.fft.rfftfreq(whole.shape[2], device=device) / spacing[:, 1, None, None]
    along = torch.where((axis == 0)[:, None, None], k_y.square(), k_x.square())
    along = torch.where((axis == 2)[:, None, None], 0.0, along)
    kernel = dipole_kernel(along, k_y.square() + k_x.square())
    field: Tensor = torch.fft.irfft2(torch.fft.rfft2(whole) * kernel, s=whole.shape[1:])
    return field[:, margins[0] : margins[0] + height, margins[1] : margins[1] + width]


def _shimmed(field: Tensor, relative: Tensor, share: Tensor) -> Tensor:
    """Subtract a share of the second-order polynomial that fits the field over the object."""
    height, width = field.shape[1:]
    y = torch.linspace(-1.0, 1.0, height, device=field.device)[:, None].expand(height, width)
    x = torch.linspace(-1.0, 1.0, width, device=field.device).expand(height, width)
    terms = torch.stack((torch.ones_like(x), x, y, x * y, x * x, y * y))
    some = (..., slice(None, None, _SHIM_STRIDE), slice(None, None, _SHIM_STRIDE))
    inside = (relative[some] > 0.1).double().flatten(1)
    values, basis = field[some].double().flatten(1), terms[some].double().flatten(1)
    normal = torch.einsum("bn,in,jn->bij", inside, basis, basis)
    # regular also for a slice without an object
    normal = normal + 1e-3 * torch.eye(len(terms), dtype=normal.dtype, device=normal.device)
    moments = torch.einsum("bn,in,bn->bi", inside, basis, values)
    fit = torch.linalg.solve(normal, moments).float()
    return field - share[:, None, None] * torch.einsum("bi,ihw->bhw", fit, terms)
