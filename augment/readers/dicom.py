"""Reads one magnitude volume out of DICOM: classic slices, Enhanced multi-frame objects, Siemens mosaics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from augment.errors import VolumeError
from augment.readers.dicom_files import (
    Source,
    combine_digests,
    hash_file,
    list_sources,
    read_header,
    read_series_uid,
    read_whole,
)
from augment.readers.dicom_frames import Frame, frames_of, is_mr
from augment.readers.dicom_geometry import Placement, place_frames
from augment.readers.dicom_pixels import check_encoding, decode_frames, transfer_syntax
from augment.readers.dicom_select import select_stack
from augment.volume import Volume
from manifests.record import ManifestRow


def read_dicom(row: ManifestRow, limit_bytes: int | None = None) -> Volume:
    """Read the magnitude volume that a row names.

    Parameters
    ----------
    row
        `path` is a file or a folder; of a folder, the files directly in it. `series`, `echo` (the header's number where
        these are distinct, else 1, 2, ... by echo time) and `frame` (0-based) choose where there are several.
    limit_bytes
        Largest volume (as float32) and largest unpacked file; known from the header before anything is decoded.

    Raises
    ------
    VolumeError
        With one line that names the file or folder, what is wrong with it and how to mend it.
    """
    placement = _find_volume(row)
    _check_size(placement, limit_bytes, row.path)
    magnitude, acquisition, digests = _read_planes(placement, limit_bytes)
    if placement.transposed:
        magnitude = np.ascontiguousarray(magnitude.swapaxes(1, 2))
    first = placement.frames[0]
    facts = first.facts
    return Volume(
        magnitude=magnitude,
        spacing_mm=placement.spacing_mm,
        affine=placement.affine,
        orientation=placement.orientation,
        transposed=placement.transposed,
        phase_encode=placement.phase_encode,
        source_sha256=combine_digests(digests),
        te_ms=row.te_ms if row.te_ms is not None else first.te_ms or None,
        field_t=row.field_t if row.field_t is not None else facts.field_t,
        contrast=row.contrast or facts.contrast,
        anatomy=row.anatomy or facts.anatomy,
        acquisition=acquisition,
    )


def describe_dicom(row: ManifestRow) -> tuple[int, int, int]:
    """Say the shape (slices, height, width) of the volume that a row names, from headers alone.

    Raises
    ------
    VolumeError
        As `read_dicom`, as far as headers tell.
    """
    return _find_volume(row).shape


def hash_dicom(row: ManifestRow) -> str:
    """Say the `source_sha256` of the volume that a row names without decoding a pixel.

    Raises
    ------
    VolumeError
        As `describe_dicom`.
    """
    return combine_digests([hash_file(source) for source in _sources(_find_volume(row).frames)])


def _find_volume(row: ManifestRow) -> Placement:
    if row.slice_axis not in (None, 0):
        raise VolumeError(
            "unsupported",
            f"{row.path}: slice_axis {row.slice_axis}; DICOM slices are the images themselves; leave it empty",
        )
    frames, is_folder = _all_frames(row)
    # Who names one file of a series wants that slice; who names the folder wants the series whole.
    return place_frames(select_stack(frames, row).frames, row.path, all_files=is_folder)


def _all_frames(row: ManifestRow) -> tuple[list[Frame], bool]:
    """Frames of all files of the row's path, and whether it is a folder; what is no MR image in it is left out.

    A row that names its series asks only for the files that say so; without it every file that promises DICOM must be
    readable, as it may be a slice.
    """
    sources, is_folder = list_sources(row.path)
    frames: list[Frame] = []
    faults: dict[str, VolumeError] = {}
    for source in sources:
        if is_folder and row.series is not None and read_series_uid(source) != row.series:
            continue
        dataset = read_header(source)
        if dataset is None and not is_folder:
            raise VolumeError("unreadable", f"{source}: no DICOM image in it; expected MR; correct path or format")
        if dataset is None or (is_folder and not is_mr(dataset)):
            continue
        try:
            check_encoding(dataset, source)
            frames += frames_of(dataset, source)
        except VolumeError as error:
            faults.setdefault(str(dataset.get("SeriesInstanceUID") or ""), error)
    for series, fault in faults.items():
        if not frames or series in {frame.series for frame in frames}:
            raise fault
    return frames, is_folder


def _check_size(placement: Placement, limit_bytes: int | None, name: str) -> None:
    size = 4 * int(np.prod(placement.shape, dtype=np.int64))
    if limit_bytes is not None and size > limit_bytes:
        shape = "x".join(str(length) for length in placement.shape)
        raise VolumeError(
            "too_large", f"{name}: {shape} needs {size} bytes, the limit is {limit_bytes}; give workers more memory"
        )


def _read_planes(
    placement: Placement, limit_bytes: int | None
) -> tuple[NDArray[np.float32], dict[str, Any], list[bytes]]:
    first = placement.frames[0]
    stacked = np.empty((len(placement.frames), first.rows, first.columns), np.float32)
    slots: dict[Source, list[int]] = {}
    for slot, frame in enumerate(placement.frames):
        slots.setdefault(frame.source, []).append(slot)
    digests, num_padding, acquisition = [], 0, dict(first.facts.acquisition)
    for source, places in slots.items():
        dataset, digest = read_whole(source, limit_bytes)
        planes = decode_frames(dataset, [placement.frames[place] for place in places])
        stacked[places] = planes.values
        num_padding += planes.num_padding
        digests.append(digest)
        acquisition["transfer_syntax"] = _syntax_name(dataset)
    acquisition |= {"source_format": "dicom", "num_files": len(slots), "mosaic": first.tile is not None}
    if num_padding:
        acquisition["padding_pixels"] = num_padding
    return stacked, acquisition, digests


def _syntax_name(dataset: pydicom.Dataset) -> str:
    syntax = transfer_syntax(dataset)
    return str(syntax.keyword or syntax.name)


def _sources(frames: tuple[Frame, ...]) -> list[Source]:
    return list(dict.fromkeys(frame.source for frame in frames))
