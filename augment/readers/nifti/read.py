"""Read one magnitude volume from a NIfTI file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.manifests.header import KINDS
from rephase.manifests.record import ManifestRow
from rephase.readers.geometry import Arrangement, arranged_volume, match_grid, permute
from rephase.readers.kinds import read_sidecar
from rephase.readers.nifti.file import (
    check_frame,
    header_path,
    open_nifti,
    read_frame,
    sample_planes,
    sampled,
)
from rephase.readers.nifti.header import NiftiHeader
from rephase.readers.nifti.kinds import is_sure, kind_of_sample, stated_kind
from rephase.readers.nifti.probe import probe, sidecar_axis
from rephase.readers.sources import local_path
from rephase.readers.volume import Description, Volume

__all__ = ["describe", "digest", "digest_associated", "probe", "read", "read_associated"]


def read(row: ManifestRow, limit_bytes: int | None = None) -> tuple[Volume, Arrangement]:
    """Read the magnitude volume that a row names, and the phase of a complex file where `phase` is the same path.

    Returns
    -------
    volume
        Without associated files.
    arrangement
        Arrangement of the file's axes.

    Raises
    ------
    VolumeError
        `missing`, `unreadable`, `unsupported`, `ambiguous` (several frames and none named), `not_magnitude`,
        `mismatch` (no such frame) or `too_large`.
    """
    with local_path(row.path) as path, open_nifti(path, row.path, keep_unpacked=True) as file:
        header, sidecar = file.header, read_sidecar(header_path(path))
        check_frame(header, limit_bytes)
        planes = sampled(header)
        _refuse_other_kinds(path, header, sidecar)
        if header.num_frames > 1:  # several frames are classified before one is required
            _refuse_sample(header, sample_planes(file))
        values = read_frame(file, choose_frame(row, header), limit_bytes)
        if header.num_frames == 1:  # those of a compressed file are reached only once
            _refuse_sample(header, values[:, :, planes].T)
        sha256 = file.sha256()
    arrangement = header.arrange(chosen_axis(row.slice_axis, header, sidecar))
    phase = None
    if np.iscomplexobj(values):
        phase = np.angle(values).astype(np.float32) if row.phase == row.path else None
        values = np.abs(values)
    row = replace(row, te_ms=header.te_ms if row.te_ms is None else row.te_ms)
    return arranged_volume(row, values, phase, arrangement, sha256, dict(header.acquisition)), arrangement


def _refuse_other_kinds(path: Path, header: NiftiHeader, sidecar: Mapping[str, Any]) -> None:
    stated = stated_kind(path, header, sidecar)
    if stated is not None and is_sure(*stated):
        kind, evidence = stated
        raise VolumeError(
            "not_magnitude",
            f"{header.name}: is {KINDS[kind]} ({evidence}); expected a magnitude image; name its file",
        )


def _refuse_sample(header: NiftiHeader, sample: NDArray[Any]) -> None:
    kind, evidence = kind_of_sample(header, sample)
    if kind != "magnitude":
        raise VolumeError(
            "not_magnitude",
            f"{header.name}: is {KINDS[kind]} ({evidence}); expected a magnitude image; name its file",
        )


def chosen_axis(given: int | None, header: NiftiHeader, sidecar: Mapping[str, Any]) -> int | None:
    """Return the slice axis of the manifest, else that of the plane of acquisition by the sidecar of dcm2niix."""
    if given is not None:
        return given
    return sidecar_axis(header, sidecar)


def describe(row: ManifestRow) -> Description:
    """Describe the volume that a row names, from the header and the sidecar alone."""
    with local_path(row.path) as path, open_nifti(path, row.path) as file:
        header = file.header
        choose_frame(row, header)
        slice_axis = chosen_axis(row.slice_axis, header, read_sidecar(header_path(path)))
    arrangement = header.arrange(slice_axis)
    notes = header.notes_on(arrangement, slice_axis)
    return Description(arrangement.sizes(header.shape), arrangement.spacing_mm, notes)


def digest(row: ManifestRow) -> str:
    """Return the SHA-256 of the file; of a pair, that of both."""
    return _digest(row.path)


def _digest(location: str) -> str:
    with local_path(location) as path, open_nifti(path, location) as file:
        return file.sha256()


def choose_frame(row: ManifestRow, header: NiftiHeader) -> int:
    """Return the frame that a row names; the only one of a single volume."""
    if row.frame is None and header.num_frames > 1:
        raise VolumeError(
            "ambiguous",
            f"{header.name}: has {header.num_frames} frames; expected one; name it in the column frame (0 to "
            f"{header.num_frames - 1}), one row per frame",
        )
    frame = row.frame or 0
    if frame >= header.num_frames:
        raise VolumeError(
            "mismatch",
            f"{header.name}: has {header.num_frames} frames; expected more than {frame}; correct the column frame",
        )
    return frame


def read_associated(
    location: str, row: ManifestRow, volume: Volume, arrangement: Arrangement | None, limit_bytes: int | None
) -> tuple[NDArray[Any], str]:
    """Read values on the magnitude's grid, according to the affines of both files.

    A file of one frame belongs to all frames of the magnitude; of several, the frame of the same number is read.
    """
    with local_path(location) as path, open_nifti(path, location, keep_unpacked=True) as file:
        header = file.header
        several = header.num_frames > 1
        if several and (row.frame is None or row.frame >= header.num_frames):
            raise VolumeError(
                "mismatch",
                f"{location}: has {header.num_frames} frames; expected one; name it in the column frame",
            )
        values = read_frame(file, row.frame or 0 if several else 0, limit_bytes)
        sha256 = file.sha256()
    axes, flips = match_grid(header.affine, header.shape, volume.affine, volume.magnitude.shape, location)
    return np.ascontiguousarray(permute(values, axes, flips)), sha256


def digest_associated(location: str, row: ManifestRow) -> str:
    """Return the SHA-256 of the file; of a pair, that of both."""
    return _digest(location)
