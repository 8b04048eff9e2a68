"""Describe every image plane of a DICOM data set as a frame, for all kinds of objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pydicom

from rephase.errors import VolumeError
from rephase.manifests.header import Kind
from rephase.readers.dicom.files import DicomFile, looking_into
from rephase.readers.dicom.headers import (
    Facts,
    HeaderValue,
    acquired_at,
    acquisition_order,
    as_list,
    counted_slices,
    find,
    first_int,
    header_facts,
    kind_of,
    number,
    unit_of_values,
)
from rephase.readers.dicom.kinds import computed_word
from rephase.readers.dicom.mosaic import is_mosaic, mosaic_layout

Vector = tuple[float, float, float]
_MOST_SKEW = 0.02  # cosine of the angle between rows and columns: headers round, but not by a degree
MR_CLASSES = "1.2.840.10008.5.1.4.1.1.4"


@dataclass(frozen=True)
class Frame:
    """One image plane as its header describes it.

    Attributes
    ----------
    file, index, tile
        Location of the pixels: the file, the frame in the file, and in a mosaic the (row, column) of its first pixel.
    rows, columns, spacing_mm, position, row_direction, column_direction
        The plane in LPS mm. `spacing_mm` is (between rows, between columns); the column index grows along
        `row_direction`.
    thickness_mm
        Distance to the next slice by the header; used only for volumes of one slice.
    kind, computed
        What the pixels are, and the word that names a computed quantity.
    series, instance, number
        SeriesInstanceUID, SOPInstanceUID, InstanceNumber.
    te_ms, echo, time
        Echo time, echo number and temporal position (None where the header has none).
    order
        Distinguishes images at one position, in the order of acquisition. Without the instance number, which also
        differs between two copies of one image.
    acquired
        Date and time of acquisition as text, to pair magnitude with phase; leaves the reader only as a hash.
    num_expected
        Number of slices of the volume by the header.
    slope, intercept, unit
        From stored to rescaled values, and the unit of these in capitals, empty where unknown.
    facts
        Of the acquisition.
    """

    file: DicomFile
    index: int
    tile: tuple[int, int] | None
    rows: int
    columns: int
    spacing_mm: tuple[float, float]
    position: Vector
    row_direction: Vector
    column_direction: Vector
    thickness_mm: float
    kind: Kind
    computed: str | None
    series: str
    instance: str
    number: int
    te_ms: float | None
    echo: int | None
    time: int | None
    order: tuple[tuple[float, ...], ...]
    acquired: str
    num_expected: int | None
    slope: float
    intercept: float
    unit: str
    facts: Facts

    @property
    def normal(self) -> Vector:
        """Row direction x column direction: the slice index grows along it."""
        (a, b, c), (d, e, f) = self.row_direction, self.column_direction
        return (b * f - c * e, c * d - a * f, a * e - b * d)

    @property
    def depth_mm(self) -> float:
        """Position along the normal."""
        return sum(p * n for p, n in zip(self.position, self.normal, strict=True))


def frames_of(dataset: pydicom.Dataset, file: DicomFile) -> list[Frame]:
    """Describe every plane of a file from its header.

    Parameters
    ----------
    dataset
        With or without its pixels.
    file
        The file of the data set.

    Raises
    ------
    VolumeError
        `unsupported` for an object without geometry or of unknown kind, `unreadable` for damaged values.
    """
    with looking_into(file):
        if not is_mr(dataset):
            found = str(dataset.get("Modality") or "none")[:16]
            raise VolumeError("unsupported", f"{file}: modality {found}; expected MR; take the row out")
        if "PerFrameFunctionalGroupsSequence" in dataset:
            return _enhanced_frames(dataset, file)
        if is_mosaic(dataset):
            return _mosaic_frames(dataset, file)
        if (number(dataset.get("NumberOfFrames")) or 1) > 1:
            raise VolumeError("unsupported", f"{file}: as_list frames without functional groups; expected Enhanced MR")
        return [_frame(dataset, None, file, 0)]


def is_mr(dataset: pydicom.Dataset) -> bool:
    """Whether the object is an MR image: by its modality, else by its SOP class."""
    modality = str(dataset.get("Modality") or "")
    return modality == "MR" or (not modality and str(dataset.get("SOPClassUID") or "").startswith(MR_CLASSES))


def _enhanced_frames(dataset: pydicom.Dataset, file: DicomFile) -> list[Frame]:
    groups = dataset.PerFrameFunctionalGroupsSequence
    declared = int(dataset.get("NumberOfFrames") or 1)
    if len(groups) != declared:
        raise VolumeError("unreadable", f"{file}: {len(groups)} frame headers for {declared} frames; export it again")
    return [_frame(dataset, group, file, index) for index, group in enumerate(groups)]


def _mosaic_frames(dataset: pydicom.Dataset, file: DicomFile) -> list[Frame]:
    picture = _frame(dataset, None, file, 0)
    layout = mosaic_layout(dataset, picture.rows, picture.columns, picture.normal, str(file))
    rows, columns = layout.tile_shape
    # the position in the header is that of one image of the mosaic's size with the same centre
    half = ((picture.columns - columns) / 2 * picture.spacing_mm[1], (picture.rows - rows) / 2 * picture.spacing_mm[0])
    first = _step(_step(picture.position, picture.row_direction, half[0]), picture.column_direction, half[1])
    frames = []
    for tile in range(layout.num_slices):
        position = _step(first, layout.normal, tile * picture.thickness_mm)
        corner = (tile // layout.grid * rows, tile % layout.grid * columns)
        changed = {"tile": corner, "rows": rows, "columns": columns, "position": position, "num_expected": None}
        frames.append(Frame(**{**picture.__dict__, **changed}))
    return frames


def _step(position: Vector, direction: Vector, length: float) -> Vector:
    x, y, z = (p + length * d for p, d in zip(position, direction, strict=True))
    return (x, y, z)


def _frame(dataset: pydicom.Dataset, group: pydicom.Dataset | None, file: DicomFile, index: int) -> Frame:
    def get(keyword: str, sequence: str | None = None) -> HeaderValue:
        return find(dataset, group, keyword, sequence)

    cosines = _floats(get("ImageOrientationPatient", "PlaneOrientationSequence"), 6, "ImageOrientationPatient", file)
    position = _floats(get("ImagePositionPatient", "PlanePositionSequence"), 3, "ImagePositionPatient", file)
    spacing = _floats(get("PixelSpacing", "PixelMeasuresSequence"), 2, "PixelSpacing", file)
    if min(spacing) <= 0:
        raise VolumeError(
            "unreadable", f"{file}: PixelSpacing {spacing}; expected two positive values in mm; export it again"
        )
    row_direction, column_direction = _unit(cosines[:3], file), _unit(cosines[3:], file)
    if abs(sum(a * b for a, b in zip(row_direction, column_direction, strict=True))) > _MOST_SKEW:
        raise VolumeError("unreadable", f"{file}: rows and columns are not at right angles; export it again")
    image_type = [str(word) for word in as_list(get("FrameType", "MRImageFrameTypeSequence") or get("ImageType"))]
    technique = get("VolumeBasedCalculationTechnique", "MRImageFrameTypeSequence")
    te_ms = number(get("EffectiveEchoTime", "MREchoSequence"))
    facts = header_facts(dataset, group, image_type)
    return Frame(
        file=file, index=index, tile=None,
        rows=int(dataset.Rows), columns=int(dataset.Columns),
        spacing_mm=(spacing[0], spacing[1]),
        position=(position[0], position[1], position[2]),
        row_direction=row_direction, column_direction=column_direction,
        thickness_mm=_thickness(get),
        kind=kind_of(dataset, group, image_type),
        computed=computed_word([*image_type, str(technique or "")]),
        series=str(dataset.get("SeriesInstanceUID") or ""),
        instance=str(dataset.get("SOPInstanceUID") or ""),
        number=int(number(dataset.get("InstanceNumber")) or 0),
        te_ms=facts.te_ms if te_ms is None else te_ms,
        echo=first_int(dataset.get("EchoNumbers")),
        time=first_int(
            get("TemporalPositionIndex", "FrameContentSequence") or dataset.get("TemporalPositionIdentifier")
        ),
        order=acquisition_order(get),
        acquired=acquired_at(dataset, group),
        num_expected=counted_slices(dataset),
        slope=_slope(_rescale("RescaleSlope", get, 1.0)),
        intercept=_rescale("RescaleIntercept", get, 0.0),
        unit=unit_of_values(dataset, group),
        facts=facts,
    )  # fmt: skip


def _thickness(get: Callable[..., HeaderValue]) -> float:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        value = number(get(keyword, "PixelMeasuresSequence"))
        if value:
            return abs(value)
    return 1.0


def _rescale(keyword: str, get: Callable[..., HeaderValue], default: float) -> float:
    """Read a number that scales all pixels; a value that is no number must not become the default."""
    value = get(keyword, "PixelValueTransformationSequence")
    if value is None or value == "":
        return default
    found = number(value)
    if found is None:
        raise ValueError(f"{keyword} {str(value)[:40]}")
    return found


def _slope(value: float) -> float:
    if value == 0:
        raise ValueError("RescaleSlope 0")
    return value


def _floats(value: HeaderValue, count: int, keyword: str, file: DicomFile) -> tuple[float, ...]:
    items = [number(item) for item in as_list(value)]
    found = tuple(item for item in items if item is not None)
    if len(found) != count or len(items) != count:
        shown = "none" if value is None else str(value)[:60]
        raise VolumeError("unsupported", f"{file}: {keyword} is {shown}; expected {count} numbers; export it again")
    return found


def _unit(vector: Sequence[float], file: DicomFile) -> Vector:
    length = math.hypot(*vector)
    if not 0.9 < length < 1.1:
        raise VolumeError(
            "unreadable",
            f"{file}: ImageOrientationPatient of length {length:.3g}; expected unit vectors; export it again",
        )
    x, y, z = vector
    return (x / length, y / length, z / length)
