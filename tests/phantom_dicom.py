"""DICOM phantoms whose pixel values encode positions: value = 2000 + 3x + 5y + 7z at a patient position in mm."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
_angle = np.deg2rad(20.0)
OBLIQUE = (1.0, 0.0, 0.0, 0.0, float(np.cos(_angle)), float(np.sin(_angle)))
ROWS, COLUMNS = 6, 8
SPACING = (2.0, 1.0)
STEP = 4.0
ORIGIN = (-20.0, 10.0, -30.0)
SERIES = "1.2.826.0.1.3680043.8.498.1"
PERSON = {"PatientName": "Doe^Jane", "PatientID": "ID-4711", "PatientBirthDate": "19700102"}


def value_at(position: NDArray[Any]) -> NDArray[Any]:
    """Return the phantom's values at LPS positions `(..., 3)`."""
    return 2000 + position @ np.array([3.0, 5.0, 7.0])


def plane(position: NDArray[Any], cosines: tuple[float, ...], rows: int = ROWS, columns: int = COLUMNS) -> NDArray[Any]:
    """Return the values of one plane whose first pixel is at `position`."""
    down, right = np.array(cosines[3:]) * SPACING[0], np.array(cosines[:3]) * SPACING[1]
    i, j = np.mgrid[:rows, :columns]
    return value_at(position + i[..., None] * down + j[..., None] * right)


def slice_position(index: float, cosines: tuple[float, ...] = AXIAL) -> NDArray[Any]:
    """Return the position of slice `index`; slices advance along row x column direction."""
    return np.array(ORIGIN) + index * STEP * np.cross(cosines[:3], cosines[3:])


def header(sop_class: UID = MRImageStorage, **elements: Any) -> Dataset:
    """Return a header with the elements of every phantom; `elements` override them, None removes one."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    dataset.Modality, dataset.Manufacturer = "MR", "SIEMENS"
    dataset.InstitutionName, dataset.StudyDate, dataset.DeviceSerialNumber = "St. Elsewhere", "20200304", "SN99"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.9", SERIES
    dataset.AcquisitionTime = "101112"
    dataset.MagneticFieldStrength = 3
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    for name, value in PERSON.items():
        setattr(dataset, name, value)
    _update(dataset, elements)
    return dataset


def classic(
    index: float, cosines: tuple[float, ...] = AXIAL, stored: NDArray[Any] | None = None, **elements: Any
) -> Dataset:
    """Return one slice as a classic MR image."""
    position = slice_position(index, cosines)
    dataset = header(MRImageStorage)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [float(p) for p in position], list(cosines)
    dataset.PixelSpacing, dataset.SliceThickness = list(SPACING), 3
    dataset.EchoTime, dataset.EchoNumbers, dataset.InstanceNumber = 20, 1, int(index) + 1
    set_pixels(dataset, np.rint(plane(position, cosines)) if stored is None else stored)
    _update(dataset, elements)
    return dataset


def set_pixels(dataset: Dataset, stored: NDArray[Any]) -> None:
    """Set stored values unchanged."""
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dtype = f"<{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}"
    dataset.PixelData = stored.astype(dtype).tobytes()


def enhanced(frames: list[dict[str, Any]], cosines: tuple[float, ...] = AXIAL, **elements: Any) -> Dataset:
    """Return an Enhanced MR image; a frame may have index, type, component, te, time, slope, intercept, unit, add."""
    dataset = header(EnhancedMRImageStorage)
    dataset.ImageType, dataset.NumberOfFrames = ["ORIGINAL", "PRIMARY", "T1", "MIXED"], len(frames)
    dataset.Manufacturer, dataset.InstanceNumber = "Philips", 1
    shared = Dataset()
    shared.MRFOVGeometrySequence = _item(
        InPlanePhaseEncodingDirection="ROW", MRAcquisitionFrequencyEncodingSteps=6,
        MRAcquisitionPhaseEncodingStepsInPlane=5, PercentSampling=80,
    )  # fmt: skip
    shared.PixelMeasuresSequence = _item(PixelSpacing=list(SPACING), SliceThickness=3)
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=list(cosines))
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    dataset.PerFrameFunctionalGroupsSequence = Items([_functional_groups(frame, cosines) for frame in frames])
    _index(dataset, frames)
    values = [plane(slice_position(frame["index"], cosines), cosines) + frame.get("add", 0) for frame in frames]
    set_pixels(dataset, np.rint(np.stack(values)))
    _update(dataset, elements)
    return dataset


def mosaic(num_slices: int, csa_sign: float = 1.0, cosines: tuple[float, ...] = AXIAL, **elements: Any) -> Dataset:
    """Return a Siemens mosaic; with `csa_sign` -1 the private header states tiles against the plane's normal."""
    grid = int(np.ceil(np.sqrt(num_slices)))
    normal = np.cross(cosines[:3], cosines[3:])
    picture = np.zeros((grid * ROWS, grid * COLUMNS))
    for tile in range(num_slices):
        top, left = tile // grid * ROWS, tile % grid * COLUMNS
        position = np.array(ORIGIN) + tile * STEP * csa_sign * normal
        picture[top : top + ROWS, left : left + COLUMNS] = plane(position, cosines)
    dataset = classic(0, cosines, stored=np.rint(picture))
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    dataset.SpacingBetweenSlices = STEP
    corner = (
        np.array(ORIGIN)
        - np.array(cosines[:3]) * SPACING[1] * (picture.shape[1] - COLUMNS) / 2
        - np.array(cosines[3:]) * SPACING[0] * (picture.shape[0] - ROWS) / 2
    )
    dataset.ImagePositionPatient = [float(c) for c in corner]
    block = dataset.private_block(0x29, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", _csa({"NumberOfImagesInMosaic": ("US", [str(num_slices)]),
                                    "SliceNormalVector": ("FD", [f"{c:.8f}" for c in csa_sign * normal])}))  # fmt: skip
    _update(dataset, elements)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write a data set, compressed if the name ends in `.gz`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    dataset.save_as(plain, enforce_file_format=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


def save_series(folder: Path, datasets: list[Dataset], prefix: str = "im") -> Path:
    """Write slices under names unrelated to their order."""
    for number, dataset in enumerate(datasets):
        save(dataset, folder / f"{prefix}{(number * 7) % 97:03d}.dcm")
    return folder


def _functional_groups(frame: dict[str, Any], cosines: tuple[float, ...]) -> Dataset:
    group = Dataset()
    position = [float(p) for p in slice_position(frame["index"], cosines)]
    group.PlanePositionSequence = _item(ImagePositionPatient=position)
    group.MREchoSequence = _item(EffectiveEchoTime=float(frame.get("te", 5.0)))
    group.MRImageFrameTypeSequence = _item(
        FrameType=["ORIGINAL", "PRIMARY", "T1", frame.get("type", "M")],
        ComplexImageComponent=frame.get("component", "MAGNITUDE"), AcquisitionContrast="T1",
    )  # fmt: skip
    group.FrameContentSequence = _item(
        TemporalPositionIndex=frame.get("time", 1), FrameAcquisitionDateTime="20200304101112"
    )
    group.PixelValueTransformationSequence = _item(
        RescaleSlope=frame.get("slope", 1), RescaleIntercept=frame.get("intercept", 0),
        RescaleType=frame.get("unit", "US"),
    )  # fmt: skip
    return group


def _index(dataset: Dataset, frames: list[dict[str, Any]]) -> None:
    """Number the frames along each dimension, as the standard requires."""
    types, times = (list(dict.fromkeys(frame.get(*key) for frame in frames)) for key in (("type", "M"), ("te", 5.0)))
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        content = group.FrameContentSequence[0]
        content.StackID, content.InStackPositionNumber = "1", frame["index"] + 1
        content.DimensionIndexValues = [
            1, frame["index"] + 1, frame.get("time", 1), sorted(times).index(frame.get("te", 5.0)) + 1,
            types.index(frame.get("type", "M")) + 1,
        ]  # fmt: skip
    pointers = ((0x00209056, 0x00209111), (0x00209057, 0x00209111), (0x00209128, 0x00209111), (0x00189082, 0x00189114),
                (0x00089208, 0x00189226))  # fmt: skip
    dataset.DimensionIndexSequence = Items(
        [_item(DimensionIndexPointer=pointer, FunctionalGroupPointer=group)[0] for pointer, group in pointers]
    )


def _item(**elements: Any) -> Items:
    item = Dataset()
    _update(item, elements)
    return Items([item])


def _update(dataset: Dataset, elements: dict[str, Any]) -> None:
    for keyword, value in elements.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)


def _csa(tags: dict[str, tuple[str, list[str]]]) -> bytes:
    """Return a Siemens CSA2 header, as described in the SPM sources."""
    out = b"SV10" + b"\x04\x03\x02\x01" + struct.pack("<II", len(tags), 77)
    for name, (vr, items) in tags.items():
        out += struct.pack("<64si4s3i", name.encode(), len(items), vr.encode(), 0, len(items), 77)
        for item in items:
            text = item.encode() + b"\0"
            out += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + b"\0" * (-len(text) % 4)
    return out
