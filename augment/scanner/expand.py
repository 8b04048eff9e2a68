"""Expand an image and coil coefficients to the k-space of all coils: the one function for stored and lazy corpora.

With `R` the series of the coefficients, the maps are `S = R / sqrt(sum |R|^2)`, so `sum |S|^2 = 1` in every pixel: the
root sum of squares of the coil images is the magnitude of the image.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rephase.scanner.harmonics import MODES, index_positions, waves

_SAMPLES = 2 * MODES - 1
"""Samples per axis that determine the sum of squares of series, a series of twice the order."""


class CoilMaps:
    """The sensitivity maps of one volume.

    Parameters
    ----------
    coefficients
        complex64 `(coil 5 5 5)`, along (slice, height, width); a period is `harmonics.PERIOD` fields of view.
    num_slices, height, width
        Size of the image.
    """

    def __init__(self, coefficients: NDArray[np.complex64], num_slices: int, height: int, width: int) -> None:
        self._slices = torch.from_numpy(np.ascontiguousarray(coefficients)).to(torch.complex128)
        self._depth = waves(index_positions(num_slices))
        self._rows, self._columns = (waves(index_positions(count)) for count in (height, width))
        self.num_coils = len(coefficients)

    def sensitivities(self, slice_index: int) -> NDArray[np.complex64]:
        """Return the maps of one slice, complex64 `(coil height width)`."""
        plane = self._plane(slice_index)
        scale = self._inverse_norm(plane)
        rows, columns = self._rows.to(torch.complex64), self._columns.to(torch.complex64)
        maps: NDArray[np.complex64] = torch.stack(
            [(rows @ one) @ columns.T * scale for one in plane.to(torch.complex64)]
        ).numpy()
        return maps

    def kspace(self, image: NDArray[np.complex64], slice_index: int) -> NDArray[np.complex64]:
        """Transform one slice of the object to the k-space of every coil.

        Parameters
        ----------
        image
            complex64 `(height width)`.
        slice_index
            Its number.

        Returns
        -------
        kspace
            complex64 `(coil height width)`, centred, orthonormal; zeros are +0.0. One coil at a time, in buffers that
            fit into the cache of a core: 15 coils of 320 x 320 take as long as their Fourier transforms.
        """
        height, width = image.shape
        plane = self._plane(slice_index)
        # everything in the order of the transform, in which the centre comes first: only small arrays are shifted, and
        # a wave over the image moves the zero frequency to the centre
        shifts = (-(height // 2), -(width // 2))
        scaled = torch.roll(torch.from_numpy(image) * self._inverse_norm(plane), shifts, (0, 1))
        scaled.mul_(centring_wave(height)[:, None] / math.sqrt(height * width)).mul_(centring_wave(width))
        rows = torch.roll(self._rows, shifts[0], 0).to(torch.complex64)
        columns = torch.roll(self._columns, shifts[1], 0).to(torch.complex64).T.contiguous()
        kspace = torch.empty((self.num_coils, height, width), dtype=torch.complex64)
        coil_image = torch.empty((height, width), dtype=torch.complex64)
        for one, result in zip(plane.to(torch.complex64), kspace, strict=True):
            torch.mm(rows @ one, columns, out=coil_image)
            torch.fft.fft2(coil_image.mul_(scaled), out=result)
            result.add_(0.0)  # -0.0 to +0.0
        array: NDArray[np.complex64] = kspace.numpy()
        return array

    def _plane(self, slice_index: int) -> Tensor:
        """Return the coefficients in the plane of a slice, complex128 `(coil 5 5)`."""
        return torch.einsum("cijk,i->cjk", self._slices, self._depth[slice_index])

    def _inverse_norm(self, plane: Tensor) -> Tensor:
        """Return `1 / sqrt(sum |R|^2)`, float32 `(height width)`, from the series of the sum of squares itself."""
        grid = waves(torch.arange(_SAMPLES, dtype=torch.float64) / _SAMPLES)
        squares = torch.einsum("cjk,pj,qk->cpq", plane, grid, grid).abs().square().sum(dim=0)
        series = torch.fft.fftshift(torch.fft.fft2(squares)) / _SAMPLES**2
        rows, columns = (_doubled(one) for one in (self._rows, self._columns))
        # a real sum: the orders of one sign stand for both
        half = MODES - 1
        series[:, half] *= 0.5
        inner, right = rows @ series[:, half:], columns[:, half:]
        left = torch.cat((inner.real, -inner.imag), dim=1).mul_(2)
        total = left @ torch.cat((right.real, right.imag), dim=1).T
        return total.clamp_min_(float(total.max()) * 1e-8).to(torch.float32).rsqrt_()


def _doubled(basis: Tensor) -> Tensor:
    """Return the waves of orders -4..4 from those of -2..2."""
    outer = basis[:, MODES // 2 + 2]
    return torch.cat((basis[:, :2] * outer.conj()[:, None], basis, basis[:, 3:] * outer[:, None]), dim=1)


def centring_wave(count: int) -> Tensor:
    """Return the wave over an axis by which its transform has the zero frequency at `count // 2`, complex64 `(count)`.

    Of an even count it is exactly 1, -1, 1, ...
    """
    if count % 2 == 0:
        return 1 - 2 * (torch.arange(count) % 2).to(torch.complex64)
    angle = 2 * math.pi / count * (torch.arange(count) * (count // 2) % count).to(torch.float64)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def combine(maps: NDArray[np.complex64], images: NDArray[Any]) -> NDArray[np.complex64]:
    """Return the object from the images of all coils `(coil height width)`: `sum conj(S) x`, as `sum |S|^2 = 1`."""
    combined: NDArray[np.complex64] = np.sum(np.conj(maps) * images, axis=0)
    return combined
