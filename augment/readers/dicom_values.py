"""Single facts of a frame that vendors write in different places: its kind, unit, time and place in a series."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pydicom

from augment.readers.dicom_headers import HeaderValue, find, number
from augment.readers.dicom_kinds import frame_kind
from manifests.header import Kind


def kind_of(dataset: pydicom.Dataset, group: pydicom.Dataset | None, image_type: Sequence[str]) -> Kind:
    """Say what the pixels of a frame are, from all that its header tells."""
    component = find(dataset, group, "ComplexImageComponent", "MRImageFrameTypeSequence")
    ge_type = dataset.private_block(0x43, "GEMS_PARM_01")[0x2F].value if _has_ge_type(dataset) else None
    ge_number = whole(ge_type)
    return frame_kind(
        image_type, component, unit_of_values(dataset, group), ge_number, str(dataset.get("SeriesDescription") or "")
    )


def unit_of_values(dataset: pydicom.Dataset, group: pydicom.Dataset | None) -> str:
    """Unit of the rescaled values; a code of "1" or "US" says none."""
    unit = str(find(dataset, group, "RescaleType", "PixelValueTransformationSequence") or "US").upper()
    mapping = find(dataset, group, "MeasurementUnitsCodeSequence", "RealWorldValueMappingSequence")
    if mapping and unit in ("US", "NORMALIZED", "UNSPECIFIED"):
        unit = str(mapping[0].get("CodeValue") or "").upper()
    return "" if unit in ("US", "1", "NORMALIZED", "UNSPECIFIED") else unit


def _has_ge_type(dataset: pydicom.Dataset) -> bool:
    try:
        return 0x2F in dataset.private_block(0x43, "GEMS_PARM_01")
    except KeyError:
        return False


def counted_slices(dataset: pydicom.Dataset) -> int | None:
    """Number of slices that a Philips classic header says its volume has; other headers do not say it."""
    if "PerFrameFunctionalGroupsSequence" in dataset:
        return None
    try:
        return whole(dataset.private_block(0x2001, "Philips Imaging DD 001")[0x18].value)
    except KeyError:
        return None


def acquisition_order(get: Callable[..., HeaderValue]) -> tuple[tuple[float, ...], ...]:
    """Everything that may differ between two real images of one position and echo, most telling first."""
    direction = get("DiffusionGradientOrientation", "MRDiffusionSequence")
    when = f"{get('AcquisitionDate') or ''}{get('AcquisitionTime') or ''}" or str(get("AcquisitionDateTime") or "")
    return (
        _key(get("AcquisitionNumber")),
        _key(get("DiffusionBValue", "MRDiffusionSequence")),
        _key(direction),
        _key(get("InversionTimes", "MRModifierSequence") or get("InversionTime")),
        _key(get("NominalCardiacTriggerDelayTime", "CardiacSynchronizationSequence") or get("TriggerTime")),
        _key(get("FrameAcquisitionNumber", "FrameContentSequence")),
        _key("".join(c for c in when if c.isdigit() or c == ".")),
        _key(get("DimensionIndexValues", "FrameContentSequence")),
    )


def _key(value: HeaderValue) -> tuple[float, ...]:
    return tuple(found for item in several(value) if (found := number(item)) is not None)


def acquired_at(dataset: pydicom.Dataset, group: pydicom.Dataset | None) -> str:
    """Date and time of acquisition as written, empty where they were removed."""
    frame_time = find(dataset, group, "FrameAcquisitionDateTime", "FrameContentSequence")
    parts = (dataset.get("AcquisitionDate"), dataset.get("AcquisitionTime"))
    return str(frame_time or dataset.get("AcquisitionDateTime") or "".join(str(part) for part in parts if part))


def several(value: HeaderValue) -> list[HeaderValue]:
    """Values of an element as a list, whether it has none, one or more."""
    if value is None or isinstance(value, (str, bytes, int, float)):
        return [] if value is None or value == "" else [value]
    return list(value) if hasattr(value, "__iter__") else [value]


def whole(value: HeaderValue) -> int | None:
    """First value as a whole number, None where there is none."""
    items = [number(item) for item in several(value)]
    return int(items[0]) if items and items[0] is not None else None
