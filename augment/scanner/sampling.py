"""What of k-space is sampled, and the one function that makes the sampled k-space of a slice, stored or expanded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.fourier import fft2c
from rephase.scanner.acquisition import Acquisition
from rephase.scanner.expand import CoilMaps
from rephase.scanner.noise import Noise, noisy_kspace


@dataclass(frozen=True)
class Sampling:
    """The sampled part of k-space.

    Attributes
    ----------
    image_height
        Height of the image; k-space has more rows if the readout is oversampled.
    height, width
        Matrix of k-space.
    top
        First row (readout point) that is sampled.
    left, right
        First column (phase-encoding line) that is acquired, and the one after the last.
    elliptical
        Whether the corners are not sampled: outside the ellipse whose half axes are half the height, and the distance
        from the zero frequency to `right`.
    """

    image_height: int
    height: int
    width: int
    top: int = 0
    left: int = 0
    right: int = 0
    elliptical: bool = False

    @classmethod
    def of(cls, acquisition: Acquisition, height: int, width: int) -> Sampling:
        """Return the sampling of an image of a size."""
        encoded = acquisition.oversampling * height
        acquired = max(round(acquisition.phase_resolution * width), 1)
        left = width // 2 - acquired // 2
        skipped = min(round((1 - acquisition.partial_fourier) * acquired), acquired // 2)
        top = min(round((1 - acquisition.asymmetric_echo) * encoded), encoded // 2)
        return cls(height, encoded, width, top, left + skipped, left + acquired, bool(acquisition.elliptical))

    @property
    def is_plain(self) -> bool:
        """Whether the matrix is that of the image."""
        return self.height == self.image_height

    @property
    def is_full(self) -> bool:
        """Whether every point is sampled."""
        return self.top == 0 and self.left == 0 and self.right == self.width and not self.elliptical

    @cached_property
    def support(self) -> NDArray[np.bool_]:
        """The sampled points, bool `(height width)`."""
        points = np.zeros((self.height, self.width), bool)
        points[self.top :, self.left : self.right] = True
        if self.elliptical:
            rows = (np.arange(self.height) - self.height // 2) / (self.height / 2)
            columns = (np.arange(self.width) - self.width // 2) / (self.right - self.width // 2)
            points &= rows[:, None] ** 2 + columns**2 <= 1
        return points

    def pad(self, images: torch.Tensor) -> torch.Tensor:
        """Extend images `(... height width)` to the field of view of the oversampled readout, with zeros."""
        above = (self.height - self.image_height) // 2
        below = self.height - self.image_height - above
        return torch.nn.functional.pad(images, (0, 0, above, below)) if above or below else images


def sampled_kspace(
    image: NDArray[np.complex64],
    slice_index: int,
    maps: CoilMaps | None,
    noise: Noise | None,
    sampling: Sampling | None = None,
    mask: NDArray[Any] | None = None,
) -> NDArray[np.complex64]:
    """Return the k-space of one slice as it is stored.

    Parameters
    ----------
    image
        complex64 `(height width)`.
    slice_index
        Its number.
    maps, noise
        Of the volume; None without.
    sampling
        None if every point of the image's own matrix is sampled.
    mask
        `(width)`, 1 for sampled columns; None for all.

    Returns
    -------
    kspace
        complex64 `([coil] height width)`, centred, orthonormal; zeros, and what is not sampled, are +0.0.
    """
    if noise is not None:
        kspace = noisy_kspace(image, slice_index, maps, noise, sampling)
    elif maps is not None and (sampling is None or sampling.is_plain):
        kspace = maps.kspace(image, slice_index)
    else:
        images = torch.from_numpy(image)
        if maps is not None:
            images = torch.from_numpy(maps.sensitivities(slice_index)) * images
        kspace = (fft2c(images if sampling is None else sampling.pad(images)) + 0.0).contiguous().numpy()
    if sampling is not None and not sampling.is_full:
        kspace[..., ~sampling.support] = 0
    if mask is not None:
        kspace[..., mask == 0] = 0
    return kspace
