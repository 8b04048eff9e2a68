"""The image behind fastMRI's raw data in an HDF5 file, where it is whole and was measured."""

from __future__ import annotations

import h5py
import numpy as np
from numpy.typing import NDArray

from augment.errors import VolumeError
from augment.readers.fastmri import FastmriFacts, image_of_kspace, magnitude_of_kspace
from augment.readers.hdf5_links import chunk_bytes, find_object, named_dataset
from augment.readers.nifti_file import check_limit
from augment.readers.precision import refuse_vanished

RECONSTRUCTIONS = ("reconstruction_rss", "reconstruction_esc")
KSPACE = "kspace"
_MOST_GAPS = 0.2


def phase_generator(file: h5py.File) -> str | None:
    """Name what made the phase of an export of a corpus, None where it was measured."""
    try:
        found = file.attrs.get("phase_generator", "real")
    except (KeyError, OSError, RuntimeError, TypeError, ValueError):
        return None
    return None if found == "real" else str(found)[:60]


def is_kspace(dataset: h5py.Dataset) -> bool:
    """Tell fastMRI's raw data from an image that someone has named so."""
    return bool(dataset.name == f"/{KSPACE}" and dataset.dtype.kind == "c")


def read_magnitude(file: h5py.File, name: str, facts: FastmriFacts, limit_bytes: int | None) -> NDArray[np.float32]:
    """The magnitude behind a file's k-space; no more than one slice of that is held."""
    kspace = _whole_kspace(file, name)
    num_slices, *_, height, width = kspace.shape
    check_limit(8 * num_slices * height * width + 32 * (kspace.size // num_slices), limit_bytes, name)
    size = _size(file, facts, name)
    slices, sampled = [], np.zeros(width, np.bool_)
    for index in range(num_slices):
        values = kspace[index].astype(np.complex64)
        sampled |= _sampled(values)
        slices.append(magnitude_of_kspace(values, size))
    magnitude = np.stack(slices)
    refuse_vanished(magnitude, lambda: max(float(np.abs(one).max()) for one in kspace), name)
    _refuse_gaps(sampled, name)
    return magnitude


def _sampled(kspace: NDArray[np.complex64]) -> NDArray[np.bool_]:
    """Tell of the lines along phase encoding, the last axis, which hold anything."""
    return np.asarray(kspace.any(axis=tuple(range(kspace.ndim - 1))))


def _refuse_gaps(sampled: NDArray[np.bool_], name: str) -> None:
    """Refuse undersampled k-space that says so by nothing but lines of zeros between others; at the ends they may be.

    A line that was measured has noise, so none of it is zero; a simulated one may be by chance.
    """
    lines = np.flatnonzero(sampled)
    if len(lines) and 1.0 - len(lines) / (lines[-1] - lines[0] + 1) > _MOST_GAPS:
        raise VolumeError(
            "unsupported",
            f"{name}: its k-space is undersampled, {len(lines)} lines of {lines[-1] - lines[0] + 1} are not zero; "
            "expected all of it; take another file",
        )


def read_image(file: h5py.File, name: str, facts: FastmriFacts, limit_bytes: int | None) -> NDArray[np.complex64]:
    """The complex image behind a file's k-space `(slice height width)`; see `image_of_kspace`.

    Raises
    ------
    VolumeError
        `unsupported` where it is undersampled or its phase was generated, `not_finite`, or `too_large`.
    """
    if generator := phase_generator(file):
        raise VolumeError(
            "unsupported", f"{name}: its phase was generated ({generator}); expected a scanner's; take another file"
        )
    kspace = _whole_kspace(file, name)
    check_limit(kspace.size * (kspace.dtype.itemsize + 8) + chunk_bytes(kspace), limit_bytes, name)
    values = kspace[()].astype(np.complex64)
    refuse_vanished(values, lambda: float(np.abs(kspace[()]).max()), name)
    _refuse_gaps(_sampled(values), name)
    if not np.isfinite(values).all():
        raise VolumeError(
            "not_finite", f"{name}: its k-space is not finite somewhere; expected numbers; mend the source"
        )
    return image_of_kspace(values, _size(file, facts, name))


def _whole_kspace(file: h5py.File, name: str) -> h5py.Dataset:
    kspace = named_dataset(file, KSPACE, name)
    if kspace.dtype.kind != "c" or kspace.ndim not in (3, 4) or 0 in kspace.shape:
        raise VolumeError(
            "unsupported",
            f"{name}: kspace has type {kspace.dtype} and shape {kspace.shape}; expected complex values of three "
            "or four dimensions; convert it",
        )
    if find_object(file, "mask", name) is not None:
        raise VolumeError("unsupported", f"{name}: its k-space is undersampled; expected all of it; take another file")
    return kspace


def _size(file: h5py.File, facts: FastmriFacts, name: str) -> tuple[int, int] | None:
    for key in RECONSTRUCTIONS:
        found = find_object(file, key, name)
        if isinstance(found, h5py.Dataset) and found.ndim == 3:
            return int(found.shape[1]), int(found.shape[2])
    return facts.recon_size


def image_sizes(file: h5py.File, name: str, facts: FastmriFacts) -> tuple[int, int, int]:
    """Slices, height and width of the image behind a file's k-space, of which nothing is read."""
    num_slices, *_, height, width = _whole_kspace(file, name).shape
    wanted = _size(file, facts, name) or (height, width)
    return int(num_slices), min(wanted[0], int(height)), min(wanted[1], int(width))
