"""Read the volume that a manifest row names: find the reader in the table, check and complete its volume."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.formats import FALLBACK, READERS, Reader, match_suffix
from rephase.manifests.header import Probed
from rephase.manifests.record import ManifestRow
from rephase.readers.associated import associated_digests, attach_associated
from rephase.readers.reader import format_of, load_reader
from rephase.readers.sources import join_digests
from rephase.readers.volume import Volume

__all__ = ["READERS", "Reader", "describe_row", "hash_source", "probe", "read_volume", "read_with_phase"]

_LEAST_MM, _MOST_MM = 1e-4, 1e5


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
        volume, arrangement = load_reader(_format(row)).read(row, limit_bytes)
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
    shape = load_reader(_format(row)).describe(row)
    _check_sizes(row, shape)
    return shape


def hash_source(row: ManifestRow) -> str:
    """Return the `source_sha256` of the volume that `read_volume` returns, without decoding pixels.

    Raises
    ------
    VolumeError
        `missing` or `unreadable`; for DICOM, whose headers decide which files belong to the volume, as `describe_row`.
    """
    name = _format(row)
    return join_digests([load_reader(name).digest(row), *associated_digests(row, name)])


def probe(folder: Path, files: Sequence[Path]) -> Probed:
    """Describe the volumes in these files of one folder; non-image files are ignored.

    The suffix of a file selects its reader; files of unknown suffix are passed to the DICOM reader, which
    recognises DICOM files by their content.
    """
    by_reader: dict[str, list[Path]] = defaultdict(list)
    names = {file.name.lower() for file in files}
    for file in files:
        # the raw values of a two-file image, whose .hdr is reported; alone an .img may be DICOM
        if file.suffix.lower() == ".img" and f"{file.stem.lower()}.hdr" in names:
            continue
        found = match_suffix(file.name)
        by_reader[found[0].name if found else FALLBACK].append(file)
    probed = Probed()
    for name, members in by_reader.items():
        if READERS[name].scanned:
            more = load_reader(name).probe(folder, members)
            probed.headers.extend(more.headers)
            probed.unreadable.extend(more.unreadable)
    return probed


def _format(row: ManifestRow) -> str:
    if row.kspace is not None:  # a fastMRI file, which has both magnitude and phase
        return "hdf5"
    return format_of(row.path) if row.format == "auto" else row.format


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
    numbers = [*volume.spacing_mm, *(value for line in volume.affine for value in line)]
    finite = all(math.isfinite(value) for value in numbers)
    if finite and min(volume.spacing_mm) >= _LEAST_MM and max(map(abs, numbers)) <= _MOST_MM:
        return
    shown = " x ".join(f"{value:g}" for value in volume.spacing_mm)
    raise VolumeError(
        "unreadable",
        f"{row.path}: implausible geometry, with voxels of {shown} mm or positions far outside a scanner; expected "
        f"{_LEAST_MM:g} mm to {_MOST_MM / 1000:g} m; fix the header",
    )
