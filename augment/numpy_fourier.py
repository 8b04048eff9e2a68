"""The centred, orthonormal inverse Fourier transform for NumPy arrays, without torch, whose import takes seconds.

`rephase.diffusion.fourier` is the same transform for tensors.
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
