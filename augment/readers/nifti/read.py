"""Read one magnitude volume from a NIfTI file, and describe the volumes in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.facts import CONTRASTS
from rephase.manifests.header import Kind, Probed, SeriesHeader
from rephase.manifests.record import ManifestRow
from rephase.readers.geometry import Arrangement, arranged_volume, match_grid, permute
from rephase.readers.kinds import (
    contrast_of_name,
    kind_of_name,
    kind_of_sidecar,
    kind_of_values,
    pair_name,
    read_sidecar,
    stem_of,
)
from rephase.readers.nifti.file import NiftiHeader, Stream, check_frame, open_nifti, read_frame, sample_planes
from rephase.readers.sequence import sequence_of_bids_name, sequence_of_sidecar
from rephase.readers.sources import hash_file, hash_location, local_path
from rephase.readers.volume import Description, Volume

_KIND_NAMES: dict[Kind, str] = {
    "phase": "a phase image",
    "real": "a signed image (real part, field map or phase)",
    "imaginary": "an imaginary part",
    "fieldmap": "a field map",
    "localizer": "a localizer",
    "non_mr": "no MR image",
    "kspace": "k-space",
    "unsupported": "of an unknown kind",
}


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
    with local_path(row.path) as path, open_nifti(path, row.path) as (header, stream):
        check_frame(header, limit_bytes)
        kind, evidence = _kind(path, header, stream)
        if kind not in ("magnitude", "derived"):
            raise VolumeError(
                "not_magnitude",
                f"{row.path}: is {_KIND_NAMES[kind]} ({evidence}); expected a magnitude image; name its file",
            )
        frame = choose_frame(row, header)
        values = read_frame(header, stream, frame, limit_bytes)
        sha256 = hash_file(path)
    arrangement = header.arrange(row.slice_axis)
    phase = None
    if np.iscomplexobj(values):
        phase = np.angle(values).astype(np.float32) if row.phase == row.path else None
        values = np.abs(values)
    return arranged_volume(row, values, phase, arrangement, sha256, dict(header.acquisition)), arrangement


def describe(row: ManifestRow) -> Description:
    """Describe the volume that a row names, from the header alone."""
    with local_path(row.path) as path, open_nifti(path, row.path) as (header, _):
        choose_frame(row, header)
        arrangement = header.arrange(row.slice_axis)
        return Description(arrangement.sizes(header.shape), arrangement.spacing_mm)


def digest(row: ManifestRow) -> str:
    """Return the SHA-256 of the file."""
    return hash_location(row.path)


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


def _kind(path: Path, header: NiftiHeader, stream: Stream, masks: bool = False) -> tuple[Kind, str]:
    """Return the image type from the sidecar, the name, then the values, which override a stated magnitude.

    With `masks`, an image of two integers counts as derived; without, a row that names it explicitly is trusted.
    """
    claims = (
        (kind_of_sidecar(read_sidecar(path)), "by its JSON sidecar"),
        (kind_of_name(path), "by its name"),
    )
    for kind, evidence in claims:
        if kind is not None and kind != "magnitude":
            return kind, evidence
    if header.dtype.kind == "c":
        return "magnitude", "complex"
    values = sample_planes(header, stream)
    levels = np.unique(values) if masks else np.empty(0)
    if levels.size == 2 and bool(np.all(levels == np.rint(levels))):
        return "derived", "a mask of two values"
    return kind_of_values(values) or ("magnitude", "no other evidence")


def probe(files: Iterable[Path]) -> Probed:
    """Describe the volumes in these files, a header per frame; of complex files also their phase.

    Of the two-file formats, NIfTI and Analyze, the `.hdr` is reported as unreadable if its `.img` is in the same
    folder.
    """
    found = Probed()
    for path in files:
        if path.suffix.lower() == ".hdr":
            if any(path.with_suffix(suffix).exists() for suffix in (".img", ".IMG")):
                found.unreadable.append((path, f"{path}: is one of a pair of files; expected one .nii; convert it"))
            continue
        try:
            with open_nifti(path, str(path)) as (header, stream):
                kind, _ = _kind(path, header, stream, masks=True)
        except VolumeError as error:
            found.unreadable.append((path, str(error)))
            continue
        kinds: list[Kind] = ["magnitude", "phase"] if kind == "magnitude" and header.dtype.kind == "c" else [kind]
        frames = range(header.num_frames) if header.num_frames > 1 else (None,)
        found.headers.extend(_series_header(path, header, kind, frame) for frame in frames for kind in kinds)
    return found


def _series_header(path: Path, header: NiftiHeader, kind: Kind, frame: int | None) -> SeriesHeader:
    sidecar = read_sidecar(path)
    arrangement = header.arrange(None)
    num_slices, height, width = arrangement.sizes(header.shape)
    echo_time_s = _number(sidecar.get("EchoTime"))
    contrast = contrast_of_name(path)
    suffix = "" if frame is None else f"#{frame}"
    return SeriesHeader(
        path=path,
        format="nifti",
        kind=kind,
        series_key=f"{path}{suffix}",
        num_slices=num_slices,
        height=height,
        width=width,
        subject_key=_subject(path),
        pair_key=f"{pair_name(path)}{suffix}",
        paired_by_name=True,
        frame=frame,
        te_ms=None if echo_time_s is None else round(echo_time_s * 1000, 6),
        field_t=_number(sidecar.get("MagneticFieldStrength")),
        contrast=contrast if contrast in CONTRASTS else None,
        sequence=sequence_of_sidecar(sidecar) or sequence_of_bids_name(stem_of(path)),
        spacing_mm=arrangement.spacing_mm,
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < np.inf else None


def _subject(path: Path) -> str | None:
    """Return the path up to the part `sub-...` of BIDS, which identifies a subject within its data set."""
    for parent in (*reversed(path.parents), path):
        if found := re.match(r"sub-[A-Za-z0-9]+", parent.name):
            return str(parent.parent / found.group())
    return None


def read_associated(
    location: str, row: ManifestRow, volume: Volume, arrangement: Arrangement | None, limit_bytes: int | None
) -> tuple[NDArray[Any], str]:
    """Read values on the magnitude's grid, according to the affines of both files.

    A file of one frame belongs to all frames of the magnitude; of several, the frame of the same number is read.
    """
    with local_path(location) as path:
        with open_nifti(path, location) as (header, stream):
            several = header.num_frames > 1
            if several and (row.frame is None or row.frame >= header.num_frames):
                raise VolumeError(
                    "mismatch",
                    f"{location}: has {header.num_frames} frames; expected one; name it in the column frame",
                )
            values = read_frame(header, stream, row.frame or 0 if several else 0, limit_bytes)
        sha256 = hash_file(path)
    axes, flips = match_grid(header.affine, header.shape, volume.affine, volume.magnitude.shape, location)
    return np.ascontiguousarray(permute(values, axes, flips)), sha256


def digest_associated(location: str, row: ManifestRow) -> str:
    """Return the SHA-256 of the file."""
    return hash_location(location)
