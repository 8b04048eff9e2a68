"""The values of `--coils`: arrays of receive coils by name and number, or a bank of measured ones.

Imports no heavy module: the command line generates its help from the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

BANK = "bank:"
MOST_COILS = 128


@dataclass(frozen=True)
class CoilArray:
    """A row of the table.

    Attributes
    ----------
    help
        A few words of `--help`.
    gap_mm, most_per_ring
        Of an array of loops: distance from the object, and coils per ring.
    most
        Largest number of coils.
    reach_mm
        Largest object; None for an array that is built around the object.
    parts
        Parts of the body that the array is for, as words of the fact `anatomy`.
    """

    help: str
    gap_mm: float = 0.0
    most_per_ring: int = 0
    most: int = MOST_COILS
    reach_mm: float | None = None
    parts: tuple[str, ...] = ()


HEAD_PERIOD_MM = 440.0
"""Period of the series of the head array, which was measured over half of it, 220 mm."""

ARRAYS: Mapping[str, CoilArray] = {
    "brain": CoilArray(
        "a head array of up to 64 coils, as measured on a scanner",
        most=64,
        reach_mm=330.0,
        parts=("brain", "head", "skull", "cranium"),
    ),
    "knee": CoilArray(
        "loops close around a limb",
        gap_mm=15.0,
        most_per_ring=5,
        parts=("knee", "leg", "ankle", "foot", "thigh", "calf", "wrist", "hand", "elbow", "arm", "extremity"),
    ),
    "body": CoilArray("loops around a trunk, or around any other object", gap_mm=30.0, most_per_ring=8),
}
"""Arrays by name; a number without a name selects one by the volume's anatomy, the last if it is unknown."""

_SPEC = re.compile(r"([a-z]*)([0-9]{1,4})")


def parse_coils(text: str) -> str:
    """Check a value of `--coils` and return it.

    Raises
    ------
    ValueError
        If it names no array, too few or too many coils.
    """
    if text.startswith(BANK):
        if text == BANK:
            raise ValueError("expected bank:FILE, a file that 'rephase coils estimate' wrote")
        return text
    found = _SPEC.fullmatch(text)
    if found is None or found[1] not in {"", *ARRAYS}:
        names = ", ".join(f"{name}N" for name in ARRAYS)
        raise ValueError(f"{text!r}: expected a number of coils N, {names}, or bank:FILE")
    count, most = int(found[2]), ARRAYS[found[1]].most if found[1] else MOST_COILS
    if not 2 <= count <= most:
        raise ValueError(f"{text!r}: {count} coils; expected 2 to {most}")
    return text


def parse_noise(text: str) -> str:
    """Check a value of `--noise` and return it; raise ValueError if it is none."""
    if text in ("measured", "off"):
        return text
    try:
        snr = float(text)
    except ValueError:
        snr = 0.0
    if not 0.1 <= snr <= 1e6:
        raise ValueError(f"{text!r}: expected an SNR from 0.1 to 1,000,000, measured, or off")
    return f"{snr:g}"


def split_coils(text: str) -> tuple[str, int]:
    """Return name (empty: by anatomy) and number of coils of a checked value that is no bank."""
    found = _SPEC.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} names no array")
    return found[1], int(found[2])


def array_for(anatomy: str | None) -> str:
    """Return the array for a part of the body; the last of the table if it is unknown."""
    words = set(re.findall("[a-z]+", (anatomy or "").lower()))
    return next((name for name, one in ARRAYS.items() if words & set(one.parts)), list(ARRAYS)[-1])
