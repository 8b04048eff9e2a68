"""Read one magnitude volume from DICOM: classic slices, Enhanced multi-frame objects, Siemens mosaics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.facts import known_facts
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom.files import (
    DicomFile,
    combine_digests,
    hash_file,
    list_files,
    looking_into,
    read_header,
    read_series_uid,
    read_whole,
)
from rephase.readers.dicom.frames import Frame, frames_of, is_mr
from rephase.readers.dicom.geometry import SliceStack, stack_frames
from rephase.readers.dicom.pixels import check_encoding, decode_frames, transfer_syntax
from rephase.readers.dicom.select import select_volume
from rephase.readers.volume import Volume


@dataclass(frozen=True)
class Loaded:
    """A volume's array in the corpus's axes, SHA-256 of each file, and facts known after decoding."""

    values: NDArray[np.float32]
    digests: dict[DicomFile, bytes]
    found: dict[str, Any] = field(default_factory=dict)


def load_frames(path: str, series: str | None) -> tuple[list[Frame], bool]:
    """Describe the frames of all files of a path; non-image files of a folder are ignored.

    Parameters
    ----------
    path
        A file, or a folder without its sub-folders.
    series
        Only files of this SeriesInstanceUID. None: every file that looks like DICOM must be readable, as it may be a
        slice.

    Returns
    -------
    frames
        In the order of the files.
    is_folder
        Whether `path` is one.

    Raises
    ------
    VolumeError
        Where a file that may belong to the volume cannot be read.
    """
    files, is_folder = list_files(path)
    frames: list[Frame] = []
    problems: dict[str, VolumeError] = {}
    non_image_files: list[DicomFile] = []
    for file in files:
        if is_folder and series is not None and read_series_uid(file) != series:
            continue
        dataset = read_header(file)
        if dataset is None and not is_folder:
            raise VolumeError("unreadable", f"{file}: has no DICOM image; expected MR; correct path or format")
        if dataset is None:
            non_image_files.append(file)
            continue
        with looking_into(file):
            uid = str(dataset.get("SeriesInstanceUID") or "")
            if is_folder and not is_mr(dataset):
                problem = VolumeError(
                    "unreadable", f"{file}: is no MR image but belongs to a series of them; expected MR; copy it again"
                )
                problems.setdefault(uid, problem)
                continue
        try:
            check_encoding(dataset, file)
            frames += frames_of(dataset, file)
        except VolumeError as error:
            problems.setdefault(uid, error)
    for uid, problem in problems.items():
        if not frames or uid in {frame.series for frame in frames}:
            raise problem
    _refuse_lost_slices(non_image_files, frames)
    return frames, is_folder


def _refuse_lost_slices(non_image_files: Sequence[DicomFile], frames: Sequence[Frame]) -> None:
    """Refuse a non-image file that is named like the slices: a stack that ends early looks like a complete one."""
    patterns = {_name_pattern(frame.file) for frame in frames}
    for file in non_image_files:
        if _name_pattern(file) in patterns and not file.has_dicom_name:
            raise VolumeError(
                "unreadable", f"{file}: is named like the slices but is no image; expected a slice; copy it again"
            )


def _name_pattern(file: DicomFile) -> str:
    """Return a file's name without its numbers, decimal or hexadecimal."""
    return re.sub("[0-9a-f]+", "#", file.path.rsplit("/", 1)[-1].lower())


def files_of(stack: SliceStack) -> list[DicomFile]:
    """List the files of a volume in slice order, each once."""
    return list(dict.fromkeys(frame.file for frame in stack.frames))


def load_values(stack: SliceStack, limit_bytes: int | None, name: str) -> Loaded:
    """Decode a volume.

    Parameters
    ----------
    stack
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
    _check_size(stack, limit_bytes, name)
    first = stack.frames[0]
    stacked = np.empty((len(stack.frames), first.rows, first.columns), np.float32)
    slots: dict[DicomFile, list[int]] = {}
    for slot, frame in enumerate(stack.frames):
        slots.setdefault(frame.file, []).append(slot)
    digests, num_padding, syntax = {}, 0, ""
    for file, places in slots.items():
        dataset, digests[file] = read_whole(file, limit_bytes)
        planes = decode_frames(dataset, [stack.frames[place] for place in places])
        stacked[places] = planes.values
        num_padding += planes.num_padding
        with looking_into(file):
            syntax = str(transfer_syntax(dataset).keyword or transfer_syntax(dataset).name)
    found: dict[str, Any] = {"transfer_syntax": syntax, "num_files": len(slots)}
    if num_padding:
        found["padding_pixels"] = num_padding
    values = np.ascontiguousarray(stacked.swapaxes(1, 2)) if stack.transposed else stacked
    return Loaded(values, digests, found)


def _check_size(stack: SliceStack, limit_bytes: int | None, name: str) -> None:
    size = 4 * int(np.prod(stack.shape, dtype=np.int64))
    if limit_bytes is not None and size > limit_bytes:
        shape = "x".join(str(length) for length in stack.shape)
        raise VolumeError(
            "too_large", f"{name}: {shape} needs {size} bytes; expected at most {limit_bytes}; give workers more memory"
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
        With one line: the file or folder, the problem and its fix.
    """
    stack = stack_magnitude(row)
    loaded = load_values(stack, limit_bytes, row.path)
    first = stack.frames[0]
    facts = first.facts
    return Volume(
        magnitude=loaded.values,
        spacing_mm=stack.spacing_mm,
        affine=stack.affine,
        orientation=stack.orientation,
        transposed=stack.transposed,
        phase_encode=stack.phase_encode,
        source_sha256=combine_digests(list(loaded.digests.values())),
        **known_facts(row, replace(facts, te_ms=first.te_ms or None)),
        acquisition={**facts.acquisition, **loaded.found, "source_format": "dicom", "mosaic": first.tile is not None},
    )


def describe_dicom(row: ManifestRow) -> tuple[int, int, int]:
    """Return the shape (slices, height, width) of the volume that a row names, from headers alone.

    Raises
    ------
    VolumeError
        As `read_dicom`, as far as headers show.
    """
    return stack_magnitude(row).shape


def hash_dicom(row: ManifestRow) -> str:
    """Return the `source_sha256` of the volume that a row names, without decoding pixels.

    Raises
    ------
    VolumeError
        As `describe_dicom`.
    """
    return combine_digests([hash_file(file) for file in files_of(stack_magnitude(row))])


def stack_magnitude(row: ManifestRow) -> SliceStack:
    """Find the frames of the volume that a row names, from headers alone.

    Raises
    ------
    VolumeError
        As `describe_dicom`.
    """
    if row.slice_axis not in (None, 0):
        found = f"slice_axis {row.slice_axis}"
        raise VolumeError(
            "unsupported", f"{row.path}: {found}; slices of DICOM are its images; expected an empty cell; clear it"
        )
    frames, is_folder = load_frames(row.path, row.series)
    # a row that names one file of a series means that slice; one that names the folder, the whole series
    return stack_frames(select_volume(frames, row).frames, row.path, all_files=is_folder)
