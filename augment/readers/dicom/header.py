"""Describe a DICOM file by its header: what it is, and what tells it from the other files of its series."""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import pydicom
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from rephase.errors import VolumeError
from rephase.manifests.header import Kind
from rephase.readers.dicom.facts import Elements, as_list, numbers
from rephase.readers.dicom.files import DicomFile, open_dicom

_IMAGES = "1.2.840.10008.5.1.4.1.1."
_MR_CLASSES = f"{_IMAGES}4"
_MR_IMAGES = {f"{_MR_CLASSES}{suffix}" for suffix in ("", ".1", ".3", ".4")}
_OBJECTS: dict[str, Kind] = {
    f"{_IMAGES}4.2": "spectroscopy", f"{_IMAGES}30": "parametric map", f"{_IMAGES}66.4": "label map",
    f"{_IMAGES}66.7": "label map", f"{_IMAGES}66.5": "surface", f"{_IMAGES}66": "raw data",
}  # fmt: skip
_PIXEL_TAGS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_MOST_MM = 1e5
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
    """One plane: its kind, echo time, date and time, position and orientation (LPS mm), slope and intercept."""

    kind: Kind
    te_ms: float | None = None
    acquired: str = ""
    position: tuple[float, ...] = ()
    cosines: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """One DICOM object.

    Attributes
    ----------
    file, frames
        Where it is, and its planes: one of a classic object, and of what is no image.
    problem
        Why its pixels cannot be used; None if nothing is wrong.
    series, study, subject, instance
        Identifying texts.
    words, matrix, num_bytes, is_multi
        ImageType; rows and columns, None if it is no MR image; size of the decoded pixels; whether it is a multi-frame
        object.
    spacing, thickness_mm
        PixelSpacing; distance to the next slice by the header, for the tolerance of positions.
    echo, number, time, acquisition, varied
        EchoNumbers, InstanceNumber, TemporalPositionIdentifier, AcquisitionNumber, and what else may vary: inversion
        time, trigger time, b-value.
    padding, num_expected
        Stored value outside of the image; slices of the volume by a classic Philips header.
    """

    file: DicomFile
    frames: tuple[Frame, ...]
    problem: str | None = None
    series: str = ""
    study: str = ""
    subject: str = ""
    instance: str = ""
    words: tuple[str, ...] = ()
    matrix: tuple[int, int] | None = None
    num_bytes: int = 0
    is_multi: bool = False
    spacing: tuple[float, ...] = ()
    thickness_mm: float = 0.0
    echo: int | None = None
    number: int = 0
    time: int = 0
    acquisition: int = 0
    varied: tuple[tuple[float, ...], ...] = ()
    padding: int | None = None
    num_expected: int = 0

    @property
    def kind(self) -> Kind:
        """What its pixels are; of a multi-frame object, what those of its first frame are."""
        return self.frames[0].kind

    @property
    def te_ms(self) -> float | None:
        """Echo time of its first frame."""
        return self.frames[0].te_ms

    @property
    def is_plane(self) -> bool:
        """Whether it is one plane with its place."""
        return not self.is_multi and not self.is_tiled and len(self.frames[0].position + self.frames[0].cosines) == 9

    @property
    def is_tiled(self) -> bool:
        """Whether one picture holds all slices of a volume: a Siemens mosaic, a tiled image of United Imaging."""
        return not _TILED.isdisjoint(self.words)


def read_header(file: DicomFile) -> Header | None:
    """Read a file up to its pixels; None where it is no DICOM and has no suffix of it.

    Raises
    ------
    VolumeError
        The file has a suffix or the first bytes of DICOM, but cannot be read, or may be an image without its pixels.
    """
    with open_dicom(file, _TAGS) as found:
        return None if found is None else _describe(file, *found)


def _describe(file: DicomFile, dataset: pydicom.Dataset, stream: BinaryIO, size: int) -> Header:
    elements = Elements(dataset)
    meta = getattr(dataset, "file_meta", pydicom.Dataset())
    sop_class = elements.text("SOPClassUID") or str(meta.get("MediaStorageSOPClassUID") or "")
    named = f"{elements.text('PatientName')}|{elements.text('PatientBirthDate')}"
    names: dict[str, Any] = {
        "series": elements.text("SeriesInstanceUID"),
        "study": elements.text("StudyInstanceUID"),
        "instance": elements.text("SOPInstanceUID"),
        "subject": elements.text("PatientID") or (named if named != "|" else elements.text("StudyInstanceUID")),
    }
    kind = _OBJECTS.get(sop_class)
    if kind is None and (stream.read(4) not in _PIXEL_TAGS or "Rows" not in dataset):
        if _may_be_slice(UID(sop_class)):
            raise VolumeError(
                "unreadable", f"{file}: no pixel data after the header; it is truncated or damaged; copy it again"
            )
        kind = "no image"  # a report, a presentation state, a vendor's own object
    modality = elements.text("Modality")
    if kind is None and modality != "MR" and (modality or not sop_class.startswith(_MR_CLASSES)):
        kind = "non_mr"
    if kind is not None:
        return Header(file, (Frame(kind),), **names)
    groups = as_list(dataset.get("PerFrameFunctionalGroupsSequence"))
    frames = tuple(frame_of(Elements(dataset, group)) for group in groups) or (frame_of(elements),)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    num_bytes = rows * columns * len(frames) * (int(dataset.get("BitsAllocated") or 16) // 8)
    padding = dataset.get("PixelPaddingValue")
    expected = numbers(elements.private(0x2001, "Philips Imaging DD 001", 0x18)) if not groups else ()
    words = tuple(word.upper() for word in elements.image_type)
    return Header(
        file,
        frames,
        _problem(dataset, elements, frames, words) or _pixel_problem(dataset, num_bytes, stream, size),
        **names,
        words=words,
        matrix=(rows, columns),
        num_bytes=num_bytes,
        is_multi=bool(groups),
        spacing=numbers(dataset.get("PixelSpacing")),
        thickness_mm=abs(elements.number("SpacingBetweenSlices") or elements.number("SliceThickness") or 1.0),
        echo=elements.integer("EchoNumbers"),
        number=elements.integer("InstanceNumber") or 0,
        time=elements.integer("TemporalPositionIdentifier") or 0,
        acquisition=elements.integer("AcquisitionNumber") or 0,
        varied=tuple(numbers(dataset.get(word)) for word in ("InversionTime", "TriggerTime", "DiffusionBValue")),
        padding=int.from_bytes(padding, "little")
        if isinstance(padding, bytes)
        else elements.integer("PixelPaddingValue"),
        num_expected=int(expected[0]) if expected else 0,
    )


def frame_of(elements: Elements) -> Frame:
    """Describe one frame."""
    when = elements.text("FrameAcquisitionDateTime") or elements.text("AcquisitionDateTime")
    return Frame(
        "derived" if elements.text("PhotometricInterpretation").startswith(("RGB", "YBR", "PAL")) else elements.kind,
        elements.te_ms,
        when or elements.text("AcquisitionDate") + elements.text("AcquisitionTime"),
        numbers(elements.get("ImagePositionPatient")),
        numbers(elements.get("ImageOrientationPatient")),
        numbers(elements.get("RescaleSlope")) + numbers(elements.get("RescaleIntercept")),
    )


def _may_be_slice(stated: UID) -> bool:
    """Whether a file without an image may be a damaged image: other objects state their SOP class."""
    if stated in _MR_IMAGES or not stated.is_valid:
        return True
    return not stated.is_private and stated.type not in ("SOP Class", "Meta SOP Class")


def _problem(
    dataset: pydicom.Dataset, elements: Elements, frames: tuple[Frame, ...], words: tuple[str, ...]
) -> str | None:
    """Return why the stored values cannot be those of a slice: the converter would take some of them as they are."""
    bits = int(dataset.get("BitsAllocated") or 0)
    stored, high = int(dataset.get("BitsStored") or bits), dataset.get("HighBit")
    photometric = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2")[:16]
    samples, signed = int(dataset.get("SamplesPerPixel") or 1), dataset.get("PixelRepresentation")
    num_frames, num_groups = elements.integer("NumberOfFrames") or 1, len(frames)
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    checks: list[tuple[bool, str]] = [
        (samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"),
         f"{photometric} with {samples} samples; expected grey values; convert it"),
        (signed not in (None, 0, 1), f"pixel representation {signed}; expected 0 or 1; export it again"),
        (bits not in (8, 16, 32), f"{bits} bits allocated; expected 8, 16 or 32; convert it"),
        ("ModalityLUTSequence" in dataset,
         "values through a modality lookup table; expected slope and intercept; convert it"),
        (not 0 < stored <= bits or int(high or stored - 1) != stored - 1,
         f"{stored} of {bits} bits stored, the highest {high}; expected the lower bits; convert it"),
        (slope not in (None, "") and (len(numbers(slope)) != 1 or not any(numbers(slope))),
         "RescaleSlope is 0 or no number; expected one; export it again"),
        (intercept not in (None, "") and len(numbers(intercept)) != 1,
         "RescaleIntercept is no number; expected one; export it again"),
        (num_frames != num_groups,
         f"{num_groups} frame headers for {num_frames} frames; expected functional groups of each; convert it"),
    ]  # fmt: skip
    if "PerFrameFunctionalGroupsSequence" not in dataset and "VFRAME" not in words:
        position, cosines = frames[0].position, frames[0].cosines
        spacing = numbers(dataset.get("PixelSpacing"))
        lengths = [math.hypot(*cosines[:3]), math.hypot(*cosines[3:])]
        skew = abs(sum(x * y for x, y in zip(cosines[:3], cosines[3:], strict=False)))
        checks += [
            (len(position) != 3, f"ImagePositionPatient has {len(position)} numbers; expected 3; export it again"),
            (len(cosines) != 6, f"ImageOrientationPatient has {len(cosines)} numbers; expected 6; export it again"),
            (not 0.9 < min(lengths) <= max(lengths) < 1.1 or skew > 0.02,
             "ImageOrientationPatient has no unit vectors at right angles; expected two; export it again"),
            (max(map(abs, position), default=0) > _MOST_MM,
             f"ImagePositionPatient is {position}; expected mm within a scanner; export it again"),
            (len(spacing) != 2 or min(spacing) <= 0,
             f"PixelSpacing is {spacing}; expected two numbers above 0, in mm; export it again"),
        ]  # fmt: skip
    return next((message for is_wrong, message in checks if is_wrong), None)


def _pixel_problem(dataset: pydicom.Dataset, expected: int, stream: BinaryIO, size: int) -> str | None:
    """Compare the length of the pixels with the header; the stream stands behind their tag.

    Padding after the last row, of zeros or less than a row, is common.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    syntax = _transfer_syntax(dataset)
    if syntax.is_encapsulated:
        return _compressed_problem(stream, rows, columns)
    start = stream.read(4 if syntax == ImplicitVRLittleEndian else 8)
    (length,) = struct.unpack(">I" if syntax == ExplicitVRBigEndian else "<I", start[-4:])
    place = stream.tell()
    length = min(length, size - place)
    if length < expected or not expected:
        return f"{length} of {expected} bytes of pixels; it is truncated or damaged; copy it again"
    row = expected // max(rows * (int(dataset.get("NumberOfFrames") or 1)), 1)
    if length >= expected + max(row, 2):
        stream.seek(place + expected)
        if any(stream.read(length - expected)):
            return f"{length} bytes of pixels; expected {expected} by its header; copy it again"
    return None


def _compressed_problem(stream: BinaryIO, rows: int, columns: int) -> str | None:
    """Check that the items of compressed pixels follow each other, and the size of a JPEG 2000 image.

    dcm2niix reads past the ends of items, and copies an image of another size row by row.
    """
    stream.seek(8, io.SEEK_CUR)
    while len(item := stream.read(8)) == 8 and item[:4] != b"\xfe\xff\xdd\xe0":
        length = int.from_bytes(item[4:], "little")
        data = stream.read(length)
        if item[:4] != b"\xfe\xff\x00\xe0" or len(data) < length:
            return "its compressed pixels are damaged; expected items that follow each other; copy it again"
        if data[:4] == b"\xff\x4f\xff\x51" and length > 24:
            width, height, left, top = struct.unpack_from(">4I", data, 8)
            if (height - top, width - left) != (rows, columns):
                return (
                    f"its compressed image is {height - top}x{width - left}; expected {rows}x{columns}; copy it again"
                )
    return None


def _transfer_syntax(dataset: pydicom.Dataset) -> UID:
    """Return the encoding of the pixels; without a file header it is that of the elements."""
    stated = UID(str(getattr(dataset, "file_meta", pydicom.Dataset()).get("TransferSyntaxUID") or ""))
    implicit, little = dataset.original_encoding
    if stated.is_transfer_syntax or implicit:
        return stated if stated.is_transfer_syntax else ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
