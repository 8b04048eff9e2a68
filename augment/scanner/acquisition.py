"""The values of `--acquisition` and `--mask`: which part of k-space is sampled, and in which matrix.

Imports no heavy module: the command line generates its help from the table. Motion, ghosts of EPI and eddy currents are
out of scope.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction

MASKS = ("random", "equispaced", "equispaced_fraction")
MASKED_SPLIT = "test"
"""Split whose volumes `--mask` undersamples; volumes without a split are, too."""

_CENTRES = {4: 0.08, 8: 0.04}
"""fastMRI's fully sampled central part for an acceleration; 0.32 / acceleration for others."""
_MOST_OVERSAMPLING = 4


@dataclass(frozen=True)
class Acquisition:
    """How k-space is sampled; the default is every point of the image's own matrix.

    Attributes
    ----------
    oversampling
        Readout oversampling: the field of view along the height is this many times that of the image.
    asymmetric_echo
        Part of the readout that is sampled; its beginning is not.
    partial_fourier
        Part of the phase-encoding lines that is acquired; the first ones are not.
    phase_resolution
        Acquired matrix along the width, relative to that of the image; the rest is filled with zeros.
    elliptical
        1 if the corners of k-space are not sampled.
    """

    oversampling: int = 1
    asymmetric_echo: float = 1.0
    partial_fourier: float = 1.0
    phase_resolution: float = 1.0
    elliptical: int = 0

    @property
    def text(self) -> str:
        """The settings that differ from the default, as `--acquisition` takes them; empty if none does."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        changed = {name: value for name, value in values.items() if value != getattr(Acquisition, name)}
        return ",".join(f"{name.replace('_', '-')}={value:g}" for name, value in changed.items())


@dataclass(frozen=True)
class Preset:
    """A row of the table: an acquisition, and a few words of `--help`."""

    help: str
    acquisition: Acquisition


PRESETS: Mapping[str, Preset] = {
    "full": Preset("every point of the image's own matrix", Acquisition()),
    "fastmri-brain": Preset(
        "640 readout points for 320, 3/4 of the phase-encoding matrix, zero-filled",
        Acquisition(oversampling=2, phase_resolution=0.75),
    ),
    "fastmri-knee": Preset(
        "640 readout points for 320, 7/8 of the phase-encoding matrix, zero-filled",
        Acquisition(oversampling=2, phase_resolution=0.875),
    ),
    "m4raw": Preset(
        "76 % of the phase-encoding matrix, zero-filled (1.23 mm in 0.94 mm)", Acquisition(phase_resolution=0.76)
    ),
}
"""Acquisitions by name, in the form that the k-space of public data sets has; not the statistics of their protocols."""

_RANGES = {
    "oversampling": (1.0, float(_MOST_OVERSAMPLING), "a whole number from 1 to 4"),
    "asymmetric_echo": (0.5, 1.0, "a part from 0.5 to 1: the centre of k-space must be sampled"),
    "partial_fourier": (0.5, 1.0, "a part from 0.5 to 1, such as 6/8: the centre of k-space must be sampled"),
    "phase_resolution": (0.1, 1.0, "a part from 0.1 to 1"),
    "elliptical": (0.0, 1.0, "0 or 1"),
}


def parse_acquisition(text: str) -> Acquisition:
    """Return an acquisition by a name of `PRESETS`, or settings such as `oversampling=2,partial-fourier=6/8`.

    Raises
    ------
    ValueError
        If a name is unknown, or a number out of its range.
    """
    if text in PRESETS:
        return PRESETS[text].acquisition
    values: dict[str, float] = {}
    for setting in text.split(","):
        name, _, number = setting.strip().partition("=")
        name = name.replace("-", "_")
        if name not in _RANGES:
            known = ", ".join([*PRESETS, *(f"{one.replace('_', '-')}=..." for one in _RANGES)])
            raise ValueError(f"{setting.strip()!r}: expected {known}")
        least, most, expected = _RANGES[name]
        try:
            value = float(Fraction(number))
        except (ValueError, ZeroDivisionError):
            value = -1.0
        whole = name in ("oversampling", "elliptical")
        if not least <= value <= most or (whole and value != int(value)):
            raise ValueError(f"{name.replace('_', '-')} {number or 'without a number'}: expected {expected}")
        values[name] = int(value) if whole else round(value, 6)
    return Acquisition(**values)  # type: ignore[arg-type]  # whole numbers are int


_MASK = re.compile(r"([a-z_]+):([0-9]{1,3})(?::(0?\.[0-9]+))?")


@dataclass(frozen=True)
class MaskSpec:
    """A checked value of `--mask`: kind, acceleration and fully sampled central part."""

    kind: str
    acceleration: int
    centre: float

    @property
    def text(self) -> str:
        """The value, with the central part."""
        return f"{self.kind}:{self.acceleration}:{self.centre:g}"


def parse_mask(text: str) -> MaskSpec:
    """Return a mask by a text such as `equispaced:4` or `random:8:0.04`; raise ValueError if it is none."""
    found = _MASK.fullmatch(text)
    if found is None or found[1] not in MASKS or not 2 <= int(found[2]) <= 64:
        raise ValueError(
            f"{text!r}: expected KIND:R or KIND:R:CENTRE, such as equispaced:4 or random:8:0.04, with KIND one of "
            f"{', '.join(MASKS)}, an acceleration R from 2 to 64, and a central part below 1"
        )
    acceleration = int(found[2])
    centre = float(found[3]) if found[3] else _CENTRES.get(acceleration, round(0.32 / acceleration, 4))
    if not centre < 1 / acceleration:
        raise ValueError(f"{text!r}: the central part {centre:g} alone exceeds 1/{acceleration} of the columns")
    return MaskSpec(found[1], acceleration, centre)
