"""Read the facts of an acquisition from a DICOM header: for audits and conditions, nothing that identifies anyone."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pydicom

from rephase.facts import VolumeFacts
from rephase.manifests.header import Kind
from rephase.readers.image_type import frame_kind
from rephase.readers.sequence import contrast_of_words, sequence_of_words
from rephase.readers.volume import PhaseEncode

# BodyPartExamined is a code in the standard and free text in practice, so only words of this list are taken
_BODY_PARTS = frozenset({
    "ABDOMEN", "ANKLE", "ARM", "BRAIN", "BREAST", "CHEST", "CSPINE", "ELBOW", "FOOT", "HAND", "HEAD", "HEART", "HIP",
    "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE", "NECK", "PANCREAS", "PELVIS", "PROSTATE", "SHOULDER", "SPINE", "TSPINE",
    "UTERUS", "WRIST",
})  # fmt: skip
_VENDORS = ("siemens", "philips", "ge", "toshiba", "canon", "hitachi", "fujifilm", "uih", "united", "bruker", "esaote")
_PHASE_ENCODE: dict[str, PhaseEncode] = {"ROW": "row", "COL": "column", "COLUMN": "column"}
_SEQUENCE_NAMES = ((0x2001, 0x1020), (0x2005, 0x106E), (0x0019, 0x109C), (0x0019, 0x109E))
"""Private elements that name the pulse sequence: two of Philips, two of GE."""
_NUMBERS = {
    "percent_sampling": "PercentSampling", "percent_phase_fov": "PercentPhaseFieldOfView", "tr_ms": "RepetitionTime",
    "flip_angle_deg": "FlipAngle", "echo_train_length": "EchoTrainLength", "pixel_bandwidth_hz": "PixelBandwidth",
    "slice_thickness_mm": "SliceThickness", "parallel_reduction": "ParallelReductionFactorInPlane",
}  # fmt: skip
_WORDS = {
    "scanning_sequence": "ScanningSequence", "sequence_variant": "SequenceVariant", "scan_options": "ScanOptions",
    "mr_acquisition_type": "MRAcquisitionType", "partial_fourier": "PartialFourier",
    "k_space_filtering": "KSpaceFiltering", "photometric_interpretation": "PhotometricInterpretation",
}  # fmt: skip


@dataclass(frozen=True)
class Facts(VolumeFacts):
    """Acquisition conditions of one frame, the unit of its values, and `acquisition` with JSON values for audits."""

    phase_encode: PhaseEncode
    unit: str
    acquisition: dict[str, Any] = field(hash=False)


class Elements:
    """The elements of one frame, wherever an enhanced object keeps them: its groups, the shared ones, the top level."""

    def __init__(self, dataset: pydicom.Dataset, group: pydicom.Dataset | None = None) -> None:
        self.dataset = dataset
        self._places = [dataset]
        if group is not None:
            groups = [group, *as_list(dataset.get("SharedFunctionalGroupsSequence"))[:1]]
            self._places = [
                element.value[0] for one in groups for element in one if element.VR == "SQ" and element.value
                and not element.tag.is_private
            ] + self._places  # fmt: skip

    def get(self, keyword: str) -> Any:  # noqa: ANN401 - a number, a string, several of them, items
        """Return the value of an element; None where it is missing or empty."""
        found = (place.get(keyword) for place in self._places)
        return next((value for value in found if value is not None and value != ""), None)

    def private(self, group: int, creator: str, element: int) -> Any:  # noqa: ANN401 - as get
        """Return a private value; None without it."""
        for place in self._places:
            with suppress(KeyError):
                return place.private_block(group, creator)[element].value
        return None

    def number(self, keyword: str) -> float | None:
        """Return the first value as a number."""
        return next(iter(numbers(self.get(keyword))), None)

    def integer(self, keyword: str) -> int | None:
        """Return the first value as an integer."""
        found = self.number(keyword)
        return None if found is None else int(found)

    def text(self, keyword: str) -> str:
        """Return a value as text, empty where there is none."""
        return str(self.get(keyword) or "")

    @property
    def image_type(self) -> list[str]:
        """ImageType, or FrameType in an enhanced object."""
        return [str(word) for word in as_list(self.get("FrameType") or self.get("ImageType"))]

    @property
    def te_ms(self) -> float | None:
        """Echo time in milliseconds."""
        found = self.number("EffectiveEchoTime")
        return self.number("EchoTime") if found is None else found

    @property
    def unit(self) -> str:
        """Unit of the rescaled values; empty for the codes "1" and "US"."""
        unit, mapping = self.text("RescaleType").upper(), self.get("MeasurementUnitsCodeSequence")
        if unit in ("", "US", "NORMALIZED", "UNSPECIFIED"):
            unit = str(mapping[0].get("CodeValue") or "").upper() if mapping else ""
        return unit.replace("1", "")

    @property
    def kind(self) -> Kind:
        """What the pixels are."""
        is_ge = self.text("Manufacturer").upper().startswith("GE")
        ge_type = next(iter(numbers(self.private(0x43, "GEMS_PARM_01", 0x2F))), 0) if is_ge else 0
        words = [*self.image_type, self.text("VolumeBasedCalculationTechnique")]
        component, description = self.text("ComplexImageComponent"), self.text("SeriesDescription")
        return frame_kind(words, component, self.unit, int(ge_type), description)


def as_list(value: Any) -> list[Any]:  # noqa: ANN401 - as Elements.get
    """Return the values of an element as a list, whether it has none, one or more."""
    if value is None or isinstance(value, (str, bytes, int, float)):
        return [] if value is None or value == "" else [value]
    return list(value) if hasattr(value, "__iter__") else [value]


def numbers(value: Any) -> tuple[float, ...]:  # noqa: ANN401 - as Elements.get
    """Return the values of an element that are finite numbers."""
    found = []
    for item in as_list(value):
        try:
            found.append(float(item))
        except (TypeError, ValueError):
            continue
    return tuple(one for one in found if math.isfinite(one))


def header_facts(dataset: pydicom.Dataset, group: pydicom.Dataset | None = None) -> Facts:
    """Collect the facts of one frame: `group` holds its functional groups, None in a classic object."""
    elements = Elements(dataset, group)
    phase_encode = _PHASE_ENCODE.get(elements.text("InPlanePhaseEncodingDirection").upper(), "assumed")
    syntax = getattr(dataset, "file_meta", pydicom.Dataset()).get("TransferSyntaxUID")
    vendor = elements.text("Manufacturer").lower().replace("_", " ").split(" ")[0]
    times = numbers(elements.get("InversionTimes") or elements.get("InversionTime"))
    acquisition: dict[str, Any] = {
        # Siemens XA stores the names of filters (DIS2D, NORM) in a private element of the frame type
        "image_type": [*elements.image_type, *map(str, as_list(elements.private(0x21, "SIEMENS MR SDI 02", 0x78)))],
        "acquired_matrix": _acquired_matrix(elements, phase_encode),
        "bits_stored": elements.integer("BitsStored"),
        "lossy_compression": elements.text("LossyImageCompression") == "01",
        "vendor": vendor if vendor in _VENDORS else None,
        "transfer_syntax": (syntax.keyword or syntax.name) if syntax is not None and not syntax.is_private else None,
        "ti_ms": (times[0] if times else None) or None,
        **{name: elements.number(keyword) for name, keyword in _NUMBERS.items()},
    }
    for name, keyword in _WORDS.items():
        found = [str(word) for word in as_list(elements.get(keyword))]
        acquisition[name] = found[0] if len(found) == 1 else found
    kept = {name: value for name, value in acquisition.items() if value not in (None, "", [])}
    te_ms, tesla = elements.te_ms, elements.number("MagneticFieldStrength") or 0
    tesla = tesla / 1e4 if tesla > 100 else tesla  # a few exports write gauss
    body_part = elements.text("BodyPartExamined").strip().upper()
    return Facts(
        te_ms=te_ms if te_ms and te_ms > 0 else None,
        field_t=tesla if 0.001 < tesla < 25 else None,
        contrast=_contrast(elements, kept),
        sequence=_sequence(elements, kept),
        anatomy=body_part.lower() if body_part in _BODY_PARTS else None,
        phase_encode=phase_encode,
        unit=elements.unit,
        acquisition=kept,
    )


def _sequence(elements: Elements, facts: dict[str, Any]) -> str | None:
    """Return the family of the pulse sequence; the vendors' own elements name it where the standard's do not."""
    own = [elements.dataset.get(tag) for tag in _SEQUENCE_NAMES]
    return sequence_of_words(
        as_list(facts.get("scanning_sequence")),
        names=[elements.text("PulseSequenceName"), elements.text("SequenceName"), *(str(e.value) for e in own if e)],
        echo_pulse=elements.text("EchoPulseSequence"),
        echo_planar=elements.text("EchoPlanarPulseSequence"),
        steady_state=elements.text("SteadyStatePulseSequence"),
        inversion=facts.get("ti_ms") is not None,
        echo_train_length=elements.number("RFEchoTrainLength") or facts.get("echo_train_length"),
    )


def _contrast(elements: Elements, facts: dict[str, Any]) -> str | None:
    sequence, variant = (as_list(facts.get(name)) for name in ("scanning_sequence", "sequence_variant"))
    # Philips stores elements of enhanced objects in a private sequence of classic ones
    inner = [
        item for item in as_list(elements.private(0x2005, "Philips MR Imaging DD 005", 0x0F)) if hasattr(item, "get")
    ]
    stated = elements.text("AcquisitionContrast") or str(inner[0].get("AcquisitionContrast") or "" if inner else "")
    return contrast_of_words(
        elements.image_type,
        [*sequence, *(["GR"] if elements.text("EchoPulseSequence") == "GRADIENT" else [])],
        stated=stated.upper(),
        diffusion=bool(elements.number("DiffusionBValue")),
        angiography=elements.text("AngioFlag") == "Y" or "TOF" in variant,
        prepared="MP" in variant or elements.text("InversionRecovery") == "YES",
        te_ms=elements.te_ms,
        tr_ms=facts.get("tr_ms"),
        ti_ms=facts.get("ti_ms"),
    )


def _acquired_matrix(elements: Elements, phase_encode: PhaseEncode) -> list[int] | None:
    """Return the acquired samples along (height, width) of the stored axes.

    AcquisitionMatrix is (frequency rows, frequency columns, phase rows, phase columns), where "rows" counts samples
    along a row. Where the phase-encoding direction is known, height is frequency and width is phase.
    """
    matrix = [int(item) for item in numbers(elements.get("AcquisitionMatrix"))]
    if len(matrix) == 4 and sum(value > 0 for value in matrix) == 2:
        found = [max(matrix[:2]), max(matrix[2:])]
        if phase_encode == "assumed":
            found = [max(matrix[1], matrix[3]), max(matrix[0], matrix[2])]
        return found if all(found) else None
    words = ("MRAcquisitionFrequencyEncodingSteps", "MRAcquisitionPhaseEncodingStepsInPlane")
    known = [int(steps) for word in words if (steps := elements.number(word))]
    return known if len(known) == 2 and phase_encode != "assumed" else None
