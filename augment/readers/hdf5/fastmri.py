"""Compute magnitude and complex image from the k-space of fastMRI files."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.ismrmrd_header import FastmriFacts
from rephase.numpy_fourier import ifft2c_array
from rephase.readers.hdf5.links import chunk_bytes, find_object, named_dataset
from rephase.readers.volume import check_limit, refuse_vanished

RECONSTRUCTIONS = ("reconstruction_rss", "reconstruction_esc")
KSPACE = "kspace"
_LOW_RESOLUTION = 24
_MOST_GAPS = 0.2


def image_of_kspace(kspace: NDArray[np.complex64], size: tuple[int, int] | None) -> NDArray[np.complex64]:
    """Transform fully sampled k-space to one complex image per slice.

    Coils are combined with sensitivities from the centre of k-space, relative to one virtual coil, the principal
    combination of all coils over the volume. The smooth receive phase of that coil remains in the result.

    Parameters
    ----------
    kspace
        `(slice [coil] height width)`, centred.
    size
        Height and width to which the image is cropped about its centre, as fastMRI's reconstructions are: this removes
        readout oversampling. None keeps all.

    Returns
    -------
    image
        complex64 `(slice height width)`.
    """
    if kspace.ndim == 3:
        return np.stack([_crop(ifft2c_array(plane), size) for plane in kspace])
    weights = _virtual_coil(kspace)
    return np.stack([_crop(_combine(plane, weights), size) for plane in kspace])


def magnitude_of_kspace(kspace: NDArray[np.complex64], size: tuple[int, int] | None) -> NDArray[np.float32]:
    """Transform one slice of fully sampled k-space to its magnitude, as in fastMRI's `reconstruction_*`.

    Parameters
    ----------
    kspace
        `([coil] height width)`, centred.
    size
        As in `image_of_kspace`.

    Returns
    -------
    magnitude
        float32 `(height width)`: of several coils the root sum of squares.
    """
    magnitude = np.abs(_crop(ifft2c_array(kspace), size))
    return np.asarray(magnitude if kspace.ndim == 2 else np.sqrt(np.sum(np.square(magnitude), axis=0)), np.float32)


def _virtual_coil(kspace: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Return the weights of the coils: the principal vector of their covariance in the centre of k-space."""
    centre = _crop(kspace, (_LOW_RESOLUTION, _LOW_RESOLUTION))
    samples = centre.transpose(1, 0, 2, 3).reshape(kspace.shape[1], -1).astype(np.complex128)
    _, vectors = np.linalg.eigh(samples @ samples.conj().T)
    principal = vectors[:, -1]
    # the phase of an eigenvector depends on the library: fix it to that of the strongest coil
    strongest = principal[np.argmax(np.abs(principal))]
    return np.asarray(principal * np.conj(strongest) / np.abs(strongest), np.complex64)


def _combine(kspace: NDArray[np.complex64], weights: NDArray[np.complex64]) -> NDArray[np.complex64]:
    coil_images = ifft2c_array(kspace)
    low = ifft2c_array(kspace * _window(kspace.shape[-2])[:, np.newaxis] * _window(kspace.shape[-1]))
    virtual = np.einsum("c,chw->hw", weights.conj(), low)
    reference = np.exp(1j * np.angle(virtual))
    norm = np.sqrt(np.sum(np.abs(low) ** 2, axis=0))
    combined = np.sum(np.conj(low) * coil_images, axis=0) * reference
    return np.asarray(np.divide(combined, norm, out=np.zeros_like(combined), where=norm > 0), np.complex64)


def _window(size: int) -> NDArray[np.float64]:
    """Return a Hann window over the low frequencies, zero elsewhere: a sharp edge would make the sensitivities ring."""
    distance = np.abs(np.arange(size) - size // 2) / (min(_LOW_RESOLUTION, size) / 2 + 1)
    return np.where(distance < 1, np.cos(np.pi / 2 * np.minimum(distance, 1)) ** 2, 0.0)


def _crop(image: NDArray[Any], size: tuple[int, int] | None) -> NDArray[Any]:
    if size is None:
        return image
    height, width = (min(limit, found) for limit, found in zip(size, image.shape[-2:], strict=True))
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def phase_generator(file: h5py.File) -> str | None:
    """Return the phase generator of an exported corpus; None if the phase was measured."""
    try:
        found = file.attrs.get("phase_generator", "real")
    except (KeyError, OSError, RuntimeError, TypeError, ValueError):
        return None
    return None if found == "real" else str(found)[:60]


def is_kspace(dataset: h5py.Dataset) -> bool:
    """Check whether a dataset is fastMRI's raw data, not an image of that name."""
    return bool(dataset.name == f"/{KSPACE}" and dataset.dtype.kind == "c")


def read_magnitude(file: h5py.File, name: str, facts: FastmriFacts, limit_bytes: int | None) -> NDArray[np.float32]:
    """Compute the magnitude of a file's k-space, one slice at a time."""
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
    """Return the mask of lines along phase encoding (the last axis) that have samples, bool `(line)`."""
    return np.asarray(kspace.any(axis=tuple(range(kspace.ndim - 1))))


def _refuse_gaps(sampled: NDArray[np.bool_], name: str) -> None:
    """Refuse k-space with empty lines between sampled ones, undersampled without a mask; empty ends are allowed.

    A measured line has noise and is never zero; a few simulated lines may be.
    """
    lines = np.flatnonzero(sampled)
    if len(lines) and 1.0 - len(lines) / (lines[-1] - lines[0] + 1) > _MOST_GAPS:
        raise VolumeError(
            "unsupported",
            f"{name}: k-space is undersampled, with {len(lines)} of {lines[-1] - lines[0] + 1} lines; expected full "
            "sampling; use another file",
        )


def read_image(file: h5py.File, name: str, facts: FastmriFacts, limit_bytes: int | None) -> NDArray[np.complex64]:
    """Compute the complex image of a file's k-space, `(slice height width)`; see `image_of_kspace`.

    Raises
    ------
    VolumeError
        `unsupported` if it is undersampled or its phase was generated, `not_finite`, or `too_large`.
    """
    if generator := phase_generator(file):
        raise VolumeError(
            "unsupported", f"{name}: its phase was generated ({generator}); expected measured phase; use another file"
        )
    kspace = _whole_kspace(file, name)
    check_limit(kspace.size * (kspace.dtype.itemsize + 8) + chunk_bytes(kspace), limit_bytes, name)
    values = kspace[()].astype(np.complex64)
    refuse_vanished(values, lambda: float(np.abs(kspace[()]).max()), name)
    _refuse_gaps(_sampled(values), name)
    if not np.isfinite(values).all():
        raise VolumeError("not_finite", f"{name}: k-space is not finite everywhere; expected numbers; fix the source")
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
        raise VolumeError("unsupported", f"{name}: k-space is undersampled; expected full sampling; use another file")
    return kspace


def _size(file: h5py.File, facts: FastmriFacts, name: str) -> tuple[int, int] | None:
    for key in RECONSTRUCTIONS:
        found = find_object(file, key, name)
        if isinstance(found, h5py.Dataset) and found.ndim == 3:
            return int(found.shape[1]), int(found.shape[2])
    return facts.recon_size and facts.recon_size[:2]


def image_sizes(file: h5py.File, name: str, facts: FastmriFacts) -> tuple[int, int, int]:
    """Return slices, height and width of the image of a file's k-space without reading it."""
    num_slices, *_, height, width = _whole_kspace(file, name).shape
    size = _size(file, facts, name) or (height, width)
    return int(num_slices), min(size[0], int(height)), min(size[1], int(width))
