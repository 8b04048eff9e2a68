"""What the headers of fastMRI files say, and the complex image behind their k-space."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.record import CONTRASTS

_PLANES = ("AX", "COR", "SAG")
# longer names first: fastMRI's own are T1PRE, T1POST, T2, FLAIR, PD and PDFS
_BY_LENGTH = sorted((name for name in CONTRASTS if name != "other"), key=len, reverse=True)
_LOW_RESOLUTION = 24


@dataclass(frozen=True)
class FastmriFacts:
    """Facts of one file; None where it does not say."""

    spacing_mm: tuple[float, float, float] | None = None
    recon_size: tuple[int, int] | None = None
    te_ms: float | None = None
    field_t: float | None = None
    contrast: str | None = None


def fastmri_facts(header: bytes | str | None, attributes: Mapping[str, Any]) -> FastmriFacts:
    """Read the facts out of the ISMRMRD header and the attributes.

    Only a few plain numbers are wanted, so the XML is searched, not parsed: no entity of a hostile file is expanded.
    """
    text = header.decode("utf-8", "replace") if isinstance(header, bytes) else header or ""
    recon = _element(text, "reconSpace")
    sizes = _triple(_element(recon, "matrixSize"))
    view_mm = _triple(_element(recon, "fieldOfView_mm"))
    spacing = None
    if sizes and view_mm and min(*sizes, *view_mm) > 0:
        # x is readout, which is the height here; z of one slice is its thickness.
        spacing = (view_mm[2] / sizes[2], view_mm[0] / sizes[0], view_mm[1] / sizes[1])
    return FastmriFacts(
        spacing_mm=spacing,
        recon_size=(int(sizes[0]), int(sizes[1])) if sizes else None,
        te_ms=_number(_element(text, "TE")),
        field_t=_number(_element(text, "systemFieldStrength_T")),
        contrast=_contrast(attributes.get("acquisition")),
    )


def _contrast(acquisition: object) -> str | None:
    """Read the contrast out of a name such as AXT1POST or CORPDFS_FBK: the plane, then what is measured."""
    name = acquisition.upper() if isinstance(acquisition, str) else ""
    rest = next((name.removeprefix(plane) for plane in _PLANES if name.startswith(plane)), "")
    return next((contrast for contrast in _BY_LENGTH if rest.startswith(contrast.upper())), None)


def _element(text: str, name: str) -> str:
    # Two searches: one pattern for both tags would look for an end from every beginning, for hours in a hostile file.
    start = re.search(rf"<(?:\w+:)?{name}>", text)
    end = re.compile(rf"</(?:\w+:)?{name}>").search(text, start.end()) if start else None
    return text[start.end() : end.start()] if start and end else ""


def _triple(text: str) -> tuple[float, float, float] | None:
    x, y, z = (_number(_element(text, axis)) for axis in "xyz")
    return None if x is None or y is None or z is None else (x, y, z)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < np.inf else None


def image_of_kspace(kspace: NDArray[np.complex64], size: tuple[int, int] | None) -> NDArray[np.complex64]:
    """Transform fully sampled k-space to one complex image per slice.

    Coils are combined with sensitivities from the middle of k-space, so that phase is kept: they are rated against one
    virtual coil, the strongest combination of all coils over the volume, whose own smooth phase stays in the result.

    Parameters
    ----------
    kspace
        `(slice [coil] height width)`, centred.
    size
        Height and width to which the middle of the image is cut, as fastMRI's reconstructions are: this removes readout
        oversampling. None keeps all.

    Returns
    -------
    image
        complex64 `(slice height width)`.
    """
    if kspace.ndim == 3:
        return np.stack([_cut(_ifft2c(plane), size) for plane in kspace])
    weights = _virtual_coil(kspace)
    return np.stack([_cut(_combine(plane, weights), size) for plane in kspace])


def magnitude_of_kspace(kspace: NDArray[np.complex64], size: tuple[int, int] | None) -> NDArray[np.float32]:
    """Transform one slice of fully sampled k-space to its magnitude as fastMRI's `reconstruction_*` are made.

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
    magnitude = np.abs(_cut(_ifft2c(kspace), size))
    return np.asarray(magnitude if kspace.ndim == 2 else np.sqrt(np.sum(np.square(magnitude), axis=0)), np.float32)


def _ifft2c(kspace: NDArray[Any]) -> NDArray[Any]:
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes).astype(
        np.complex64
    )


def _virtual_coil(kspace: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Weights of the coils: the principal vector of their covariance in the middle of k-space."""
    middle = _middle(kspace)
    samples = middle.transpose(1, 0, 2, 3).reshape(kspace.shape[1], -1).astype(np.complex128)
    _, vectors = np.linalg.eigh(samples @ samples.conj().T)
    principal = vectors[:, -1]
    # The sign of an eigenvector is the library's choice: tie it to the strongest coil.
    strongest = principal[np.argmax(np.abs(principal))]
    return np.asarray(principal * np.conj(strongest) / np.abs(strongest), np.complex64)


def _middle(kspace: NDArray[Any]) -> NDArray[Any]:
    return _cut(kspace, (_LOW_RESOLUTION, _LOW_RESOLUTION))


def _combine(kspace: NDArray[np.complex64], weights: NDArray[np.complex64]) -> NDArray[np.complex64]:
    coil_images = _ifft2c(kspace)
    low = _ifft2c(kspace * _window(kspace.shape[-2])[:, np.newaxis] * _window(kspace.shape[-1]))
    virtual = np.einsum("c,chw->hw", weights.conj(), low)
    reference = np.exp(1j * np.angle(virtual))
    norm = np.sqrt(np.sum(np.abs(low) ** 2, axis=0))
    combined = np.sum(np.conj(low) * coil_images, axis=0) * reference
    return np.asarray(np.divide(combined, norm, out=np.zeros_like(combined), where=norm > 0), np.complex64)


def _window(size: int) -> NDArray[np.float64]:
    """Hann window over the low frequencies, zero elsewhere: without its smooth edge the sensitivities would ring."""
    distance = np.abs(np.arange(size) - size // 2) / (min(_LOW_RESOLUTION, size) / 2 + 1)
    return np.where(distance < 1, np.cos(np.pi / 2 * np.minimum(distance, 1)) ** 2, 0.0)


def _cut(image: NDArray[Any], size: tuple[int, int] | None) -> NDArray[Any]:
    if size is None:
        return image
    height, width = (min(wanted, found) for wanted, found in zip(size, image.shape[-2:], strict=True))
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]
