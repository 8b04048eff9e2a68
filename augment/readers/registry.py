"""New."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.manifests.header import Probed
from rephase.manifests.record import ManifestRow
from rephase.readers.geometry import Arrangement
from rephase.readers.sources import format_of, hash_file, join_digests, local_path
from rephase.readers.volume import Volume

_HDF5_SUFFIXES = (".h5", ".hdf5")


_NIFTI_SUFFIXES = (".nii", ".nii.gz")


_LEAST_MM, _MOST_MM = 1e-4, 1e5


def read_volume(row: ManifestRow, limit_bytes: int | None = None) -> Volume:
    """Read the volume that a manifest row names, with its phase and segmentation where it names them.

    Parameters
    ----------
    row
        Of a validated manifest.
    limit_bytes
        Of memory for one file; more than that is refused before it is taken. None for no limit.

    Raises
    ------
    VolumeError
        With a reason of `rephase.errors.Reason` and one line of explanation.
    """
    from rephase.readers.companions import attach_companions

    try:
        volume, arrangement = _read(row, limit_bytes)
        volume = attach_companions(volume, row, arrangement, limit_bytes)
    except MemoryError as error:
        raise VolumeError(
            "too_large", f"{row.path}: does not fit into memory; expected a smaller volume; give workers more memory"
        ) from error
    num_slices, height, width = volume.magnitude.shape
    _check_sizes(row, (num_slices, height, width))
    _check_geometry(row, volume)
    return volume


def read_with_phase(row: ManifestRow) -> tuple[Volume, NDArray[np.float32]]:
    """Read a volume that must have real phase; gives it and that phase, in radians `(slice height width)`.

    Raises
    ------
    VolumeError
        As `read_volume`; `mismatch` where its row names no phase; `not_finite` where the magnitude is not.
    """
    volume = read_volume(row)
    if volume.phase is None:
        raise VolumeError("mismatch", f"{row.volume_id}: no real phase; its row needs `phase` or `kspace`")
    if not np.isfinite(volume.magnitude).all():
        raise VolumeError("not_finite", f"{row.path}: is not finite somewhere; expected numbers; mend it")
    return volume, volume.phase


def _read(row: ManifestRow, limit_bytes: int | None) -> tuple[Volume, Arrangement | None]:
    match _format(row):
        case "dicom":
            from rephase.readers.dicom.read import read_dicom

            return read_dicom(row, limit_bytes), None
        case "nifti":
            from rephase.readers.nifti.read import read_nifti

            return read_nifti(row, limit_bytes)
        case "hdf5":
            from rephase.readers.hdf5.read import read_hdf5

            return read_hdf5(row, limit_bytes)
        case _:
            from rephase.readers.npy import read_npy

            return read_npy(row, limit_bytes)


def describe_row(row: ManifestRow) -> tuple[int, int, int]:
    """Say the shape (slices, height, width) of a row's volume, from headers alone.

    Raises
    ------
    VolumeError
        As `read_volume`, as far as headers tell.
    """
    match _format(row):
        case "dicom":
            from rephase.readers.dicom.read import describe_dicom

            shape = describe_dicom(row)
        case "nifti":
            from rephase.readers.nifti.read import describe_nifti

            shape = describe_nifti(row)
        case "hdf5":
            from rephase.readers.hdf5.read import describe_hdf5

            shape = describe_hdf5(row)
        case _:
            from rephase.readers.npy import describe_npy

            shape = describe_npy(row)
    _check_sizes(row, shape)
    return shape


def hash_source(row: ManifestRow) -> str:
    """Say the `source_sha256` that `read_volume` gives for a row, without decoding a pixel.

    Raises
    ------
    VolumeError
        `missing` or `unreadable`; for DICOM, whose headers tell which files count, as `describe_row`.
    """
    from rephase.readers.companions import companion_digests

    source_format = _format(row)
    if source_format == "dicom":
        from rephase.readers.dicom.read import hash_dicom

        digest = hash_dicom(row)
    else:
        digest = _hash_location(row.kspace or row.path)
    return join_digests([digest, *companion_digests(row, source_format)])


def probe(folder: Path, files: Sequence[Path]) -> Probed:
    """Describe the volumes in these files of one folder; what is no image is ignored.

    NumPy files are not looked at: an array without a header is named by hand.
    """
    found = Probed()
    others = []
    pairs = {file.with_suffix("") for file in files if file.suffix.lower() == ".hdr"}
    pairs &= {file.with_suffix("") for file in files if file.suffix.lower() == ".img"}
    for file in files:
        name = file.name.lower()
        if file.suffix.lower() in (".hdr", ".img") and file.with_suffix("") in pairs:
            if file.suffix.lower() == ".hdr":
                found.unreadable.append((file, f"{file}: is one of a pair of files; expected one .nii; convert it"))
        elif name.endswith(_NIFTI_SUFFIXES):
            from rephase.readers.nifti.read import probe_nifti

            _extend(found, probe_nifti(file))
        elif name.endswith(_HDF5_SUFFIXES):
            from rephase.readers.hdf5.read import probe_hdf5

            _extend(found, probe_hdf5(file))
        else:
            others.append(file)
    if others:
        from rephase.readers.dicom.probe import probe_dicom

        _extend(found, probe_dicom(folder, others))
    return found


def _extend(found: Probed, more: Probed) -> None:
    found.headers.extend(more.headers)
    found.unreadable.extend(more.unreadable)


def _format(row: ManifestRow) -> str:
    if row.kspace is not None:
        return "hdf5"
    if row.format != "auto":
        return row.format
    with local_path(row.path) as path:
        return format_of(path, row.format)


def _hash_location(location: str) -> str:
    with local_path(location) as path:
        return hash_file(path)


def _check_sizes(row: ManifestRow, shape: tuple[int, int, int]) -> None:
    stated = (row.num_slices, row.height, row.width)
    if any(want is not None and want != found for want, found in zip(stated, shape, strict=True)):
        raise VolumeError(
            "mismatch",
            f"{row.path}: is {shape[0]} slices of {shape[1]} x {shape[2]}; the manifest says num_slices, height, width "
            f"{', '.join('-' if n is None else str(n) for n in stated)}; correct them or leave them empty",
        )


def _check_geometry(row: ManifestRow, volume: Volume) -> None:
    """Refuse what no scanner writes: the network is told the spacing, and a reader of the corpus trusts the affine."""
    numbers = [*volume.spacing_mm, *(value for line in volume.affine for value in line)]
    finite = all(math.isfinite(value) for value in numbers)
    if finite and min(volume.spacing_mm) >= _LEAST_MM and max(map(abs, numbers)) <= _MOST_MM:
        return
    shown = " x ".join(f"{value:g}" for value in volume.spacing_mm)
    raise VolumeError(
        "unreadable",
        f"{row.path}: its header places voxels of {shown} mm or a volume out of this world; expected {_LEAST_MM:g} mm "
        f"to {_MOST_MM / 1000:g} m; mend the header",
    )
