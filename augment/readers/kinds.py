"""Classify images as magnitude, phase, real, imaginary or field map if the file's header does not state it.

The evidence is the file name, the JSON sidecar, and the values.
"""

from __future__ import annotations

import json
import math
import re
import string
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.formats import match_suffix
from rephase.manifests.header import Kind

# words of file names in BIDS and of dcm2niix; only complete words match, most of them only as the last one
_KIND_WORDS: dict[str, Kind] = {
    "part-phase": "phase", "phase": "phase", "phase1": "phase", "phase2": "phase", "ph": "phase", "pha": "phase",
    "phasediff": "fieldmap", "part-real": "real", "real": "real", "part-imag": "imaginary", "imag": "imaginary",
    "imaginary": "imaginary", "fieldmap": "fieldmap", "fieldmaphz": "fieldmap", "b0map": "fieldmap", "fmap": "fieldmap",
    "part-mag": "magnitude", "mag": "magnitude", "magnitude": "magnitude", "magnitude1": "magnitude",
    "magnitude2": "magnitude", "adc": "derived", "fa": "derived", "md": "derived", "trace": "derived", "seg": "derived",
    "mask": "derived", "dseg": "derived", "probseg": "derived", "label": "derived", "labels": "derived",
    "t1map": "derived", "t2map": "derived", "t2starmap": "derived", "localizer": "localizer", "scout": "localizer",
}  # fmt: skip
_ANYWHERE = ("part-phase", "part-real", "part-imag", "part-mag", "localizer", "scout")
_CONTRAST_WORDS = {
    "t1w": "T1", "t1": "T1", "mprage": "T1", "t2w": "T2", "t2": "T2", "t2starw": "T2star", "t2star": "T2star",
    "t2s": "T2star", "pdw": "PD", "pd": "PD", "flair": "FLAIR", "dwi": "DWI", "bold": "BOLD", "angio": "MRA",
    "tof": "MRA", "swi": "SWI", "asl": "ASL",
}  # fmt: skip
_IMAGE_TYPE: dict[str, Kind] = {
    "P": "phase", "PHASE": "phase", "R": "real", "REAL": "real", "I": "imaginary", "IMAGINARY": "imaginary",
    "FIELD_MAP": "fieldmap", "B0 MAP": "fieldmap", "LOCALIZER": "localizer",
}  # fmt: skip

_LARGEST_SIDECAR = 1 << 20
_SIGNED_SHARE = 0.25
_WRAP_SHARE = 0.01
_CYCLES = ((math.pi, "radians"), (4096.0, "4096ths of pi"), (3141.6, "milliradians"), (180.0, "degrees"))


def stem_of(path: Path) -> str:
    """Return a file's name without the suffix of its format."""
    found = match_suffix(path.name)
    return path.name[: -len(found[1])] if found else path.stem


def kind_of_name(path: Path) -> Kind | None:
    """Return the image type from the words of a file name; None without a match."""
    words = stem_of(path).lower().split("_")
    for place, word in enumerate(reversed(words)):
        if word in _KIND_WORDS and (place == 0 or word in _ANYWHERE):
            return _KIND_WORDS[word]
    return None


def contrast_of_name(path: Path) -> str | None:
    """Return the contrast from the words of a file name; None without a match."""
    words = re.split(r"[_\-. ]", stem_of(path).lower())
    return next((_CONTRAST_WORDS[word] for word in reversed(words) if word in _CONTRAST_WORDS), None)


def pair_name(path: Path) -> str:
    """Return the common name of magnitude and phase of one acquisition: `x_1` for `x_magnitude1` and `x_phase1`."""
    kept = []
    for word in stem_of(path).split("_"):
        is_kind = _KIND_WORDS.get(word.lower()) in ("phase", "magnitude")
        kept.append(word.lstrip(string.ascii_letters + "-") if is_kind else word)  # the number is the acquisition's
    return str(path.parent / "_".join(word for word in kept if word))


def read_sidecar(path: Path) -> dict[str, Any]:
    """Read the JSON file that BIDS and dcm2niix store next to an image; empty if it is missing or invalid."""
    sidecar = path.with_name(f"{stem_of(path)}.json")
    try:
        if not sidecar.is_file() or sidecar.stat().st_size > _LARGEST_SIDECAR:
            return {}
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def kind_of_sidecar(sidecar: dict[str, Any]) -> Kind | None:
    """Return the image type from ImageType and Modality of a sidecar; None without them."""
    if sidecar.get("Modality", "MR") not in ("MR", ""):
        return "non_mr"
    words = sidecar.get("ImageType")
    words = [str(word).upper() for word in words] if isinstance(words, list) else []
    found = next((_IMAGE_TYPE[word] for word in words if word in _IMAGE_TYPE), None)
    if found is None and words[:1] == ["DERIVED"]:
        return "derived"
    return found or ("magnitude" if {"M", "MAGNITUDE"} & set(words) else None)


def kind_of_values(values: NDArray[Any]) -> tuple[Kind, str] | None:
    """Classify phase and other signed images by their values.

    A magnitude may have a few negative voxels, from ringing after resampling: they are ignored. Unsigned phase
    (0..4095, 0..2 pi) is recognised by its wraps, steps of more than 50 % of its range between neighbours.

    Parameters
    ----------
    values
        `(..., height, width)`, real.

    Returns
    -------
    kind
        The image type, and the evidence as text; None if the values may be a magnitude.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return None
    low, high = (float(v) for v in np.percentile(finite, (0.5, 99.5)))
    least, most = float(finite.min()), float(finite.max())
    if low < 0 and -low > _SIGNED_SHARE * high:
        share = np.count_nonzero(finite < 0) / finite.size
        evidence = f"{share:.0%} of its values are negative, from {least:g} to {most:g}"
        unit = next((unit for half, unit in _CYCLES if 0.95 * half <= max(-least, most) <= 1.01 * half), None)
        return ("phase", f"{evidence}, like {unit}") if unit else ("real", evidence)
    if least >= 0 and (0.99 * 2 * math.pi <= most <= 1.001 * 2 * math.pi or 4000 <= most <= 4096):
        share = max(_wraps(values, axis, most / 2) for axis in (-1, -2))
        if share > _WRAP_SHARE:
            return "phase", f"its values fill 0 to {most:g} and {share:.0%} of neighbours wrap around"
    return None


def _wraps(values: NDArray[Any], axis: int, half: float) -> float:
    """Return the fraction of neighbours that differ by over 50 % of the range; 0 unless values fill it like phase.

    Zeros are ignored, as they may be masked air. An image with sharp edges has such steps too, but only few values, or
    values at one end of the range.
    """
    inside = values > 0
    shares = np.histogram(values[inside], bins=16, range=(0, 2 * half))[0] / max(np.count_nonzero(inside), 1)
    if np.count_nonzero(shares > 0.01) < 12 or not 0.25 <= shares[8:].sum() <= 0.75 or values.shape[axis] < 2:
        return 0.0
    ordered = np.moveaxis(np.where(inside, values, np.nan), axis, -1)
    steps = np.abs(np.diff(ordered, axis=-1))
    steps = steps[np.isfinite(steps)]
    return float(np.mean(steps > half)) if steps.size else 0.0
