"""Transform magnitude and phase to k-space, slice by slice, and check that the magnitude is reproduced."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.corpus.layout import MAGNITUDE_TOLERANCE, positive_zeros
from rephase.diffusion.fourier import fft2c, ifft2c
from rephase.errors import VolumeError


def make_image(magnitude: NDArray[np.float32], phasor: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Combine a magnitude and a phasor of modulus 1, `(height width)` each, into a complex image."""
    return np.multiply(magnitude, phasor, dtype=np.complex64)


def make_kspace(magnitude: NDArray[np.float32], phasor: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Transform a volume to k-space.

    Parameters
    ----------
    magnitude
        float32 `(slice height width)`, >= 0, finite.
    phasor
        complex64 of the same shape, modulus 1.

    Returns
    -------
    kspace
        complex64 `(slice height width)`, centred, orthonormal; zeros are +0.0. Every slice is transformed separately,
        in its own memory, so that its bytes do not depend on neighbouring slices.

    Raises
    ------
    VolumeError
        `not_finite` or `failed`: the k-space does not reproduce the magnitude.
    """
    limit = MAGNITUDE_TOLERANCE * float(magnitude.max())
    kspace = np.empty(magnitude.shape, dtype=np.complex64)
    for slice_index in range(len(magnitude)):
        image = torch.from_numpy(make_image(magnitude[slice_index], phasor[slice_index]))
        transformed = fft2c(image)
        refuse_magnitude(magnitude[slice_index], ifft2c(transformed).abs().numpy(), limit, slice_index)
        kspace[slice_index] = positive_zeros(transformed.numpy())
    return kspace


def refuse_magnitude(
    magnitude: NDArray[np.float32], reproduced: NDArray[np.float32], limit: float, slice_index: int
) -> None:
    """Check that a slice's magnitude is reproduced to within a limit; both `(height width)`.

    Raises
    ------
    VolumeError
        `not_finite` or `failed`.
    """
    error = float(np.abs(reproduced - magnitude).max())
    if error <= limit:
        return
    if not np.isfinite(error):
        raise VolumeError(
            "not_finite",
            f"the k-space of slice {slice_index} is not finite; expected finite phase of modulus 1; use another "
            "phase or other weights",
        )
    raise VolumeError(
        "failed",
        f"the k-space of slice {slice_index} reproduces the magnitude with an error of {error:.3g}; expected at most "
        f"{limit:.3g}; the phase is not of modulus 1",
    )


def real_phasor(phase: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Convert measured phase in radians to phasors, complex64 of the same shape."""
    phasor = np.empty(phase.shape, dtype=np.complex64)
    for slice_index, angle in enumerate(phase):
        tensor = torch.from_numpy(np.ascontiguousarray(angle, dtype=np.float32).copy())
        phasor[slice_index] = torch.polar(torch.ones_like(tensor), tensor).numpy()
    return phasor
