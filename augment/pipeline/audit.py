"""Audit flags: what in headers and values shows that a magnitude image was processed after sampling.

Training on such images as if they were raw data overestimates the performance of methods, so every volume has these
flags. A missing flag is no evidence of raw data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rephase.errors import VolumeError
from rephase.pipeline.cropping import crop_volume
from rephase.pipeline.magnitude import PreparedMagnitude, prepare_magnitude
from rephase.pipeline.pixel_audit import measure_pixels
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

_WORD_FACTS = ("image_type", "scan_options", "parallel_technique")
_RECONSTRUCTIONS: Mapping[str, re.Pattern[str]] = {
    "parallel_imaging": re.compile(r"(ACC|ARC|ASSET)_GEMS|GRAPPA\w*|M?SENSE\w*|CAIPI\w*"),
    "partial_fourier": re.compile(r"PF[FP]|PF\d?_GEMS"),
    "compressed_sensing": re.compile(r"CS_?SENSE|HYPERSENSE\w*|CS_GEMS|COMPRESSED_?SENS\w*"),
    "learned_reconstruction": re.compile(r"DRB|DRG|DRS|DEEP_?RESOLVE\w*|AIR_?RECON\w*|SMARTSPEED\w*|AICE|DLR"),
}
"""Words of ImageType and ScanOptions that name a reconstruction which computes a part of k-space."""

TEMPLATES: tuple[tuple[tuple[int, int, int], float], ...] = (
    ((182, 218, 182), 1.0), ((91, 109, 91), 2.0), ((193, 229, 193), 1.0), ((97, 115, 97), 2.0), ((197, 233, 189), 1.0),
    ((157, 189, 156), 1.0), ((79, 95, 79), 2.0), ((61, 73, 61), 3.0), ((53, 63, 46), 3.0), ((240, 240, 155), 1.0),
    ((256, 256, 256), 1.0),
)  # fmt: skip
"""Matrix and voxel in mm of the MNI templates of FSL, SPM and fMRIPrep, of BraTS, and FreeSurfer's conformed images."""

_ALIKE = 1.06
"""Ratio up to which an estimate of the acquired matrix counts as that of the header."""


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


def audit_values(volume: Volume, prepared: PreparedMagnitude) -> dict[str, Any]:
    """Return the audit flags of a volume, from header and values; measured phase counts as values, too."""
    flags = audit_volume(volume, prepared.clipped) | audit_acquisition(volume)
    return flags | measure_pixels(prepared.stored, volume.phase).flags()


def audit_acquisition(volume: Volume) -> dict[str, Any]:
    """Return the flags of a reconstruction that computed a part of k-space, from the header, and of a template's grid.

    Returns
    -------
    flags
        JSON values: `parallel_imaging` (`factor` or `words`), `partial_fourier`, `compressed_sensing` and
        `learned_reconstruction` (`words` of the header; `samples` of k-space), `template_grid` (`matrix`),
        `spacing_assumed` (`mm`, where neither file nor manifest states it).
    """
    facts = volume.acquisition
    words = {word for name in _WORD_FACTS for word in _words(facts.get(name))}
    flags: dict[str, Any] = {}
    for flag, pattern in _RECONSTRUCTIONS.items():
        if found := sorted(word for word in words if pattern.fullmatch(word)):
            flags[flag] = {"words": found}
    factor = facts.get("parallel_reduction")
    if isinstance(factor, int | float) and factor > 1:
        flags["parallel_imaging"] = {"factor": float(factor)}
    stated = _words(facts.get("partial_fourier"))
    if stated and stated != ["NO"]:
        flags["partial_fourier"] = {"words": stated}
    if samples := facts.get("partial_kspace"):
        flags["partial_fourier"] = {"samples": str(samples)}
    if str(facts.get("spacing", "")).startswith("assumed"):
        flags["spacing_assumed"] = {"mm": [float(step) for step in volume.spacing_mm]}
    matrix, steps = sorted(volume.magnitude.shape), volume.spacing_mm
    if any(matrix == sorted(shape) and all(abs(step - mm) < 0.01 * mm for step in steps) for shape, mm in TEMPLATES):
        flags["template_grid"] = {"matrix": list(volume.magnitude.shape)}
    return flags


NO_CRIME = ("noise_floor", "clipped_negatives", "cropped", "parallel_imaging", "partial_fourier", "spacing_assumed")
"""Flags that are no processing of an image, for which no volume is refused."""


def acquired_box(flags: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the acquired matrix (height, width) by the flags of an audit; None if it is not known to be smaller.

    The header's is preferred to an estimate from values that is about as large, and the larger of two that differ.
    """
    found = [flags[name] for name in ("interpolated", "zero_filled") if flags.get(name, {}).get("acquired")]
    if not found:
        return None
    stored = found[0]["stored"]
    header, estimate = (flags.get(name, {}).get("acquired") for name in ("interpolated", "zero_filled"))
    sizes = []
    for axis, size in enumerate(stored):
        stated = header[axis] if header is not None and 0 < header[axis] < size else None
        seen = estimate[axis] if estimate is not None and estimate[axis] < size else None
        known = stated if stated is not None and (seen is None or seen <= _ALIKE * stated) else seen
        sizes.append(int(known or size))
    return (sizes[0], sizes[1]) if sizes != list(stored) else None


def _filter_words(image_type: object) -> list[str]:
    """Return the filter words of ImageType, a list or the text of DICOM with backslashes."""
    pattern = re.compile("|".join(FILTER_WORDS))
    return sorted({word for word in _words(image_type) if pattern.fullmatch(word)})


def _words(value: object) -> list[str]:
    """Return the words of a fact in capitals, which is a list or the text of DICOM with backslashes."""
    words = value.split("\\") if isinstance(value, str) else [str(word) for word in _listed(value)]
    return [word.strip().upper() for word in words]


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


def seen_share(flags: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the share of k-space along height and width that was acquired, by the values; None if it is all."""
    found = flags.get("zero_filled", {})
    if "acquired" not in found:
        return None
    height, width = (new / old for new, old in zip(found["acquired"], found["stored"], strict=True))
    return height, width


def apply_rule(
    volume: Volume, prepared: PreparedMagnitude, flags: dict[str, Any], rule: str | None
) -> tuple[Volume, PreparedMagnitude, dict[str, Any]]:
    """Follow `--on-crime`: `crop` a zero-filled volume, `refuse` a processed one, or leave both as they are (None).

    Returns
    -------
    volume, prepared, flags
        As given, or of the volume whose k-space was cut to the acquired matrix; `cropped` then replaces `zero_filled`
        and `interpolated`.

    Raises
    ------
    VolumeError
        `processed`.
    """
    if rule == "refuse" and (found := sorted(set(flags) - set(NO_CRIME))):
        raise VolumeError(
            "processed",
            f"the audit found {', '.join(found)}; --on-crime refuse expects a volume without; leave the row out, or "
            "allow it with --on-crime warn or crop",
        )
    box = acquired_box(flags) if rule == "crop" else None
    if box is None:
        return volume, prepared, flags
    cropped, outside = crop_volume(replace(volume, magnitude=prepared.stored), *box)
    again = prepare_magnitude(cropped.magnitude)
    kept = {name: value for name, value in flags.items() if name not in ("zero_filled", "interpolated")}
    kept["cropped"] = {
        "stored": list(volume.magnitude.shape[1:]), "acquired": list(box), "outside": float(f"{outside:.3g}")
    }  # fmt: skip
    return cropped, PreparedMagnitude(again.stored, prepared.scale * again.scale, prepared.clipped), kept
