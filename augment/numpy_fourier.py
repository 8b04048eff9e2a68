"""The centred, orthonormal Fourier transform pair for NumPy arrays, without torch, whose import takes seconds.

`rephase.diffusion.fourier` is the same pair for tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_AXES = (-2, -1)


def ifft2c_array(kspace: NDArray[Any]) -> NDArray[np.complex64]:
    """Transform k-space to complex images.

    Parameters
    ----------
    kspace
        Complex k-space, `(*batch height width)`, zero frequency in the centre.

    Returns
    -------
    image
        complex64 of the same shape; orthonormal, so the energy is preserved.
    """
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=_AXES), norm="ortho"), axes=_AXES)
    return image.astype(np.complex64)


def fft2c_array(image: NDArray[Any]) -> NDArray[np.complex64]:
    """Transform complex images `(*batch height width)` to k-space, the inverse of `ifft2c_array`."""
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=_AXES), norm="ortho"), axes=_AXES)
    return kspace.astype(np.complex64)
