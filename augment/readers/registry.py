"""Read the volume that a manifest row names: find the reader in the table, check and complete its volume."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.formats import FALLBACK, READERS, Reader, match_suffix
from rephase.manifests.header import Kind, Passed, Probed
from rephase.manifests.record import ManifestRow
from rephase.readers.associated import associated_digests, attach_associated
from rephase.readers.foreign import START_BYTES, explain, foreign_by_name
from rephase.readers.geometry import check_plausible, freeze_affine
from rephase.readers.raw import read as raw
from rephase.readers.raw.read import kind_of_hdf5
from rephase.readers.reader import ReaderModule, format_of, load_reader
from rephase.readers.sources import at_rest, join_digests
from rephase.readers.volume import Description, Volume

__all__ = [
    "READERS", "Reader", "describe_row", "describe_volume", "hash_source", "probe", "read_volume", "read_with_phase",
]  # fmt: skip

_MOST_MM = 1e5

SPACING_ASSUMED = "its file states no spacing, so 1 mm is assumed; state it in the column spacing_mm"
"""Note of a volume whose spacing nobody states."""


def read_volume(
    source: ManifestRow | str | os.PathLike[str],
    limit_bytes: int | None = None,
    **columns: Any,  # noqa: ANN401 - of the types that `ManifestRow` has
) -> Volume:
    """Read one magnitude volume, with the phase and the segmentation that belong to it.

    >>> read_volume("head.nii.gz", frame=0, phase="head_phase.nii.gz")  # doctest: +SKIP

    Parameters
    ----------
    source
        A file, a DICOM folder or a URL; or a row of a validated manifest.
    limit_bytes
        Memory limit for one file, checked before allocation. None for no limit.
    **columns
        Further columns of a manifest, as the attributes of `ManifestRow`: `format`, `series`, `echo`, `frame`,
        `dataset`, `slice_axis`, `phase`, `kspace`, `segmentation`, ...

    Returns
    -------
    volume
        In the corpus's axes; neither scaled nor clipped.

    Raises
    ------
    VolumeError
        With a reason of `rephase.errors.Reason` and one line of explanation.
    TypeError
        For an unknown column.
    """
    if isinstance(source, ManifestRow):
        row = replace(source, **columns)
    else:
        row = ManifestRow(line=0, volume_id="", path=os.fspath(source), **columns)
    try:
        with at_rest():
            volume, arrangement = _reader(row).read(row, limit_bytes)
            volume = _with_spacing(volume, row)
            volume = attach_associated(volume, row, arrangement, limit_bytes)
    except MemoryError as error:
        raise VolumeError(
            "too_large",
            f"{row.path}: does not fit into memory; expected a smaller volume; give each worker more memory",
        ) from error
    num_slices, height, width = volume.magnitude.shape
    _check_sizes(row, (num_slices, height, width))
    _check_geometry(row, volume)
    return volume


def read_with_phase(row: ManifestRow) -> tuple[Volume, NDArray[np.float32]]:
    """Read a volume with measured phase; return it and the phase in radians, `(slice height width)`.

    Raises
    ------
    VolumeError
        As `read_volume`; `mismatch` if the row names no phase, `not_finite` if the magnitude is not finite.
    """
    volume = read_volume(row)
    if volume.phase is None:
        raise VolumeError(
            "mismatch", f"{row.volume_id}: no measured phase; expected a row with `phase` or `kspace`; fill one in"
        )
    if not np.isfinite(volume.magnitude).all():
        raise VolumeError(
            "not_finite", f"{row.path}: magnitude with NaN or infinite values; expected finite numbers; fix the file"
        )
    return volume, volume.phase


def describe_row(row: ManifestRow) -> tuple[int, int, int]:
    """Return the shape (slices, height, width) of a row's volume, from headers alone.

    Raises
    ------
    VolumeError
        As `read_volume`, for errors detectable from headers.
    """
    return describe_volume(row).shape


def describe_volume(row: ManifestRow) -> Description:
    """Describe a row's volume from headers alone: shape, spacing, and what a user should know of it.

    Raises
    ------
    VolumeError
        As `describe_row`.
    """
    described = _reader(row).describe(row)
    _check_sizes(row, described.shape)
    if described.spacing_mm is None:
        if row.spacing_mm is None:
            described = described._replace(notes=(*described.notes, SPACING_ASSUMED))
        else:
            described = described._replace(spacing_mm=row.spacing_mm)
    if described.spacing_mm is not None:
        check_plausible(described.spacing_mm, row.path)
    return described


def hash_source(row: ManifestRow) -> str:
    """Return the `source_sha256` of the volume that `read_volume` returns, without decoding pixels.

    Raises
    ------
    VolumeError
        `missing` or `unreadable`; for DICOM, whose headers decide which files belong to the volume, as `describe_row`.
    """
    name = _format(row)
    return join_digests([_reader(row).digest(row), *associated_digests(row, name)])


def probe(files: Iterable[Path]) -> Probed:
    """Describe the volumes in all files of an archive; each file is opened by one reader, once.

    The suffix of a file selects its reader; files of unknown suffix are passed to the DICOM reader, which
    recognises DICOM files by their content. What no reader reads is told by name, else by its first bytes.
    """
    probed = Probed()
    by_reader: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        found = match_suffix(file.name)
        if file.suffix.lower() == ".img" and any(file.with_suffix(suffix).exists() for suffix in (".hdr", ".HDR")):
            continue  # the values of the .hdr; alone an .img may be DICOM
        foreign = foreign_by_name(file.name)
        if file.stat().st_size == 0:
            _tell(probed, file)
        elif foreign is not None:
            probed.passed.append(Passed(file, foreign.kind, foreign.message(file)))
        elif found is not None and not found[0].scanned:
            told = foreign_by_name(file.name, readable=True)
            what = (
                f"{found[0].name} ({found[0].kind}), which has no header of an image; expected one; add its row by hand"
            )
            if told is not None and told.kind == "other image format":
                what = f"{told.what}, which a scan passes over; add its row by hand, or {told.advice}"
            probed.passed.append(Passed(file, cast("Kind", found[0].kind), f"{file}: is {what}"))
        else:
            by_reader[found[0].name if found else FALLBACK].append(file)
    for name, members in by_reader.items():
        more = load_reader(name).probe(members)
        probed.extend(more)
        for file in more.others:
            _tell(probed, file)
    _explain_unreadable(probed)
    _refuse_implausible(probed)
    return probed


def _tell(probed: Probed, file: Path) -> None:
    found = explain(file)
    unknown = Passed(file, "no image", f"{file}: is no image that is known; expected one; check it")
    probed.passed.append(found or unknown)


def _explain_unreadable(probed: Probed) -> None:
    """Move small files whose contents were never fetched, and files of other formats, from the errors."""
    errors = list(probed.unreadable)
    probed.unreadable.clear()
    for file, why in errors:
        found = explain(file) if file.is_file() and file.stat().st_size < START_BYTES else None
        if found is None:
            probed.unreadable.append((file, why))
        else:
            probed.passed.append(found)


def _refuse_implausible(probed: Probed) -> None:
    """Move magnitude volumes that a build would refuse for their spacing to the errors."""
    kept = []
    for header in probed.headers:
        try:
            if header.kind == "magnitude" and header.spacing_mm is not None:
                check_plausible(header.spacing_mm, str(header.path))
            kept.append(header)
        except VolumeError as error:
            probed.unreadable.append((header.path, str(error)))
    probed.headers[:] = kept


def _format(row: ManifestRow) -> str:
    if row.kspace is None:
        return format_of(row.path) if row.format == "auto" else row.format
    if row.format != "auto" and row.kspace == row.path:
        return row.format
    found = match_suffix(row.kspace)
    return found[0].name if found else "hdf5"


def _reader(row: ManifestRow) -> ReaderModule:
    """Return the reader of a row: of k-space, that of raw data, except for fastMRI's files."""
    name = _format(row)
    if name == "hdf5":
        is_raw = kind_of_hdf5(row.kspace or row.path, row.kspace is not None) is not None
    else:
        is_raw = row.kspace is not None
    return cast(ReaderModule, raw) if is_raw else load_reader(name)


def _with_spacing(volume: Volume, row: ManifestRow) -> Volume:
    """Return the volume with the spacing of the manifest, where its file states none."""
    if row.spacing_mm is None:
        return volume
    if not str(volume.acquisition.get("spacing", "")).startswith("assumed"):
        if np.allclose(volume.spacing_mm, row.spacing_mm, rtol=0.01):
            return volume
        found, expected = (" x ".join(f"{step:g}" for step in one) for one in (volume.spacing_mm, row.spacing_mm))
        raise VolumeError(
            "mismatch",
            f"{row.path}: states a spacing of {found} mm; expected {expected} mm by the column spacing_mm (slice, "
            "height, width); correct or clear it",
        )
    affine = np.array(volume.affine)
    affine[:3, :3] *= np.array(row.spacing_mm) / np.array(volume.spacing_mm)
    known = {key: value for key, value in volume.acquisition.items() if key != "spacing"}
    return replace(volume, spacing_mm=row.spacing_mm, affine=freeze_affine(affine), acquisition=known)


def _check_sizes(row: ManifestRow, shape: tuple[int, int, int]) -> None:
    stated = (row.num_slices, row.height, row.width)
    if any(expected is not None and expected != found for expected, found in zip(stated, shape, strict=True)):
        raise VolumeError(
            "mismatch",
            f"{row.path}: has {shape[0]} slices of {shape[1]} x {shape[2]}; expected num_slices, height, width "
            f"{', '.join('-' if n is None else str(n) for n in stated)} by the manifest; correct or clear them",
        )


def _check_geometry(row: ManifestRow, volume: Volume) -> None:
    """Check that the geometry is plausible: the network is conditioned on the spacing, readers trust the affine."""
    numbers = [value for line in volume.affine for value in line]
    if not all(math.isfinite(value) and abs(value) <= _MOST_MM for value in numbers):
        raise VolumeError(
            "unreadable",
            f"{row.path}: implausible geometry, with positions far outside a scanner; expected at most "
            f"{_MOST_MM / 1000:g} m; fix the header",
        )
    check_plausible(volume.spacing_mm, row.path)
