"""Reads one magnitude volume out of DICOM: classic slices, Enhanced multi-frame objects, Siemens mosaics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom.files import (
    Source,
    combine_digests,
    hash_file,
    list_sources,
    looking_into,
    read_header,
    read_series_uid,
    read_whole,
)
from rephase.readers.dicom.frames import Frame, frames_of, is_mr
from rephase.readers.dicom.geometry import Placement, place_frames
from rephase.readers.dicom.pixels import check_encoding, decode_frames, transfer_syntax
from rephase.readers.dicom.select import select_stack
from rephase.readers.volume import Volume


@dataclass(frozen=True)
class Loaded:
    """A volume's array in the corpus's axes, SHA-256 of each file by source, and what decoding found out."""

    values: NDArray[np.float32]
    digests: dict[Source, bytes]
    found: dict[str, Any] = field(default_factory=dict)


def load_frames(path: str, series: str | None) -> tuple[list[Frame], bool]:
    """Describe the frames of all files of a path; what is no MR image in a folder is left out.

    Parameters
    ----------
    path
        A file, or a folder whose own files count.
    series
        Take only files that say this SeriesInstanceUID. None: every file that promises DICOM must be readable, as it
        may be a slice.

    Returns
    -------
    frames
        In the order of the files.
    is_folder
        Whether `path` is one.

    Raises
    ------
    VolumeError
        Where nothing, or not everything that belongs to it, can be read.
    """
    sources, is_folder = list_sources(path)
    frames: list[Frame] = []
    faults: dict[str, VolumeError] = {}
    bystanders: list[Source] = []
    for source in sources:
        if is_folder and series is not None and read_series_uid(source) != series:
            continue
        dataset = read_header(source)
        if dataset is None and not is_folder:
            raise VolumeError("unreadable", f"{source}: no DICOM image in it; expected MR; correct path or format")
        if dataset is None:
            bystanders.append(source)
            continue
        with looking_into(source):
            uid = str(dataset.get("SeriesInstanceUID") or "")
            if is_folder and not is_mr(dataset):
                fault = VolumeError("unreadable", f"{source}: is no MR image, but of a series of them; copy it again")
                faults.setdefault(uid, fault)
                continue
        try:
            check_encoding(dataset, source)
            frames += frames_of(dataset, source)
        except VolumeError as error:
            faults.setdefault(uid, error)
    for uid, fault in faults.items():
        if not frames or uid in {frame.series for frame in frames}:
            raise fault
    _refuse_lost_slices(bystanders, frames)
    return frames, is_folder


def _refuse_lost_slices(bystanders: Sequence[Source], frames: Sequence[Frame]) -> None:
    """Refuse what is named as slices are and cannot be read as one: a stack that ends early looks like a whole one."""
    patterns = {_name_pattern(frame.source) for frame in frames}
    for source in bystanders:
        if _name_pattern(source) in patterns and not source.has_dicom_name:
            raise VolumeError(
                "unreadable", f"{source}: is named like the slices beside it but is no image; copy it again"
            )


def _name_pattern(source: Source) -> str:
    """A file's name without its numbers, in decimal or hexadecimal digits."""
    return re.sub("[0-9a-f]+", "#", source.path.rsplit("/", 1)[-1].lower())


def sources_of(placement: Placement) -> list[Source]:
    """List the files of a volume in slice order, each once."""
    return list(dict.fromkeys(frame.source for frame in placement.frames))


def load_values(placement: Placement, limit_bytes: int | None, name: str) -> Loaded:
    """Decode a volume.

    Parameters
    ----------
    placement
        Frames in slice order.
    limit_bytes
        Largest array and largest unpacked file.
    name
        For messages.

    Raises
    ------
    VolumeError
        `too_large`, before anything is decoded; `unreadable`; `unsupported`.
    """
    _check_size(placement, limit_bytes, name)
    first = placement.frames[0]
    stacked = np.empty((len(placement.frames), first.rows, first.columns), np.float32)
    slots: dict[Source, list[int]] = {}
    for slot, frame in enumerate(placement.frames):
        slots.setdefault(frame.source, []).append(slot)
    digests, num_padding, syntax = {}, 0, ""
    for source, places in slots.items():
        dataset, digests[source] = read_whole(source, limit_bytes)
        planes = decode_frames(dataset, [placement.frames[place] for place in places])
        stacked[places] = planes.values
        num_padding += planes.num_padding
        with looking_into(source):
            syntax = str(transfer_syntax(dataset).keyword or transfer_syntax(dataset).name)
    found: dict[str, Any] = {"transfer_syntax": syntax, "num_files": len(slots)}
    if num_padding:
        found["padding_pixels"] = num_padding
    values = np.ascontiguousarray(stacked.swapaxes(1, 2)) if placement.transposed else stacked
    return Loaded(values, digests, found)


def _check_size(placement: Placement, limit_bytes: int | None, name: str) -> None:
    size = 4 * int(np.prod(placement.shape, dtype=np.int64))
    if limit_bytes is not None and size > limit_bytes:
        shape = "x".join(str(length) for length in placement.shape)
        raise VolumeError(
            "too_large", f"{name}: {shape} needs {size} bytes, the limit is {limit_bytes}; give workers more memory"
        )


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
    placement = place_magnitude(row)
    loaded = load_values(placement, limit_bytes, row.path)
    first = placement.frames[0]
    facts = first.facts
    return Volume(
        magnitude=loaded.values,
        spacing_mm=placement.spacing_mm,
        affine=placement.affine,
        orientation=placement.orientation,
        transposed=placement.transposed,
        phase_encode=placement.phase_encode,
        source_sha256=combine_digests(list(loaded.digests.values())),
        te_ms=row.te_ms if row.te_ms is not None else first.te_ms or None,
        field_t=row.field_t if row.field_t is not None else facts.field_t,
        contrast=row.contrast or facts.contrast,
        anatomy=row.anatomy or facts.anatomy,
        acquisition={**facts.acquisition, **loaded.found, "source_format": "dicom", "mosaic": first.tile is not None},
    )


def describe_dicom(row: ManifestRow) -> tuple[int, int, int]:
    """Say the shape (slices, height, width) of the volume that a row names, from headers alone.

    Raises
    ------
    VolumeError
        As `read_dicom`, as far as headers tell.
    """
    return place_magnitude(row).shape


def hash_dicom(row: ManifestRow) -> str:
    """Say the `source_sha256` of the volume that a row names without decoding a pixel.

    Raises
    ------
    VolumeError
        As `describe_dicom`.
    """
    return combine_digests([hash_file(source) for source in sources_of(place_magnitude(row))])


def place_magnitude(row: ManifestRow) -> Placement:
    """Find the frames of the volume that a row names, from headers alone.

    Raises
    ------
    VolumeError
        As `describe_dicom`.
    """
    if row.slice_axis not in (None, 0):
        found = f"slice_axis {row.slice_axis}"
        raise VolumeError("unsupported", f"{row.path}: {found}; slices of DICOM are its images; leave the column empty")
    frames, is_folder = load_frames(row.path, row.series)
    # Who names one file of a series wants that slice; who names the folder wants the series whole.
    return place_frames(select_stack(frames, row).frames, row.path, all_files=is_folder)
