"""Audit flags: header entries that show that a magnitude image was processed after sampling.

Training on such images as if they were raw data overestimates the performance of methods, so every volume has these
flags. They are based on headers alone; a missing flag is no evidence of raw data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rephase.readers.volume import Volume

FILTER_WORDS: Mapping[str, str] = {
    r"DIS2D|DIS3D": "resampled against gradient distortion",
    r"NORM|SNORM": "intensities divided by a coil profile",
    r"FIL|FILTERED|FM\d*(_\d+)?": "image filter",
    r"MPR|RESAMPLED|REFORMATTED": "reformatted",
}
"""Words of ImageType, as patterns, that name a filter or a resampling, and its effect."""

LOSSY_TRANSFER_SYNTAXES: Mapping[str, str] = {
    "1.2.840.10008.1.2.4.50": "JPEGBaseline8Bit",
    "1.2.840.10008.1.2.4.51": "JPEGExtended12Bit",
    "1.2.840.10008.1.2.4.81": "JPEGLSNearLossless",
    "1.2.840.10008.1.2.4.91": "JPEG2000",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
}
"""Transfer syntaxes that may lose information, with the names that DICOM gives them.

The last two may also be lossless: `LossyImageCompression` decides.
"""

_MAYBE_LOSSLESS = ("JPEG2000", "HTJ2K")


def audit_volume(volume: Volume, clipped: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return the audit flags of a volume, from its header.

    Parameters
    ----------
    volume
        The volume as read. Of its `acquisition`, `acquired_matrix`, `image_type`, `transfer_syntax` (UID or DICOM's
        name) and `lossy_compression` (True if the header reports that pixels were once compressed with loss) are used.
    clipped
        `PreparedMagnitude.clipped`.

    Returns
    -------
    flags
        JSON values; a key exists only if something was found: `interpolated` (`stored` and `acquired`, each
        [height, width]), `filtered` (the words of ImageType), `lossy` (the name of the compression),
        `clipped_negatives` (count and min).
    """
    facts = volume.acquisition
    flags: dict[str, Any] = {}
    stored = [int(n) for n in volume.magnitude.shape[1:]]
    acquired = facts.get("acquired_matrix")
    if acquired and any(0 < int(a) < s for a, s in zip(acquired, stored, strict=True)):
        flags["interpolated"] = {"stored": stored, "acquired": [int(n) for n in acquired]}
    if words := _filter_words(facts.get("image_type")):
        flags["filtered"] = words
    if lossy := _lossy(facts):
        flags["lossy"] = lossy
    if clipped:
        flags["clipped_negatives"] = dict(clipped)
    return flags


def _filter_words(image_type: object) -> list[str]:
    """Return the filter words of ImageType, a list or the text of DICOM with backslashes."""
    if not image_type:
        return []
    words = image_type.split("\\") if isinstance(image_type, str) else [str(word) for word in _listed(image_type)]
    pattern = re.compile("|".join(FILTER_WORDS))
    return sorted({word.upper() for word in words if pattern.fullmatch(word.strip().upper())})


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _lossy(facts: Mapping[str, Any]) -> str | None:
    syntax = str(facts.get("transfer_syntax") or "")
    name = LOSSY_TRANSFER_SYNTAXES.get(syntax, syntax)
    may_lose = name in LOSSY_TRANSFER_SYNTAXES.values()
    declared = facts.get("lossy_compression")
    if declared:
        return name if may_lose else "declared by the header"
    return name if may_lose and (name not in _MAYBE_LOSSLESS or declared is None) else None
