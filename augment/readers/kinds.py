"""Classify images as magnitude, phase, real, imaginary or field map if the file's header does not state it.

The evidence is the file name, the JSON sidecar, and the values.
"""

from __future__ import annotations

import functools
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
from rephase.readers.image_type import computed_word, frame_kind

# words of file names in BIDS and of dcm2niix; only complete words match, most of them only as the last one
_KIND_WORDS: dict[str, Kind] = {
    "part-phase": "phase", "phase": "phase", "phase1": "phase", "phase2": "phase", "ph": "phase", "pha": "phase",
    "phasediff": "fieldmap", "part-real": "real", "real": "real", "part-imag": "imaginary", "imag": "imaginary",
    "imaginary": "imaginary", "fieldmap": "fieldmap", "fieldmaphz": "fieldmap", "b0map": "fieldmap", "fmap": "fieldmap",
    "part-mag": "magnitude", "mag": "magnitude", "magnitude": "magnitude", "magnitude1": "magnitude",
    "magnitude2": "magnitude", "trace": "derived", "localizer": "localizer", "scout": "localizer",
    **dict.fromkeys(
        ("seg", "mask", "dseg", "probseg", "label", "labels", "labelmap", "segmentation", "parcellation", "parc",
         "atlas", "aseg", "wmparc", "ribbon", "gt", "groundtruth", "pveseg"), "label map"),
    **dict.fromkeys(
        ("adc", "fa", "md", "t1map", "t2map", "t2starmap", "r1map", "r2map", "r2starmap", "pdmap", "s0map", "mtvmap",
         "mtrmap", "mtsat", "mwfmap", "chimap", "qsm", "tb1map", "rb1map", "b1map", "cbf", "cbvmap", "mtt", "ttp",
         "tmax"),
        "parametric map"),
    **dict.fromkeys(("statmap", "zmap", "tmap", "fmapstat", "zstat", "tstat", "pval", "logp"), "statistics"),
    **dict.fromkeys(("warp", "warpfield", "xfm", "displacement", "tensor"), "vectors"),
}  # fmt: skip
_KIND_STEMS: tuple[tuple[str, Kind], ...] = (
    (r"(.*[_.])?(aparc|aseg|wmparc|ribbon)([.+_].*)?", "label map"),  # FreeSurfer
    (r".*[-. ](seg|dseg|mask|label|labels|segmentation)|.*_pve_\d", "label map"),
    (r"(thresh_)?(z?fstat|[tz]stat|cope|varcope|pe)\d+|.*_(corrp|uncorrp|p)_[tf]stat\d+|cluster_mask_.*", "statistics"),
    (r"spm[tf]_\d{4}|(con|beta|ess|resms|rpv)(_\d{4})?", "statistics"),  # SPM
    (r".*\d(inverse)?warp", "vectors"),  # ANTs
)
"""Patterns of whole names without suffix, in lower case."""
_ANYWHERE = ("part-phase", "part-real", "part-imag", "part-mag", "localizer", "scout")
_CONTRAST_WORDS = {
    "t1w": "T1", "t1": "T1", "mprage": "T1", "t2w": "T2", "t2": "T2", "t2starw": "T2star", "t2star": "T2star",
    "t2s": "T2star", "pdw": "PD", "pd": "PD", "flair": "FLAIR", "dwi": "DWI", "bold": "BOLD", "angio": "MRA",
    "tof": "MRA", "swi": "SWI", "asl": "ASL",
}  # fmt: skip
_SIDECAR_UNITS: dict[str, Kind] = {
    "rad": "phase", "radian": "phase", "radians": "phase", "hz": "fieldmap", "rad/s": "fieldmap", "tesla": "fieldmap",
}  # fmt: skip
_SIDECAR_LABELS = frozenset({"atlas", "labelmap", "labels", "segmentationtype"})
_INTENTS: tuple[tuple[str, Kind], ...] = (
    (r"label|parcel|segment|atlas|neuroname|mask", "label map"),
    (r"z.?scores?|[tfz].?test|t.?stat|p.?val|correl|chi.?sq|beta.?dist|log.?p", "statistics"),
    (r"vector|displacement|warp|quaternion|matrix", "vectors"),
    (r"estimate|parameter|map$", "parametric map"),
)
"""Patterns of the name of an intent, in lower case."""

_LARGEST_SIDECAR = 1 << 20
_MOST_LEVELS = 5  # data set, subject, session, kind of data, and one more
_SIGNED_SHARE = 0.25
_WRAP_SHARE = 0.01
_CYCLES = ((math.pi, "radians"), (4096.0, "4096ths of pi"), (3141.6, "milliradians"), (180.0, "degrees"))


def stem_of(path: Path) -> str:
    """Return a file's name without the suffix of its format."""
    found = match_suffix(path.name)
    return path.name[: -len(found[1])] if found else path.stem


def kind_of_name(path: Path) -> Kind | None:
    """Return the image type from the words of a file name; None without a match."""
    stem = stem_of(path).lower()
    words = stem.split("_")
    for place, word in enumerate(reversed(words)):
        if word in _KIND_WORDS and (place == 0 or word in _ANYWHERE):
            return _KIND_WORDS[word]
    return next((kind for pattern, kind in _KIND_STEMS if re.fullmatch(pattern, stem)), None)


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
    """Read the JSON file that BIDS and dcm2niix store next to an image; empty if it is missing or invalid.

    In a data set of BIDS, files in its folders above apply too, if they have the same suffix and no other entities
    (`task-rest_bold.json`); of two values, the nearer one counts.
    """
    stem = stem_of(path)
    folders = [path.parent, *path.parent.parents][:_MOST_LEVELS]
    root = next((k for k, folder in enumerate(folders) if (folder / "dataset_description.json").is_file()), None)
    *entities, suffix = stem.split("_")
    found: dict[str, Any] = {}
    for folder in reversed(folders[: root + 1] if root is not None else []):
        for name in _json_names(folder, folder.stat().st_mtime_ns):
            *stated, last = name.removesuffix(".json").split("_")
            if last == suffix and set(stated) <= set(entities) and len(stated) < len(entities):
                found |= _read_json(folder / name, (folder / name).stat().st_mtime_ns)
    sidecar = path.with_name(f"{stem}.json")
    return {**found, **(_read_json(sidecar, sidecar.stat().st_mtime_ns) if sidecar.is_file() else {})}


@functools.lru_cache(maxsize=256)
def _json_names(folder: Path, changed: int) -> list[str]:
    """List the JSON files of a folder, those with the fewest entities first."""
    return sorted((file.name for file in folder.glob("*.json") if file.is_file()), key=lambda name: name.count("_"))


@functools.lru_cache(maxsize=256)
def _read_json(path: Path, changed: int) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_SIDECAR:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def kind_of_sidecar(sidecar: dict[str, Any]) -> Kind | None:
    """Return the image type from ImageType and Modality of a sidecar; None without them."""
    if sidecar.get("Modality", "MR") not in ("MR", ""):
        return "non_mr"
    words = sidecar.get("ImageType")
    words = [str(word).upper() for word in words] if isinstance(words, list) else []
    found: Kind | None = frame_kind(words)
    if found in ("magnitude", "derived"):
        found = "parametric map" if computed_word(words) else None
    found = found or _SIDECAR_UNITS.get(str(sidecar.get("Units", "")).strip().lower())
    keys = {key.lower(): value for key, value in sidecar.items()}
    for key in ("intent", "intentcode", "intent_code", "intentname", "intent_name"):
        found = found or kind_of_intent(keys.get(key))
    if found is None and (_SIDECAR_LABELS & set(keys) or _is_mask_type(sidecar.get("Type"))):
        return "label map"
    if found is None and (words[:1] == ["DERIVED"] or sidecar.get("RawImage") is False):
        return "derived"
    return found or ("magnitude" if {"M", "MAGNITUDE"} & set(words) else None)


def _is_mask_type(value: object) -> bool:
    """Check for the required key of a mask's sidecar in BIDS derivatives."""
    return value in ("Brain", "Lesion", "Face", "ROI")


_STATISTICS = frozenset(range(2, 25))
_INTENT_CODES: dict[int, Kind] = {
    1001: "parametric map", 1002: "label map", 1003: "label map", 1004: "vectors", 1005: "vectors", 1006: "vectors",
    1007: "vectors", 1008: "surface", 1009: "surface", 1010: "vectors", 2002: "surface", 2003: "vectors",
    2004: "vectors", 2005: "surface", 2006: "vectors", 2007: "vectors", 2008: "vectors", 2009: "vectors",
    2016: "vectors", 2017: "vectors", 2018: "fieldmap",
}  # fmt: skip


def kind_of_intent(intent: object) -> Kind | None:
    """Return the image type from the code of an intent of NIfTI, or its name; None if it states none."""
    if isinstance(intent, int):
        return "statistics" if intent in _STATISTICS else _INTENT_CODES.get(intent)
    if isinstance(intent, str):
        return next((kind for pattern, kind in _INTENTS if re.search(pattern, intent.lower())), None)
    return None


def kind_of_description(text: str) -> Kind | None:
    """Return the image type from the description that SPM writes into headers; None for others."""
    if re.match(r"SPM\{|spm_spm:\s*(beta|res|contrast)|contrast \d+:", text, re.IGNORECASE):
        return "statistics"
    return "label map" if re.match(r"spm_spm:.*mask", text, re.IGNORECASE) else None


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


# real magnitudes have up to 0.13 equal neighbours, in copies of 8 bits 0.27, of 5 bits 0.78, with steps of one
_EQUAL_SHARE, _EQUAL_SHARE_OF_MANY, _NEARLY_ALL = 0.75, 0.5, 0.9
_CERTAIN_SHARE = 0.1
_FEW_LEVELS = 8
_SOME_UNIT_STEPS, _MOSTLY_UNIT_STEPS = 0.4, 0.8


def labels_of_values(values: NDArray[Any]) -> str | None:
    """Return the evidence that an image is a map of labels, None without.

    Labels are whole numbers without noise, so neighbours within the object are nearly always equal. In a magnitude of
    few levels they are equal often, but where they differ, they differ by one. Probabilities reach from 0 to 1 and are
    1 in much of the object.

    Parameters
    ----------
    values
        `(..., height, width)`, real.
    """
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        certain = float(np.mean(values[values != 0] == 1))
        bounded = float(np.min(values)) == 0 and float(np.max(values)) == 1
        return f"probabilities, {certain:.0%} of them 1" if bounded and certain > _CERTAIN_SHARE else None
    same, pairs, unit = 0, 0, 0
    for axis in (-1, -2):
        first, second = np.moveaxis(values, axis, 0)[1:], np.moveaxis(values, axis, 0)[:-1]
        inside = (first != 0) & (second != 0)
        steps = np.abs(first[inside].astype(np.float64) - second[inside])
        pairs += steps.size
        same += int(np.count_nonzero(steps == 0))
        unit += int(np.count_nonzero(steps == 1))
    share = same / pairs if pairs else 1.0
    unit_share = unit / max(pairs - same, 1)
    if share < (_EQUAL_SHARE if unit_share > _SOME_UNIT_STEPS else _EQUAL_SHARE_OF_MANY):
        return None
    levels: NDArray[Any] = np.unique(values)
    if levels[0] < 0 or levels.size < 2 or (pairs == 0 and levels.size > 2):
        return None
    if levels.size > _FEW_LEVELS and share < _NEARLY_ALL and unit_share > _MOSTLY_UNIT_STEPS:
        return None
    kind = "a mask of two values" if levels.size == 2 else f"{levels.size} whole numbers without noise"
    return f"{kind}, from {levels[0]:g} to {levels[-1]:g}"
