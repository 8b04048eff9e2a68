"""A random phase that physics makes of a magnitude: susceptibility of air, shim, the magnet's rim, and smooth coils.

Of everything that it needs, a magnitude tells little: air is where it is weak over a centimetre, and a body that goes
on beyond the slice lies along the main field. The rest is drawn for a volume, in ranges narrow enough that most are
about as steep as scans are. So this phase is not the real one, but it is steep where a real one is: at the rim of the
field of view and beside air, with the echo time and the field strength. Where fat is, which steps the phase by its
chemical shift, must be given: brightness does not tell it.

The dipole field is that of a slice that goes on without end through the plane (kernel `1/3 - k_axis^2 / k^2` in the
plane's k-space; Salomir et al., Concepts Magn Reson B 2003); the susceptibility is that of Schenck, Med Phys 1996.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from diffusion.measurement import bright_level

GYROMAGNETIC = 42.577
"""Of hydrogen, MHz per tesla: also hertz per tesla and ppm."""
AIR_PPM = 9.4
"""Its susceptibility relative to water."""
FIRST_MM = (-160.0, 0.0)
"""Where the first slice of a volume may lie, from the middle of the scanner."""
FAT_SHIFT_PPM = -3.4
"""Of most of its hydrogen relative to water's, at the temperature of a body."""
NUM_DRAWS = 18
"""Uniform numbers that a volume needs."""
TYPICAL_FIELD_T, TYPICAL_SPACING_MM = 3.0, 1.5
"""Taken where they are not known."""
_SMALLEST_MM = 10.0
"""Of what counts as air: where a magnitude is weak over less, noise or a vessel made it so."""
_MARGIN = 0.25
_SHIM_STRIDE = 4
_FAR = 1.6
_CROWDED_MM, _CROWDED_RIM_MM = 145.0, 8.0
"""How far from the axis of the magnet, and within how much, what is bright begins to come from farther away."""
_CROWDING = 0.6
"""By what part of its distance."""
_OBJECT = 0.1
_RIM = 2
_CLEARLY_MORE = 0.1
_FAT_STEEPNESS = 4.0


class FieldDraw(NamedTuple):
    """What is drawn for a volume, each `(batch)`: threshold of air, shares of the field, magnet and coils.

    `axis` is that of the main field where a slice does not show it: 0 along height, 1 along width, 2 through the slice.
    `centre` `(batch 3)` is that of the magnet's even middle, in mm along slice, height and width, `stretch` `(batch 2)`
    its shape along the last two, `radius` and `power` say how far it goes and how it ends; `rim_ppm` is its deviation
    there. `te_ms` is for where no echo time is known, `coils` the deviation of their phase at 3 T in radians,
    `start` where the first slice lies (mm), `fat` to what side an uncertain guess of fat leans (of its logit), `crowd`
    how bright, far from the axis, is what comes from farther away.
    """

    air: Tensor
    strength: Tensor
    axis: Tensor
    shim: Tensor
    rim_ppm: Tensor
    power: Tensor
    radius: Tensor
    centre: Tensor
    stretch: Tensor
    te_ms: Tensor
    coils: Tensor
    sign: Tensor
    start: Tensor
    fat: Tensor
    crowd: Tensor


def draw_field(uniforms: Tensor) -> FieldDraw:
    """Make the draws of volumes from uniform numbers on [0, 1), `(batch NUM_DRAWS)`."""
    u = uniforms.unbind(dim=-1)
    return FieldDraw(
        air=_log_range(u[0], 0.05, 0.075),
        strength=_log_range(u[1], 0.6, 0.95),
        axis=(u[2] >= 0.4).long() + (u[2] >= 0.8).long(),
        shim=0.75 + 0.2 * u[3],
        rim_ppm=_signed(u[4], 1.25, 3.75),
        power=5.5 + u[5],
        radius=210.0 + 30.0 * u[6],
        centre=-40.0 + 80.0 * torch.stack(u[7:10], dim=-1),
        stretch=0.85 + 0.3 * torch.stack(u[10:12], dim=-1),
        te_ms=_log_range(u[12], 1.5, 15.0),
        coils=1.1 + 0.4 * u[13],
        sign=torch.where(u[14] < 0.5, -1.0, 1.0),
        start=FIRST_MM[0] + (FIRST_MM[1] - FIRST_MM[0]) * u[15],
        fat=-0.5 + 2.0 * u[16],
        crowd=_log_range(u[17], 0.85, 1.4),
    )


def field_phase(magnitude: Tensor, conditions: Tensor, place_mm: Tensor, draw: FieldDraw) -> Tensor:
    """The phase of the field in radians, without coils and what is crowded.

    Parameters
    ----------
    magnitude
        float32 `(batch height width)`.
    conditions
        `(batch 4)`: spacing along height and width (mm), TE (ms), field strength (T); NaN where not known.
    place_mm
        `(batch 3)`: where the middle of each slice is, along slice, height and width, from that of the scanner.
    draw
        Of the volume of each slice.

    Returns
    -------
    phase
        `(batch height width)`.
    """
    spacing = torch.nan_to_num(conditions[:, :2], nan=TYPICAL_SPACING_MM)
    relative = magnitude / bright_level(magnitude)
    # slices of a batch may differ in spacing, windows may not: that of the first serves
    air = guess_air(relative, spacing[0].tolist(), draw.air[:, None, None])
    field = _dipole_field(AIR_PPM * air, spacing, guess_axis(relative, draw.axis))
    field = field + _magnet_field(_Places(magnitude.shape, spacing, place_mm), draw)
    field = draw.strength[:, None, None] * _shimmed(field, relative, draw.shim)
    return _turn_per_ppm(conditions, draw) * field


def crowded_phase(magnitude: Tensor, conditions: Tensor, place_mm: Tensor, draw: FieldDraw) -> Tensor:
    """What the magnet adds to `field_phase` where tissue from farther away is crowded into one place.

    Far from the axis of the bore the gradients weaken, so what is seen there comes from farther away, where the field
    is steeper, and from more tissue: it is bright. Zero elsewhere; of the same shape, from the same parameters.
    """
    spacing = torch.nan_to_num(conditions[:, :2], nan=TYPICAL_SPACING_MM)
    relative = magnitude / bright_level(magnitude)
    bright = 1.0 - _share_below(local_mean(relative, spacing[0].tolist()), draw.crowd[:, None, None])
    places = _Places(magnitude.shape, spacing, place_mm)
    far = torch.sigmoid((places.from_axis(guess_axis(relative, draw.axis)) - _CROWDED_MM) / _CROWDED_RIM_MM)
    field = _magnet_field(places, draw, 1.0 + _CROWDING * far * bright) - _magnet_field(places, draw)
    return _turn_per_ppm(conditions, draw) * draw.strength[:, None, None] * field


def fat_phasor(share: Tensor, conditions: Tensor, draw: FieldDraw) -> Tensor:
    """The phase that fat adds by its chemical shift: unit phasors `(batch height width)`.

    Parameters
    ----------
    share
        Guess of the share of fat, 0 to 1, `(batch height width)`. Which of what is uncertain counts as fat is drawn for
        the volume.
    conditions, draw
        As in `field_phase`.
    """
    fat = decide_fat(share, draw.fat[:, None, None])
    mixture = mix_fat(fat, FAT_SHIFT_PPM * _turn_per_ppm(conditions, draw))
    return torch.polar(torch.ones_like(fat), mixture.angle())


def mix_fat(share: Tensor, turn: Tensor) -> Tensor:
    """The complex signal of water and a share of fat, which is turned by so many radians against it."""
    return torch.complex(1.0 - share + share * torch.cos(turn), share * torch.sin(turn))


def decide_fat(share: Tensor, leaning: Tensor) -> Tensor:
    """Make a guessed share of fat more decided, the uncertain to one side as `leaning` (of the logit) says."""
    return torch.sigmoid(_FAT_STEEPNESS * (torch.logit(share, eps=1e-4) + leaning))


def _turn_per_ppm(conditions: Tensor, draw: FieldDraw) -> Tensor:
    """Radians of phase for a relative field of one part in a million, in the sense of the volume, `(batch 1 1)`."""
    te_ms = torch.where(conditions[:, 2] > 0, conditions[:, 2], draw.te_ms)
    field_t = torch.where(conditions[:, 3] > 0, conditions[:, 3], TYPICAL_FIELD_T)
    return (draw.sign * 2.0 * math.pi * GYROMAGNETIC * 1e-3 * field_t * te_ms)[:, None, None]


def coil_deviation(conditions: Tensor, draw: FieldDraw) -> Tensor:
    """Of the phase that receive and transmit add, in radians, `(batch)`.

    The wave's goes with the frequency, that of the coils' places does not: taken is the square root of the frequency.
    """
    field_t = torch.where(conditions[:, 3] > 0, conditions[:, 3], TYPICAL_FIELD_T)
    return draw.coils * (field_t / TYPICAL_FIELD_T).sqrt()


def guess_air(relative: Tensor, spacing_mm: Sequence[float], threshold: Tensor) -> Tensor:
    """Guess the share of air, 0 to 1: where the mean over a centimetre is weak.

    Parameters
    ----------
    relative
        Magnitude relative to a bright one, `(batch height width)`.
    spacing_mm
        Along height and width.
    threshold
        Below which it is weak; of a shape that broadcasts.
    """
    return _share_below(local_mean(relative, spacing_mm), threshold)


def guess_axis(relative: Tensor, drawn: Tensor) -> Tensor:
    """Guess the axis of the main field, as in `FieldDraw`: a body lies along it, and goes on beyond the slice.

    Parameters
    ----------
    relative
        Magnitude relative to a bright one, `(batch height width)`.
    drawn
        Axes `(batch)`, taken where as much of the object is at the upper and lower rim as at the sides.
    """
    inside = (relative > _OBJECT).float()
    along, across = (
        torch.cat((image[:, :_RIM], image[:, -_RIM:]), dim=1).mean(dim=(1, 2))
        for image in (inside, inside.transpose(1, 2))
    )
    axis = torch.where(along - across > _CLEARLY_MORE, 0, drawn)
    return torch.where(across - along > _CLEARLY_MORE, 1, axis)


def _share_below(level: Tensor, threshold: Tensor) -> Tensor:
    return torch.sigmoid(6.0 * (threshold - level) / threshold)


def local_mean(relative: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """The mean over a centimetre."""
    reach = [max(1, round((_SMALLEST_MM / step - 1.0) / 2.0)) for step in spacing_mm]
    reach = [min(away, size // 2) for away, size in zip(reach, relative.shape[1:], strict=True)]
    window = [2 * away + 1 for away in reach]
    return functional.avg_pool2d(relative[:, None], window, 1, reach, count_include_pad=False)[:, 0]


def _signed(uniform: Tensor, low: float, high: float) -> Tensor:
    """From `low` to `high`, or the same below 0."""
    side = 2.0 * uniform - 1.0
    return torch.where(side < 0, -1.0, 1.0) * (low + (high - low) * side.abs())


def _log_range(uniform: Tensor, low: float, high: float) -> Tensor:
    return torch.exp(math.log(low) + (math.log(high) - math.log(low)) * uniform)


def _dipole_field(susceptibility: Tensor, spacing: Tensor, axis: Tensor) -> Tensor:
    """In ppm; the slice goes on at its edges as it is there."""
    height, width = susceptibility.shape[1:]
    margins = [math.ceil(_MARGIN * size) for size in (height, width)]
    pads = (margins[1], margins[1], margins[0], margins[0])
    whole = functional.pad(susceptibility[:, None], pads, mode="replicate")[:, 0]
    device = whole.device
    k_y = torch.fft.fftfreq(whole.shape[1], device=device)[:, None] / spacing[:, 0, None, None]
    k_x = torch.fft.fftfreq(whole.shape[2], device=device) / spacing[:, 1, None, None]
    along = torch.where((axis == 0)[:, None, None], k_y.square(), k_x.square())
    along = torch.where((axis == 2)[:, None, None], 0.0, along)
    kernel = 1.0 / 3.0 - along / (k_y.square() + k_x.square()).clamp(min=torch.finfo(torch.float32).tiny)
    kernel[:, 0, 0] = 0.0
    field: Tensor = torch.fft.ifft2(torch.fft.fft2(whole) * kernel).real
    return field[:, margins[0] : margins[0] + height, margins[1] : margins[1] + width]


class _Places:
    """Where the pixels of slices are, in mm from the middle of the scanner."""

    def __init__(self, shape: torch.Size, spacing: Tensor, place_mm: Tensor) -> None:
        self.through = place_mm[:, 0]
        self.y, self.x = (
            (torch.arange(size, device=spacing.device) - size // 2) * spacing[:, axis, None]
            + place_mm[:, axis + 1, None]
            for axis, size in enumerate(shape[1:])
        )

    def from_axis(self, axis: Tensor) -> Tensor:
        """Distance within the plane from an axis of `FieldDraw`, `(batch height width)`."""
        y, x = (torch.where((axis == one)[:, None], 0.0, here) for one, here in enumerate((self.y, self.x)))
        return (y.square()[:, :, None] + x.square()[:, None, :]).sqrt()


def _magnet_field(places: _Places, draw: FieldDraw, farther: Tensor | float = 1.0) -> Tensor:
    """In ppm: even within an ellipsoid, and beyond it growing with a high power of the distance.

    `farther` `(batch height width)` is how many times as far within the plane as it is seen a pixel is.
    """
    y, x = (
        (here - draw.centre[:, axis + 1, None]) * draw.stretch[:, axis, None]
        for axis, here in enumerate((places.y, places.x))
    )
    square = (y.square()[:, :, None] + x.square()[:, None, :]) * farther**2
    square = square + (places.through - draw.centre[:, 0]).square()[:, None, None]
    distance = square.sqrt() / draw.radius[:, None, None]
    return draw.rim_ppm[:, None, None] * distance.clamp(max=_FAR) ** draw.power[:, None, None]


def _shimmed(field: Tensor, relative: Tensor, share: Tensor) -> Tensor:
    """Take the share of what polynomials of second order explain over the object."""
    height, width = field.shape[1:]
    y = torch.linspace(-1.0, 1.0, height, device=field.device)[:, None].expand(height, width)
    x = torch.linspace(-1.0, 1.0, width, device=field.device).expand(height, width)
    terms = torch.stack((torch.ones_like(x), x, y, x * y, x * x, y * y))
    some = (..., slice(None, None, _SHIM_STRIDE), slice(None, None, _SHIM_STRIDE))
    inside = (relative[some] > 0.1).double().flatten(1)
    values, basis = field[some].double().flatten(1), terms[some].double().flatten(1)
    normal = torch.einsum("bn,in,jn->bij", inside, basis, basis)
    # a slice without an object has nothing to fit
    normal = normal + 1e-3 * torch.eye(len(terms), dtype=normal.dtype, device=normal.device)
    moments = torch.einsum("bn,in,bn->bi", inside, basis, values)
    fit = torch.linalg.solve(normal, moments).float()
    return field - share[:, None, None] * torch.einsum("bi,ihw->bhw", fit, terms)
