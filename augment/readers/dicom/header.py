"""Describe a DICOM file by its header: what it is, and what tells it from the other files of its series."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pydicom
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from rephase.errors import VolumeError
from rephase.manifests.header import Kind
from rephase.readers.dicom.facts import (
    as_list,
    echo_time,
    find,
    first_int,
    kind_of,
    number,
    numbers,
    private,
    words_of,
)
from rephase.readers.dicom.files import DicomFile, looking_into, looks_like_dicom, not_dicom, opened, parse_header
from rephase.readers.dicom.kinds import MR_CLASSES, computed_word, object_kind

_PIXEL_TAGS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_MR_IMAGES = {f"{MR_CLASSES}{suffix}" for suffix in ("", ".1", ".3", ".4")}
_COLOURS = ("RGB", "YBR", "PALETTE")
_MOST_MM = 1e5
_JP2_BYTES = 8192
_TILED = {"MOSAIC", "VFRAME"}
_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "PatientName",
    "PatientBirthDate", "Modality", "Manufacturer", "ImageType", "SeriesDescription", "Rows", "Columns",
    "NumberOfFrames", "EchoTime", "EchoNumbers", "InstanceNumber", "TemporalPositionIdentifier", "AcquisitionNumber",
    "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "InversionTime", "TriggerTime", "DiffusionBValue",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness",
    "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "RescaleSlope", "RescaleIntercept", "RescaleType", "RealWorldValueMappingSequence",
    "ModalityLUTSequence", "ComplexImageComponent", "SpecificCharacterSet", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_PRIVATE = ((0x2001, 0x18), (0x43, 0x2F))
_TAGS = [
    *(pydicom.datadict.tag_for_keyword(keyword) for keyword in _KEYWORDS),
    *(tag for group, element in _PRIVATE for block in range(0x10, 0x14)
      for tag in (group << 16 | block, group << 16 | block << 8 | element)),
]  # fmt: skip
"""The elements of a `Header`: other ones are not converted, which halves the time of a scan."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a multi-frame object; see `Header`."""

    kind: Kind
    te_ms: float | None
    acquired: str
    position: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """One DICOM object.

    Attributes
    ----------
    file
        Where it is.
    kind
        What its pixels are; of a multi-frame object, what those of its first frame are.
    computed
        The word that names a computed quantity.
    problem
        Why its pixels cannot be used; None if nothing is wrong.
    series, study, subject, instance
        Identifying texts.
    words
        ImageType.
    matrix, num_frames, num_bytes
        Rows and columns; frames; size of the decoded pixels.
    position, cosines, spacing
        Of its plane, LPS mm; None for tiles and multi-frame objects, whose geometry the converter reads.
    thickness_mm
        Distance to the next slice by the header, for the tolerance of positions.
    te_ms, echo, number, time, acquisition, acquired, varied
        EchoTime, EchoNumbers, InstanceNumber, TemporalPositionIdentifier, AcquisitionNumber, date and time of
        acquisition, and what else may vary: inversion time, trigger time, b-value.
    scale
        RescaleSlope and RescaleIntercept.
    padding
        Stored value outside of the image.
    num_expected
        Slices of the volume by a classic Philips header.
    frames
        Of a multi-frame object.
    """

    file: DicomFile
    kind: Kind
    computed: str | None = None
    problem: str | None = None
    series: str = ""
    study: str = ""
    subject: str = ""
    instance: str = ""
    words: tuple[str, ...] = ()
    matrix: tuple[int, int] | None = None
    num_frames: int = 1
    num_bytes: int = 0
    position: tuple[float, ...] | None = None
    cosines: tuple[float, ...] | None = None
    spacing: tuple[float, ...] = ()
    thickness_mm: float = 0.0
    te_ms: float | None = None
    echo: int | None = None
    number: int | None = None
    time: int | None = None
    acquisition: int | None = None
    acquired: str = ""
    varied: tuple[tuple[float, ...], ...] = ()
    scale: tuple[float, ...] = ()
    padding: int | None = None
    num_expected: int | None = None
    frames: tuple[Frame, ...] = ()

    @property
    def is_image(self) -> bool:
        """Whether it is an MR image."""
        return self.matrix is not None

    @property
    def is_plane(self) -> bool:
        """Whether it is one plane with its place."""
        return not self.frames and not self.is_tiled and len(self.position or ()) == 3 and len(self.cosines or ()) == 6

    @property
    def is_tiled(self) -> bool:
        """Whether one picture holds all slices of a volume: a Siemens mosaic, a tiled image of United Imaging."""
        return not _TILED.isdisjoint(self.words)

    @property
    def told_apart_by(self) -> tuple[Any, ...]:
        """Everything that may differ between two images of one series."""
        return (self.words, self.position, self.cosines, self.te_ms, self.number, self.time, self.acquisition,
                self.acquired, self.varied, self.matrix, self.num_frames)  # fmt: skip


def read_header(file: DicomFile) -> Header | None:
    """Read a file up to its pixels; None where it is no DICOM and has no suffix of it.

    Raises
    ------
    VolumeError
        The file has a suffix or the first bytes of DICOM, but cannot be read, or may be an image without its pixels.
    """
    with opened(file) as (stream, start):
        if not looks_like_dicom(start):
            if file.has_dicom_name:
                raise not_dicom(file, start)
            return None
        dataset = parse_header(stream, file, _TAGS)
        with looking_into(file):
            return _describe(dataset, file, stream)


def _describe(dataset: pydicom.Dataset, file: DicomFile, stream: io.BufferedReader) -> Header:
    meta = getattr(dataset, "file_meta", pydicom.Dataset())
    sop_class = str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    uids = {"series": "SeriesInstanceUID", "study": "StudyInstanceUID", "instance": "SOPInstanceUID"}
    names: dict[str, Any] = {name: str(dataset.get(keyword) or "") for name, keyword in uids.items()}
    names["subject"] = _subject(dataset)
    kind = object_kind(sop_class)
    if kind is None and (stream.read(4) not in _PIXEL_TAGS or "Rows" not in dataset):
        if _may_be_slice(UID(sop_class)):
            raise VolumeError(
                "unreadable", f"{file}: no pixel data after the header; it is truncated or damaged; copy it again"
            )
        kind = "no image"  # a report, a presentation state, a vendor's own object
    if kind is None and not _is_mr(dataset, sop_class):
        kind = "non_mr"
    if kind is not None:
        return Header(file, kind, **names)
    image_type = words_of(dataset, None)
    groups = as_list(dataset.get("PerFrameFunctionalGroupsSequence"))
    frames = tuple(frame_of(dataset, group) for group in groups)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    num_frames = int(number(dataset.get("NumberOfFrames")) or 1)
    computed = computed_word(image_type)
    photometric = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2")
    if photometric.startswith(_COLOURS):
        computed = photometric
    header_kind = frames[0].kind if frames else kind_of(dataset, None, image_type)
    times = (dataset.get(word) for word in ("AcquisitionDate", "AcquisitionTime"))
    found = Header(
        file,
        "derived" if computed and header_kind != "localizer" else header_kind,
        computed,
        **names,
        words=tuple(word.upper() for word in image_type),
        matrix=(rows, columns),
        num_frames=num_frames,
        num_bytes=rows * columns * num_frames * (int(dataset.get("BitsAllocated") or 16) // 8),
        position=numbers(dataset.get("ImagePositionPatient")) or None,
        cosines=numbers(dataset.get("ImageOrientationPatient")) or None,
        spacing=numbers(dataset.get("PixelSpacing")),
        thickness_mm=abs(number(dataset.get("SpacingBetweenSlices")) or number(dataset.get("SliceThickness")) or 1.0),
        te_ms=echo_time(dataset, None),
        echo=first_int(dataset.get("EchoNumbers")),
        number=first_int(dataset.get("InstanceNumber")),
        time=first_int(dataset.get("TemporalPositionIdentifier")),
        acquisition=first_int(dataset.get("AcquisitionNumber")),
        acquired=str(dataset.get("AcquisitionDateTime") or "".join(str(part) for part in times if part)),
        varied=tuple(numbers(dataset.get(word)) for word in ("InversionTime", "TriggerTime", "DiffusionBValue")),
        scale=_scale(dataset, None),
        padding=_padding(dataset.get("PixelPaddingValue")),
        num_expected=None if groups else first_int(private(dataset, 0x2001, "Philips Imaging DD 001", 0x18)),
        frames=frames,
    )
    problem = _encoding_problem(dataset)
    if problem is None and num_frames != (len(frames) or 1):
        problem = f"{len(frames)} frame headers for {num_frames} frames; expected functional groups of each; convert it"
    problem = problem or _pixel_problem(dataset, found, stream) or _geometry_problem(found)
    return found if problem is None else replace(found, problem=problem)


def frame_of(dataset: pydicom.Dataset, group: pydicom.Dataset) -> Frame:
    """Describe one frame from its functional groups."""
    image_type = words_of(dataset, group)
    technique = find(dataset, group, "VolumeBasedCalculationTechnique", "MRImageFrameTypeSequence")
    computed = computed_word([*image_type, str(technique or "")])
    acquired = str(find(dataset, group, "FrameAcquisitionDateTime", "FrameContentSequence") or "")
    kind = "derived" if computed else kind_of(dataset, group, image_type)
    position = numbers(find(dataset, group, "ImagePositionPatient", "PlanePositionSequence"))
    return Frame(kind, echo_time(dataset, group), acquired, position, _scale(dataset, group))


def _scale(dataset: pydicom.Dataset, group: pydicom.Dataset | None) -> tuple[float, ...]:
    words = ("RescaleSlope", "RescaleIntercept")
    return tuple(
        one for word in words for one in numbers(find(dataset, group, word, "PixelValueTransformationSequence"))
    )


def _subject(dataset: pydicom.Dataset) -> str:
    """Return the best identification of the person: the id, else name and birth date, else the study."""
    named = f"{dataset.get('PatientName') or ''}|{dataset.get('PatientBirthDate') or ''}"
    return str(dataset.get("PatientID") or (named if named.strip("|") else dataset.get("StudyInstanceUID") or ""))


def _is_mr(dataset: pydicom.Dataset, sop_class: str) -> bool:
    modality = str(dataset.get("Modality") or "")
    return modality == "MR" or (not modality and sop_class.startswith(MR_CLASSES))


def _may_be_slice(stated: UID) -> bool:
    """Whether a file without an image may be a damaged image: other objects state their SOP class."""
    if stated in _MR_IMAGES or not stated.is_valid:
        return True
    return not stated.is_private and stated.type not in ("SOP Class", "Meta SOP Class")


def _padding(value: Any) -> int | None:  # noqa: ANN401 - as pydicom returns it
    if isinstance(value, bytes):
        return int.from_bytes(value, "little")
    return first_int(value)


def _encoding_problem(dataset: pydicom.Dataset) -> str | None:
    """Return why the stored values cannot be those of a slice: the converter would take some of them as they are."""
    bits = int(dataset.get("BitsAllocated") or 0)
    stored = int(dataset.get("BitsStored") or bits)
    photometric = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        return f"{photometric[:16]} with {dataset.get('SamplesPerPixel')} samples; expected grey values; convert it"
    if dataset.get("PixelRepresentation") not in (None, 0, 1):
        return f"pixel representation {dataset.get('PixelRepresentation')}; expected 0 or 1; export it again"
    if bits not in (8, 16, 32):
        return f"{bits} bits allocated; expected 8, 16 or 32; convert it"
    if "ModalityLUTSequence" in dataset:
        return "values through a modality lookup table; expected slope and intercept; convert it"
    if not 0 < stored <= bits or int(dataset.get("HighBit") or stored - 1) != stored - 1:
        return (
            f"{stored} of {bits} bits stored, the highest {dataset.get('HighBit')}; expected the lower bits; convert it"
        )
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        value = dataset.get(keyword)
        wrong = value not in (None, "") and number(value) is None
        if wrong or (keyword == "RescaleSlope" and number(value) == 0):
            return f"{keyword} is {str(value)[:40]}; expected a number; export it again"
    return None


def _pixel_problem(dataset: pydicom.Dataset, header: Header, stream: io.BufferedReader) -> str | None:
    """Compare the length of uncompressed pixels with the header; the stream stands behind their tag.

    Padding after the last row, of zeros or less than a row, is common.
    """
    syntax = _transfer_syntax(dataset)
    if syntax.is_encapsulated:
        place = stream.tell()
        problem = _fragments_problem(stream)
        stream.seek(place)
        return problem or _codestream_problem(dataset, stream.read(_JP2_BYTES))
    start = stream.read(4 if syntax == ImplicitVRLittleEndian else 8)
    (length,) = struct.unpack(">I" if syntax == ExplicitVRBigEndian else "<I", start[-4:])
    if header.file.is_local and not header.file.path.endswith(".gz"):
        length = min(length, header.file.stamp[0] - stream.tell())
    row = header.num_bytes // max(int(dataset.Rows) * header.num_frames, 1)
    if length < header.num_bytes or not header.num_bytes:
        return f"{length} of {header.num_bytes} bytes of pixels; it is truncated or damaged; copy it again"
    if length >= header.num_bytes + max(row, 2):
        stream.seek(header.num_bytes, io.SEEK_CUR)
        if any(stream.read(length - header.num_bytes)):
            return f"{length} bytes of pixels; expected {header.num_bytes} by its header; copy it again"
    return None


def _fragments_problem(stream: io.BufferedReader) -> str | None:
    """Check that the items of compressed pixels follow each other: dcm2niix reads past their ends."""
    stream.seek(8, io.SEEK_CUR)
    while len(item := stream.read(8)) == 8 and item[:4] != b"\xfe\xff\xdd\xe0":
        length = int.from_bytes(item[4:], "little")
        if item[:4] != b"\xfe\xff\x00\xe0" or len(stream.read(length)) < length:
            return "its compressed pixels are damaged; expected items that follow each other; copy it again"
    return None


def _codestream_problem(dataset: pydicom.Dataset, data: bytes) -> str | None:
    """Compare the size of a JPEG 2000 image with the header: dcm2niix copies one of another size row by row."""
    start = data.find(b"\xff\x4f\xff\x51")
    if not 0 <= start < len(data) - 24:
        return None
    width, height, left, top = struct.unpack_from(">4I", data, start + 8)
    if (height - top, width - left) == (int(dataset.Rows), int(dataset.Columns)):
        return None
    return f"its compressed image is {height - top}x{width - left}; expected the size in its header; copy it again"


def _transfer_syntax(dataset: pydicom.Dataset) -> UID:
    """Return the encoding of the pixels; without a file header it is that of the elements."""
    stated = getattr(dataset, "file_meta", pydicom.Dataset()).get("TransferSyntaxUID")
    if stated and UID(stated).is_transfer_syntax:
        return UID(stated)
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _geometry_problem(header: Header) -> str | None:
    if header.frames or "VFRAME" in header.words:
        return None
    found = {"ImagePositionPatient": (header.position or (), 3), "ImageOrientationPatient": (header.cosines or (), 6),
             "PixelSpacing": (header.spacing, 2)}  # fmt: skip
    for keyword, (values, count) in found.items():
        if len(values) != count:
            return f"{keyword} has {len(values)} numbers; expected {count}; export it again"
    rows, columns = found["ImageOrientationPatient"][0][:3], found["ImageOrientationPatient"][0][3:]
    if not all(0.9 < math.hypot(*vector) < 1.1 for vector in (rows, columns)) or abs(_dot(rows, columns)) > 0.02:
        return "ImageOrientationPatient has no unit vectors at right angles; expected two; export it again"
    if max(map(abs, header.position or ())) > _MOST_MM:
        return f"ImagePositionPatient is {header.position}; expected mm within a scanner; export it again"
    if min(header.spacing) <= 0:
        return f"PixelSpacing is {header.spacing}; expected two positive values in mm; export it again"
    return None


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
