"""Classify MR images by DICOM's ImageType, in headers and in sidecars: magnitude, phase, field map, derived, ..."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rephase.manifests.header import Kind

_COMPONENTS: dict[str, Kind] = {
    "MAGNITUDE": "magnitude", "PHASE": "phase", "REAL": "real", "IMAGINARY": "imaginary",
}  # fmt: skip
# vendors' words from the third value of ImageType on: Siemens M P R I, Philips M_FFE P_FFE "PHASE MAP", ...
_WORDS: dict[str, Kind] = {
    "P": "phase", "PHASE": "phase", "PHASE MAP": "phase", "PHASE_MAP": "phase", "VELOCITY MAP": "phase",
    "P_FFE": "phase", "P_SE": "phase", "P_IR": "phase", "P_PCA": "phase", "PHASE CONTRAST M": "phase",
    "R": "real", "REAL": "real", "R_FFE": "real", "R_SE": "real", "R_IR": "real",
    "I": "imaginary", "IMAGINARY": "imaginary", "I_FFE": "imaginary", "I_SE": "imaginary", "I_IR": "imaginary",
    "FIELD_MAP": "fieldmap", "FIELD MAP": "fieldmap", "FIELDMAP": "fieldmap", "B0": "fieldmap",
    "B0 MAP": "fieldmap", "B0_MAP": "fieldmap",
    "LOCALIZER": "localizer", "SEGMENTATION": "label map",
}  # fmt: skip
_UNITS: dict[str, Kind] = {"HZ": "fieldmap", "PPM": "fieldmap", "MRAD": "phase", "RAD": "phase"}
_GE_KINDS: dict[int, Kind] = {1: "phase", 2: "real", 3: "imaginary"}
# computed from images: no pixel is the magnitude of a measured signal
_COMPUTED = frozenset({
    "ADC", "EADC", "EXP", "FA", "RA", "TENSOR", "TRACE", "TRACEW", "MIP", "CSA MIP", "MINIP", "MNIP", "MIN IP",
    "MAX IP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "VOLUME_RENDER", "SURFACE_RENDER", "SUB", "SUBTRACT", "RATIO",
    "SUBTRACTION", "MEAN", "STDDEV", "CBF", "CBV", "RCBF", "RCBV", "RELCBF", "RELCBV", "RELCMTT", "MTT", "TTP",
    "TMAX", "PBP", "GBP", "KTRANS", "T_TEST", "TTEST", "ZSCORE", "ACTIVATION", "SPM", "QSM", "SUSCEPTIBILITY",
    "SCREEN", "SCREEN SAVE", "CSA BLACK IMAGE", "FF", "PDFF", "FATFRAC", "R2STAR", "R2_STAR",
})  # fmt: skip
_COMPUTED_ENDS = ("MAP", "FRACTION", "FRAC", "RATIO")
_SURVEY = re.compile(r"\b(locali[sz]er|scout|survey|3[ _-]?plane[ _-]?loc)", re.IGNORECASE)


def frame_kind(
    image_type: Sequence[str],
    component: str | None = None,
    unit: str | None = None,
    ge_type: int | None = None,
    description: str = "",
) -> Kind:
    """Return what the pixels of a frame are.

    Parameters
    ----------
    image_type
        Values of ImageType, or of FrameType in an Enhanced object.
    component
        ComplexImageComponent.
    unit
        Of the rescaled pixel values, where a header has it.
    ge_type
        GE's private image type (0043,102F), as GE's ImageType does not distinguish phase.
    description
        SeriesDescription: for most vendors the only mark of a localizer.
    """
    words = [word.strip().upper() for word in image_type]
    kinds = [_WORDS[word] for word in words[2:] if word in _WORDS]
    if "localizer" in kinds or _SURVEY.search(description.replace("_", " ")):
        return "localizer"
    # a field map in Hz is called REAL, so unit and name come first
    by_unit = _UNITS.get((unit or "").strip().upper())
    if "fieldmap" in (*kinds, by_unit):
        return "fieldmap"
    if computed_word(words) is not None:
        return "derived"
    by_component = _COMPONENTS.get((component or "").strip().upper())
    if by_component not in (None, "magnitude"):
        return by_component
    for kind in (*kinds, by_unit, _GE_KINDS.get(ge_type or 0)):
        if kind is not None:
            return kind
    return "derived" if words[:1] == ["DERIVED"] else "magnitude"


def computed_word(image_type: Sequence[str]) -> str | None:
    """Return the word of ImageType that names a computed quantity (a map, a projection), None where there is none."""
    words = [word.strip().upper() for word in image_type]
    for word in words[2:]:
        if word in _COMPUTED or word.endswith(_COMPUTED_ENDS):
            return word if word not in _WORDS else None
    return None
