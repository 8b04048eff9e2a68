"""Read the facts of an acquisition from a DICOM header: for audits and conditions, nothing that identifies anyone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pydicom

from rephase.facts import VolumeFacts
from rephase.manifests.header import Kind
from rephase.readers.dicom.kinds import frame_kind
from rephase.readers.sequence import contrast_of_words, sequence_of_words
from rephase.readers.volume import PhaseEncode

HeaderValue: TypeAlias = Any  # of an element in pydicom: a number, a string, several of them, items

# BodyPartExamined is a code in the standard and free text in practice, so only words of this list are taken
_BODY_PARTS = frozenset({
    "ABDOMEN", "ANKLE", "ARM", "BRAIN", "BREAST", "CHEST", "CSPINE", "ELBOW", "FOOT", "HAND", "HEAD", "HEART", "HIP",
    "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE", "NECK", "PANCREAS", "PELVIS", "PROSTATE", "SHOULDER", "SPINE", "TSPINE",
    "UTERUS", "WRIST",
})  # fmt: skip
_VENDORS = ("siemens", "philips", "ge", "toshiba", "canon", "hitachi", "fujifilm", "uih", "united", "bruker", "esaote")
_SEQUENCE_NAMES = ((0x2001, 0x1020), (0x2005, 0x106E), (0x0019, 0x109C), (0x0019, 0x109E))
"""Private elements that name the pulse sequence: two of Philips, two of GE."""
_NUMBERS = {
    "percent_sampling": ("PercentSampling", "MRFOVGeometrySequence"),
    "percent_phase_fov": ("PercentPhaseFieldOfView", "MRFOVGeometrySequence"),
    "tr_ms": ("RepetitionTime", "MRTimingAndRelatedParametersSequence"),
    "flip_angle_deg": ("FlipAngle", "MRTimingAndRelatedParametersSequence"),
    "echo_train_length": ("EchoTrainLength", "MRTimingAndRelatedParametersSequence"),
    "pixel_bandwidth_hz": ("PixelBandwidth", "MRImagingModifierSequence"),
    "slice_thickness_mm": ("SliceThickness", "PixelMeasuresSequence"),
    "parallel_reduction": ("ParallelReductionFactorInPlane", "MRModifierSequence"),
}
_WORDS = {
    "scanning_sequence": ("ScanningSequence", None),
    "sequence_variant": ("SequenceVariant", None),
    "scan_options": ("ScanOptions", None),
    "mr_acquisition_type": ("MRAcquisitionType", None),
    "partial_fourier": ("PartialFourier", "MRModifierSequence"),
    "k_space_filtering": ("KSpaceFiltering", None),
    "photometric_interpretation": ("PhotometricInterpretation", None),
}


@dataclass(frozen=True)
class Facts(VolumeFacts):
    """Acquisition conditions of one frame, and `acquisition` with JSON values for audits."""

    phase_encode: PhaseEncode
    acquisition: dict[str, Any] = field(hash=False)


def find(
    dataset: pydicom.Dataset, group: pydicom.Dataset | None, keyword: str, sequence: str | None = None
) -> HeaderValue:
    """Look up a value where Enhanced objects may store it: the frame's group, the shared group, the top level.

    Parameters
    ----------
    dataset
        The whole header.
    group
        The frame's functional groups, None in a classic object.
    keyword
        Of the value.
    sequence
        Keyword of the functional group that holds it.
    """
    shared = dataset.get("SharedFunctionalGroupsSequence") if group is not None else None
    for place in (group, shared[0] if shared else None):
        items = place.get(sequence) if place is not None and sequence else None
        value = items[0].get(keyword) if items else None
        if value is not None:
            return value
    return dataset.get(keyword)


def private(dataset: pydicom.Dataset, group: int, creator: str, element: int) -> HeaderValue:
    """Return a private value; None without it."""
    try:
        return dataset.private_block(group, creator)[element].value
    except KeyError:
        return None


def number(value: HeaderValue) -> float | None:
    """Return a header value as a number; None where it is empty, not finite or no number."""
    if value is None or value == "":
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def as_list(value: HeaderValue) -> list[HeaderValue]:
    """Return the values of an element as a list, whether it has none, one or more."""
    if value is None or isinstance(value, (str, bytes, int, float)):
        return [] if value is None or value == "" else [value]
    return list(value) if hasattr(value, "__iter__") else [value]


def first_int(value: HeaderValue) -> int | None:
    """Return the first value as an integer, None where there is none."""
    items = [number(item) for item in as_list(value)]
    return int(items[0]) if items and items[0] is not None else None


def numbers(value: HeaderValue) -> tuple[float, ...]:
    """Return the values of an element that are numbers."""
    return tuple(found for item in as_list(value) if (found := number(item)) is not None)


def words_of(dataset: pydicom.Dataset, group: pydicom.Dataset | None) -> list[str]:
    """Return ImageType, or FrameType in an Enhanced object."""
    value = find(dataset, group, "FrameType", "MRImageFrameTypeSequence") or dataset.get("ImageType")
    return [str(word) for word in as_list(value)]


def header_facts(dataset: pydicom.Dataset, group: pydicom.Dataset | None, image_type: Sequence[str]) -> Facts:
    """Collect the facts of one frame.

    Parameters
    ----------
    dataset, group
        As in `find`.
    image_type
        ImageType, or FrameType in an Enhanced object.
    """
    te_ms = echo_time(dataset, group)
    phase_encode = _phase_encode(find(dataset, group, "InPlanePhaseEncodingDirection", "MRFOVGeometrySequence"))
    syntax = getattr(dataset, "file_meta", pydicom.Dataset()).get("TransferSyntaxUID")
    acquisition: dict[str, Any] = {
        "image_type": [*image_type, *_extended_type(group)],
        "acquired_matrix": _acquired_matrix(dataset, group, phase_encode),
        "bits_stored": int(dataset.get("BitsStored") or 0) or None,
        "lossy_compression": str(dataset.get("LossyImageCompression") or "00") == "01",
        "vendor": _vendor(str(dataset.get("Manufacturer") or "")),
        "transfer_syntax": (syntax.keyword or syntax.name) if syntax is not None and not syntax.is_private else None,
    }
    for name, (keyword, sequence) in _NUMBERS.items():
        acquisition[name] = number(find(dataset, group, keyword, sequence))
    times = numbers(find(dataset, group, "InversionTimes", "MRModifierSequence") or dataset.get("InversionTime"))
    acquisition["ti_ms"] = (times[0] if times else None) or None
    for name, (keyword, place) in _WORDS.items():
        found = [str(word) for word in as_list(find(dataset, group, keyword, place))]
        acquisition[name] = found[0] if len(found) == 1 else found
    kept = {name: value for name, value in acquisition.items() if value not in (None, "", [])}
    return Facts(
        te_ms=te_ms if te_ms and te_ms > 0 else None,
        field_t=_field(number(dataset.get("MagneticFieldStrength"))),
        contrast=_contrast(dataset, group, image_type, te_ms, kept),
        sequence=_sequence(dataset, group, kept),
        anatomy=_anatomy(str(dataset.get("BodyPartExamined") or "")),
        phase_encode=phase_encode,
        acquisition=kept,
    )


def echo_time(dataset: pydicom.Dataset, group: pydicom.Dataset | None) -> float | None:
    """Return the echo time in milliseconds."""
    te_ms = number(find(dataset, group, "EffectiveEchoTime", "MREchoSequence"))
    return number(dataset.get("EchoTime")) if te_ms is None else te_ms


def _sequence(dataset: pydicom.Dataset, group: pydicom.Dataset | None, facts: dict[str, Any]) -> str | None:
    """Return the family of the pulse sequence; the vendors' own elements name it where the standard's do not."""

    def word(keyword: str) -> str | None:
        return str(find(dataset, group, keyword, "MRImagingModifierSequence") or dataset.get(keyword) or "") or None

    own = [dataset.get(tag) for tag in _SEQUENCE_NAMES]
    names = [word("PulseSequenceName"), word("SequenceName"), *(str(element.value) for element in own if element)]
    train = number(dataset.get("RFEchoTrainLength")) or number(dataset.get("EchoTrainLength"))
    return sequence_of_words(
        as_list(facts.get("scanning_sequence")),
        names=names,
        echo_pulse=word("EchoPulseSequence"),
        echo_planar=word("EchoPlanarPulseSequence"),
        steady_state=word("SteadyStatePulseSequence"),
        inversion=facts.get("ti_ms") is not None,
        echo_train_length=train,
    )


def _contrast(
    dataset: pydicom.Dataset,
    group: pydicom.Dataset | None,
    image_type: Sequence[str],
    te_ms: float | None,
    facts: dict[str, Any],
) -> str | None:
    stated = find(dataset, group, "AcquisitionContrast", "MRImageFrameTypeSequence")
    if not stated:  # Philips stores Enhanced elements of classic objects in a private sequence
        items = as_list(private(dataset, 0x2005, "Philips MR Imaging DD 005", 0x0F))
        stated = items[0].get("AcquisitionContrast") if items and hasattr(items[0], "get") else None
    sequence, variant = (as_list(facts.get(name)) for name in ("scanning_sequence", "sequence_variant"))
    if str(dataset.get("EchoPulseSequence") or "") == "GRADIENT":
        sequence = [*sequence, "GR"]
    return contrast_of_words(
        image_type,
        sequence,
        stated=str(stated or "").upper(),
        diffusion=bool(number(find(dataset, group, "DiffusionBValue", "MRDiffusionSequence"))),
        angiography=str(dataset.get("AngioFlag") or "") == "Y" or "TOF" in variant,
        prepared="MP" in variant or str(find(dataset, group, "InversionRecovery", "MRModifierSequence")) == "YES",
        te_ms=te_ms,
        tr_ms=facts.get("tr_ms"),
        ti_ms=facts.get("ti_ms"),
    )


def _phase_encode(value: HeaderValue) -> PhaseEncode:
    word = str(value or "").upper()
    if word == "ROW":
        return "row"
    return "column" if word in ("COL", "COLUMN") else "assumed"


def _acquired_matrix(
    dataset: pydicom.Dataset, group: pydicom.Dataset | None, phase_encode: PhaseEncode
) -> list[int] | None:
    """Return the acquired samples along (height, width) of the stored axes.

    AcquisitionMatrix is (frequency rows, frequency columns, phase rows, phase columns), where "rows" counts samples
    along a row. Where the phase-encoding direction is known, height is frequency and width is phase.
    """
    matrix = [int(item) for item in numbers(dataset.get("AcquisitionMatrix"))]
    if len(matrix) == 4 and sum(value > 0 for value in matrix) == 2:
        frequency, phase = max(matrix[:2]), max(matrix[2:])
        if phase_encode == "assumed":
            along_row, along_column = max(matrix[0], matrix[2]), max(matrix[1], matrix[3])
            return [along_column, along_row] if along_row and along_column else None
        return [frequency, phase] if frequency and phase else None
    steps = [
        number(find(dataset, group, keyword, "MRFOVGeometrySequence"))
        for keyword in ("MRAcquisitionFrequencyEncodingSteps", "MRAcquisitionPhaseEncodingStepsInPlane")
    ]
    known = [int(step) for step in steps if step]
    return known if len(known) == 2 and phase_encode != "assumed" else None


def _extended_type(group: pydicom.Dataset | None) -> list[str]:
    """Read the names of filters (DIS2D, NORM) that Siemens XA stores in a private element of the frame type."""
    items = group.get("MRImageFrameTypeSequence") if group is not None else None
    return [str(word) for word in as_list(private(items[0], 0x21, "SIEMENS MR SDI 02", 0x78))] if items else []


def _vendor(manufacturer: str) -> str | None:
    first = manufacturer.lower().replace("_", " ").split(" ")[0]
    return first if first in _VENDORS else None


def _field(value: float | None) -> float | None:
    """Return tesla; a few exports write gauss."""
    tesla = value / 1e4 if value and value > 100 else value
    return tesla if tesla and 0.001 < tesla < 25 else None


def _anatomy(body_part: str) -> str | None:
    word = body_part.strip().upper()
    return word.lower() if word in _BODY_PARTS else None


def kind_of(dataset: pydicom.Dataset, group: pydicom.Dataset | None, image_type: Sequence[str]) -> Kind:
    """Return what the pixels of a frame are, from all parts of its header."""
    component = find(dataset, group, "ComplexImageComponent", "MRImageFrameTypeSequence")
    ge_number = first_int(private(dataset, 0x43, "GEMS_PARM_01", 0x2F))
    description = str(dataset.get("SeriesDescription") or "")
    return frame_kind(image_type, component, unit_of_values(dataset, group), ge_number, description)


def unit_of_values(dataset: pydicom.Dataset, group: pydicom.Dataset | None) -> str:
    """Return the unit of the rescaled values; empty for the codes "1" and "US"."""
    unit = str(find(dataset, group, "RescaleType", "PixelValueTransformationSequence") or "US").upper()
    mapping = find(dataset, group, "MeasurementUnitsCodeSequence", "RealWorldValueMappingSequence")
    if mapping and unit in ("US", "NORMALIZED", "UNSPECIFIED"):
        unit = str(mapping[0].get("CodeValue") or "").upper()
    return "" if unit in ("US", "1", "NORMALIZED", "UNSPECIFIED") else unit
