"""Slices of a data set on one matrix, kept in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.data.base import Matrix, Parts, Transform, VolumeSlices
from rephase.diffusion.fourier import fft2c, ifft2c


class ResizedSlices(VolumeSlices):
    """Slices of a data set on one matrix, each read from it once.

    Larger k-space is cropped to its centre, which keeps the field of view and the samples of the scanner; a smaller
    field of view is padded with zeros. Intensities are kept. The target is the magnitude of the resized k-space, the
    root sum of squares over coils.

    Parameters
    ----------
    slices
        The data set, such as `KSpaceSlices`, without a transform of its own.
    matrix
        Height and width.
    transform
        Called with the six parts.
    random_angle
        Seed of one random angle per slice, with which it is multiplied; None for none.
    """

    def __init__(
        self,
        slices: VolumeSlices,
        matrix: tuple[int, int],
        transform: Transform | None = None,
        *,
        random_angle: int | None = None,
    ) -> None:
        super().__init__(slices.volume_slices, transform)
        self.slices, self.matrix = slices, matrix
        self._random_angle = random_angle
        self._kept: dict[tuple[int, int], Parts] = {}

    @property
    def volumes(self) -> list[str]:
        """Names of the volumes, in order."""
        return self.slices.volumes

    def volume_name(self, volume: int) -> str:
        """Return `fname` of a volume by its number."""
        return self.slices.volume_name(volume)

    def volume_matrix(self, volume: int) -> Matrix:
        """Return coils and the common matrix."""
        return self.slices.volume_matrix(volume)[0], *self.matrix, *self.matrix

    def volume_attributes(self, volume: int) -> dict[str, Any]:
        """Return the attributes of a volume on the common matrix."""
        height, width = self.matrix
        sizes = {"encoding_size": (height, width, 1), "recon_size": (height, width, 1)}
        return self.slices.volume_attributes(volume) | sizes | {"padding_left": 0, "padding_right": width}

    def read_parts(self, volume: int, slice_index: int) -> Parts:
        """Read one slice, from memory if it was read before."""
        key = volume, slice_index
        if key not in self._kept:
            kspace = resize(self.slices.read_parts(volume, slice_index).kspace, self.matrix)
            if self._random_angle is not None:
                random = np.random.default_rng((self._random_angle, volume, slice_index))
                kspace = kspace * np.complex64(np.exp(2j * np.pi * random.random()))
            self._kept[key] = Parts(kspace, None, magnitude(kspace), self.volume_attributes(volume))
        return self._kept[key]

    def subjects(self) -> Mapping[str, str]:
        """Return the subject of each volume, the volume itself where none is known."""
        names = self.volumes
        return {name: self.volume_attributes(number)["patient_id"] or name for number, name in enumerate(names)}


def resize(kspace: NDArray[np.complex64], matrix: tuple[int, int]) -> NDArray[np.complex64]:
    """Bring k-space to a matrix, axis by axis: crop it, or pad the field of view; an object keeps its intensity.

    Parameters
    ----------
    kspace
        `(..., height, width)`, centred, orthonormal.
    matrix
        Height and width.
    """
    found = kspace
    for axis, size in zip((-2, -1), matrix, strict=True):
        count = found.shape[axis]
        if count > size:
            found = _crop(found, axis, size) * np.float32(np.sqrt(size / count))
    short = [max(size - found.shape[axis], 0) for axis, size in zip((-2, -1), matrix, strict=True)]
    if any(short):
        image = _image(found)
        # the centre, at index size // 2, stays the centre
        before = [size // 2 - count // 2 for size, count in zip(matrix, image.shape[-2:], strict=True)]
        pads = [(first, missing - first) for first, missing in zip(before, short, strict=True)]
        found = fft2c(torch.from_numpy(np.pad(image, [(0, 0)] * (image.ndim - 2) + pads))).numpy()
    return np.ascontiguousarray(found, np.complex64)


def magnitude(kspace: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Return the image magnitude of `([coil] height width)`, the root sum of squares over coils."""
    image = np.abs(_image(kspace))
    return np.asarray(image if image.ndim == 2 else np.sqrt(np.square(image).sum(axis=0)), np.float32)


def _image(kspace: NDArray[np.complex64]) -> NDArray[np.complex64]:
    image: NDArray[np.complex64] = ifft2c(torch.from_numpy(np.ascontiguousarray(kspace))).numpy()
    return image


def _crop(kspace: NDArray[np.complex64], axis: int, size: int) -> NDArray[np.complex64]:
    start = kspace.shape[axis] // 2 - size // 2
    return np.take(kspace, np.arange(start, start + size), axis)
