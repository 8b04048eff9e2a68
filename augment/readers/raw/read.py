"""Read complex data that a row names: k-space in the column `kspace`, complex images in `path`; raw data in either."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.facts import known_facts
from rephase.formats import match_suffix
from rephase.hdf5_files import open_hdf5
from rephase.manifests.header import Probed
from rephase.manifests.record import ManifestRow
from rephase.numpy_fourier import fft2c_array
from rephase.readers.geometry import Arrangement, as_displayed
from rephase.readers.hdf5.fastmri import image_of_kspace, magnitude_of_kspace
from rephase.readers.npy import plain_volume
from rephase.readers.raw.arrays import open_cfl, open_mat, open_npy, open_pairs
from rephase.readers.raw.data import RawData, check, check_type
from rephase.readers.raw.ismrmrd import open_ismrmrd, raw_group
from rephase.readers.raw.twix import open_twix
from rephase.readers.sources import hash_file, join_digests, local_path
from rephase.readers.volume import Description, Volume, refuse_vanished
from rephase.text import is_url

COMBINED = "coils combined with sensitivities of low frequencies, phase of their principal virtual coil"
"""How several coils become one complex image; see `rephase.readers.hdf5.fastmri.image_of_kspace`."""

_ARRAYS: dict[str, Callable[[Path, ManifestRow, str, bool, int | None], RawData]] = {
    "npy": open_npy, "mat": open_mat, "bart": open_cfl,
}  # fmt: skip
_RAW: dict[str, Callable[[Path, ManifestRow, str, int | None], RawData]] = {
    "ismrmrd": open_ismrmrd, "twix": open_twix, "hdf5": open_pairs,
}  # fmt: skip


def kind_of_hdf5(location: str, named_kspace: bool) -> str | None:
    """Return the format of an HDF5 file of raw data that is not fastMRI's: `ismrmrd`, or `hdf5` for CC-359's layout.

    Files behind URLs are taken for fastMRI's, unless the column `format` states otherwise.
    """
    if is_url(location) or not Path(location).is_file():
        return None
    try:
        with open_hdf5(Path(location)) as file:
            if raw_group(file) is not None:
                return "ismrmrd"
            kspace = file.get("kspace") if isinstance(file.get("kspace", getlink=True), h5py.HardLink) else None
            if not named_kspace or not isinstance(kspace, h5py.Dataset) or kspace.ndim != 4:
                return None
            return "hdf5" if kspace.dtype.kind in "fiu" and kspace.shape[-1] % 2 == 0 else None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError):
        return None  # the reader of HDF5 reports it


def read(row: ManifestRow, limit_bytes: int | None = None) -> tuple[Volume, Arrangement]:
    """Read the complex image of a row: of k-space, cropped and with its coils combined.

    A row without phase gets the magnitude alone, of several coils the root sum of squares.

    Raises
    ------
    VolumeError
        `missing`, `unreadable`, `unsupported` (undersampled, not Cartesian), `ambiguous`, `mismatch`, `not_finite` or
        `too_large`.
    """
    name = row.kspace or row.path
    with local_path(name) as path:
        raw, source = _opened(path, row, name, limit_bytes)
        has_phase = row.kspace is not None or row.phase == row.path
        real = raw.values.dtype.kind != "c" and "pair" not in raw.axes and not raw.is_kspace
        values, said = (_real(raw, row, name), {}) if real else _complex(raw, name, has_phase)
        sha256 = _digest(path, source)
    arrangement = as_displayed(values.shape, raw.spacing_mm or (1.0, 1.0, 1.0))
    whole = replace(row, phase=row.path) if has_phase else row
    volume, _ = plain_volume(whole, values, arrangement, sha256, source, spacing_known=raw.spacing_mm is not None)
    return replace(volume, **known_facts(row, raw.facts), acquisition=volume.acquisition | said), arrangement


def describe(row: ManifestRow) -> Description:
    """Describe the volume; only the arrays of .npy and .cfl are not read for it."""
    name = row.kspace or row.path
    with local_path(name) as path:
        raw, _ = _opened(path, row, name, None)
        if raw.is_kspace:
            check_type(raw, name)
        notes = (f"{raw.num_coils} {COMBINED}",) if raw.num_coils > 1 and (row.kspace or row.phase) else ()
        return Description(raw.sizes(), raw.spacing_mm, notes)


def digest(row: ManifestRow) -> str:
    """Return the SHA-256 of the file; of BART that of .cfl and .hdr."""
    name = row.kspace or row.path
    with local_path(name) as path:
        return _digest(path, _source(row, name))


def probe(files: Iterable[Path]) -> Probed:
    """Return no volumes: what an array is, and which axes it has, only a row can tell."""
    return Probed()


def _source(row: ManifestRow, name: str) -> str:
    stated = row.format if row.format != "auto" and (row.kspace is None or row.kspace == row.path) else None
    found = match_suffix(name)
    source = stated or (found[0].name if found else "hdf5")
    return (kind_of_hdf5(name, row.kspace is not None) or source) if source == "hdf5" else source


def _opened(path: Path, row: ManifestRow, name: str, limit_bytes: int | None) -> tuple[RawData, str]:
    source = _source(row, name)
    if source in _ARRAYS:
        return _ARRAYS[source](path, row, name, row.kspace is not None, limit_bytes), source
    if source in _RAW:
        return _RAW[source](path, row, name, limit_bytes), source
    known = ", ".join(("fastMRI's HDF5", *_ARRAYS, *_RAW))
    raise VolumeError(
        "unsupported", f"{name}: is {source}; expected k-space of {known} in the column kspace; convert it"
    )


def _digest(path: Path, source: str) -> str:
    if source != "bart":
        return hash_file(path)
    return join_digests([hash_file(path), hash_file(path.with_suffix(".hdr"))])


def _real(raw: RawData, row: ManifestRow, name: str) -> NDArray[np.float32]:
    """Return an image of real values, `(slice height width)`."""
    if row.phase == row.path:
        raise VolumeError(
            "mismatch", f"{name}: has real values; expected complex ones, of which phase is the angle; clear phase"
        )
    whole = replace(raw, values=np.asarray(raw.values, np.float32) + np.complex64(0))
    values = check(whole, name).values
    if values.ndim == 4:
        return np.asarray(np.sqrt(np.sum(np.square(values.real), axis=1)), np.float32)
    return values.real.copy()


def _complex(raw: RawData, name: str, has_phase: bool) -> tuple[NDArray[np.complex64], dict[str, object]]:
    checked = check(raw, name)
    values, said = checked.values, dict(checked.said)
    refuse_vanished(values, lambda: float(np.abs(raw.values).max()), name)
    if not raw.is_kspace and values.ndim == 3:
        return values, said
    kspace = values if raw.is_kspace else np.stack([fft2c_array(one) for one in values])
    if has_phase or kspace.ndim == 3:
        if kspace.ndim == 4:
            said["coils"] = f"{kspace.shape[1]} {COMBINED}"
        return image_of_kspace(kspace, raw.size), said
    return np.stack([magnitude_of_kspace(one, raw.size) for one in kspace]).astype(np.complex64), said
