"""Turns a DICOM data set into frames: one record for every image plane in a file, whatever kind of object it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pydicom

from rephase.errors import VolumeError
from rephase.manifests.header import Kind
from rephase.readers.dicom.files import Source, looking_into
from rephase.readers.dicom.headers import (
    Facts,
    HeaderValue,
    acquired_at,
    acquisition_order,
    counted_slices,
    find,
    header_facts,
    kind_of,
    number,
    several,
    unit_of_values,
    whole,
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
    source, index, tile
        Where its pixels are: the file, the frame in the file, and in a mosaic the (row, column) of its first pixel.
    rows, columns, spacing_mm, position, row_direction, column_direction
        The plane in LPS mm. `spacing_mm` is (between rows, between columns); `row_direction` is the way in which the
        column index grows.
    thickness_mm
        Distance to the next slice as the header has it; used only where a volume has one slice.
    kind, computed
        What the pixels are, and the word that names a computed quantity.
    series, instance, number
        SeriesInstanceUID, SOPInstanceUID, InstanceNumber.
    te_ms, echo, time
        Echo time, echo number and temporal position (None where the header has none).
    order
        What tells images at one position apart, in the order of acquisition: never the instance number, which also
        differs between two copies of one image.
    acquired
        Date and time of acquisition as written, to pair magnitude with phase; never leaves the reader but as hash.
    num_expected
        Slices that the header says the volume has.
    slope, intercept, unit
        From stored to rescaled values, and the unit of these in capitals where the header has one.
    facts
        Of the acquisition.
    """

    source: Source
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
        """Row direction x column direction: the way in which the slice index is to grow."""
        (a, b, c), (d, e, f) = self.row_direction, self.column_direction
        return (b * f - c * e, c * d - a * f, a * e - b * d)

    @property
    def depth_mm(self) -> float:
        """Position along the normal."""
        return sum(p * n for p, n in zip(self.position, self.normal, strict=True))


def frames_of(dataset: pydicom.Dataset, source: Source) -> list[Frame]:
    """Describe every plane of a file from its header.

    Parameters
    ----------
    dataset
        With or without its pixels.
    source
        The file it came from.

    Raises
    ------
    VolumeError
        `unsupported` where an object has no geometry or is of an unknown kind, `unreadable` where its values make no
        sense.
    """
    with looking_into(source):
        if not is_mr(dataset):
            found = str(dataset.get("Modality") or "none")[:16]
            raise VolumeError("unsupported", f"{source}: modality {found}; expected MR; take the row out")
        if "PerFrameFunctionalGroupsSequence" in dataset:
            return _enhanced_frames(dataset, source)
        if is_mosaic(dataset):
            return _mosaic_frames(dataset, source)
        if (number(dataset.get("NumberOfFrames")) or 1) > 1:
            raise VolumeError(
                "unsupported", f"{source}: several frames without functional groups; expected Enhanced MR"
            )
        return [_frame(dataset, None, source, 0)]


def is_mr(dataset: pydicom.Dataset) -> bool:
    """Whether the object is an MR image; one that does not say its modality is taken at its object class."""
    modality = str(dataset.get("Modality") or "")
    return modality == "MR" or (not modality and str(dataset.get("SOPClassUID") or "").startswith(MR_CLASSES))


def _enhanced_frames(dataset: pydicom.Dataset, source: Source) -> list[Frame]:
    groups = dataset.PerFrameFunctionalGroupsSequence
    declared = int(dataset.get("NumberOfFrames") or 1)
    if len(groups) != declared:
        raise VolumeError("unreadable", f"{source}: {len(groups)} frame headers for {declared} frames; export it again")
    return [_frame(dataset, group, source, index) for index, group in enumerate(groups)]


def _mosaic_frames(dataset: pydicom.Dataset, source: Source) -> list[Frame]:
    whole = _frame(dataset, None, source, 0)
    layout = mosaic_layout(dataset, whole.rows, whole.columns, whole.normal, str(source))
    rows, columns = layout.tile_shape
    # The header's position is that of a single image as large as the mosaic around the same centre.
    half = ((whole.columns - columns) / 2 * whole.spacing_mm[1], (whole.rows - rows) / 2 * whole.spacing_mm[0])
    first = _step(_step(whole.position, whole.row_direction, half[0]), whole.column_direction, half[1])
    frames = []
    for tile in range(layout.num_slices):
        position = _step(first, layout.normal, tile * whole.thickness_mm)
        corner = (tile // layout.grid * rows, tile % layout.grid * columns)
        changed = {"tile": corner, "rows": rows, "columns": columns, "position": position, "num_expected": None}
        frames.append(Frame(**{**whole.__dict__, **changed}))
    return frames


def _step(position: Vector, direction: Vector, length: float) -> Vector:
    x, y, z = (p + length * d for p, d in zip(position, direction, strict=True))
    return (x, y, z)


def _frame(dataset: pydicom.Dataset, group: pydicom.Dataset | None, source: Source, index: int) -> Frame:
    def get(keyword: str, sequence: str | None = None) -> HeaderValue:
        return find(dataset, group, keyword, sequence)

    cosines = _floats(get("ImageOrientationPatient", "PlaneOrientationSequence"), 6, "ImageOrientationPatient", source)
    position = _floats(get("ImagePositionPatient", "PlanePositionSequence"), 3, "ImagePositionPatient", source)
    spacing = _floats(get("PixelSpacing", "PixelMeasuresSequence"), 2, "PixelSpacing", source)
    if min(spacing) <= 0:
        raise VolumeError("unreadable", f"{source}: PixelSpacing {spacing}; expected two positive values in mm")
    row_direction, column_direction = _unit(cosines[:3], source), _unit(cosines[3:], source)
    if abs(sum(a * b for a, b in zip(row_direction, column_direction, strict=True))) > _MOST_SKEW:
        raise VolumeError("unreadable", f"{source}: rows and columns are not at right angles; export it again")
    image_type = [str(word) for word in several(get("FrameType", "MRImageFrameTypeSequence") or get("ImageType"))]
    technique = get("VolumeBasedCalculationTechnique", "MRImageFrameTypeSequence")
    te_ms = number(get("EffectiveEchoTime", "MREchoSequence"))
    facts = header_facts(dataset, group, image_type)
    return Frame(
        source=source, index=index, tile=None,
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
        echo=whole(dataset.get("EchoNumbers")),
        time=whole(get("TemporalPositionIndex", "FrameContentSequence") or dataset.get("TemporalPositionIdentifier")),
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
    """Read a number that every pixel depends on: one that is there and is no number must not become the default."""
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


def _floats(value: HeaderValue, count: int, keyword: str, source: Source) -> tuple[float, ...]:
    items = [number(item) for item in several(value)]
    found = tuple(item for item in items if item is not None)
    if len(found) != count or len(items) != count:
        shown = "none" if value is None else str(value)[:60]
        raise VolumeError("unsupported", f"{source}: {keyword} is {shown}; expected {count} numbers; export it again")
    return found


def _unit(vector: Sequence[float], source: Source) -> Vector:
    length = math.hypot(*vector)
    if not 0.9 < length < 1.1:
        raise VolumeError(
            "unreadable", f"{source}: ImageOrientationPatient of length {length:.3g}; expected unit vectors"
        )
    x, y, z = vector
    return (x / length, y / length, z / length)
