"""Receiver noise: complex Gaussian, correlated between coils, from counter-based random numbers.

Noise is sampled in the image, where it is as white as in k-space, because the transform is unitary. A source has noise
of its own, which its image carries into every coil along the sensitivities; only what is missing is added there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rephase.diffusion.fourier import fft2c
from rephase.diffusion.generators import SliceKey
from rephase.diffusion.noise import Stream, complex_normal, step_key, uniform, volume_key
from rephase.scanner.expand import CoilMaps

if TYPE_CHECKING:
    from rephase.scanner.sampling import Sampling

HEAD_CORRELATION, HEAD_MOST, HEAD_SPREAD = 0.165, 0.35, 1.45
"""Of real 8-channel heads: mean and largest correlation between coils, ratio of the largest and least deviation."""

_MEDIAN_OF_RAYLEIGH = math.sqrt(2 * math.log(2))
_CORNER = 8
_LEAST_VALUES = 0.5
_ALIKE = 1.3


@dataclass(frozen=True)
class NoiseLevel:
    """Level of the noise of one volume.

    Attributes
    ----------
    sigma
        Standard deviation in the real and in the imaginary part, root mean square over the coils.
    along
        Part of it that is added along the object, 0 to 1: the source already has the rest.
    """

    sigma: float
    along: float


@dataclass(frozen=True)
class Noise:
    """The noise of one volume.

    Attributes
    ----------
    level
        Its level.
    key
        Of any slice of the volume.
    covariance
        Hermitian `(coil coil)` with a mean diagonal of 1; None for a single coil without an axis.
    """

    level: NoiseLevel
    key: SliceKey
    covariance: NDArray[np.complex64] | None

    def of_slice(
        self, slice_index: int, height: int, width: int, maps: CoilMaps | None, sampling: Sampling | None = None
    ) -> Tensor:
        """Sample the noise of the coil images of one slice, complex64 `([coil] height width)`.

        With an oversampled readout, it has the rows of k-space; beyond the image, the source has no noise of its own.
        """
        rows = height if sampling is None else sampling.height
        above = (rows - height) // 2
        if self.covariance is None or maps is None:
            if rows == height:
                return self._sample("0", slice_index, height, width) * (self.level.sigma * self.level.along)
            noise = self._sample("0", slice_index, rows, width) * self.level.sigma
            noise[above : above + height] *= self.level.along
            return noise
        noise = self._correlated(slice_index, rows, width)
        sensitivities = torch.from_numpy(maps.sensitivities(slice_index))
        inner = noise[:, above : above + height]
        object_part = (sensitivities.conj() * inner).sum(dim=0)
        missing: Tensor = inner - (1 - self.level.along) * sensitivities * object_part
        if rows == height:
            return missing
        noise[:, above : above + height] = missing
        return noise

    def prescan(self, count: int) -> NDArray[np.complex64]:
        """Sample a measurement of noise alone, complex64 `(coil sample)`; one coil without an axis counts as one."""
        number = (1 << 20) - 1  # no slice has it
        if self.covariance is None:
            noise = self._sample("0", number, 1, count) * self.level.sigma
        else:
            noise = self._correlated(number, 1, count)[:, 0]
        samples: NDArray[np.complex64] = noise.numpy()
        return samples

    def _sample(self, coil: str, slice_index: int, height: int, width: int) -> Tensor:
        key = SliceKey(self.key.seed, f"{self.key.volume_id}#coil{coil}", self.key.replica, slice_index)
        return complex_normal(key, Stream.RECEIVER, height, width)

    def _correlated(self, slice_index: int, height: int, width: int) -> Tensor:
        covariance = torch.from_numpy(np.asarray(self.covariance)).to(torch.complex128)
        factor = (self.level.sigma * torch.linalg.cholesky(covariance)).to(torch.complex64)
        # coil by coil: the many integers of the generator stay in the cache of a core
        coils = [self._sample(str(coil), slice_index, height, width) for coil in range(len(factor))]
        correlated: Tensor = torch.tensordot(factor, torch.stack(coils), dims=1)
        return correlated


def noisy_kspace(
    image: NDArray[np.complex64],
    slice_index: int,
    maps: CoilMaps | None,
    noise: Noise,
    sampling: Sampling | None = None,
) -> NDArray[np.complex64]:
    """Return the k-space of one slice with noise, complex64 `([coil] height width)`; zeros are +0.0."""
    height, width = image.shape
    images = torch.from_numpy(image)
    if maps is not None:
        images = torch.from_numpy(maps.sensitivities(slice_index)) * images
    images = images if sampling is None else sampling.pad(images)
    kspace = fft2c(images + noise.of_slice(slice_index, height, width, maps, sampling))
    array: NDArray[np.complex64] = (kspace + 0.0).contiguous().numpy()
    return array


def noise_floor(magnitude: NDArray[np.float32]) -> float:
    """Estimate the noise of a source from its air: the standard deviation of the real part, 0 if air is masked.

    The corner of the volume with the least signal counts, and those like it; the magnitude of noise alone has
    Rayleigh's distribution.

    Parameters
    ----------
    magnitude
        float32 `(slice height width)`.
    """
    _, height, width = magnitude.shape
    rows, columns = max(height // _CORNER, 1), max(width // _CORNER, 1)
    corners = [
        magnitude[:, top, left]
        for top in (slice(0, rows), slice(height - rows, height))
        for left in (slice(0, columns), slice(width - columns, width))
    ]
    means = [float(corner.mean()) for corner in corners]
    kept = [corner for corner, mean in zip(corners, means, strict=True) if mean <= _ALIKE * min(means)]
    air = np.concatenate([corner.reshape(-1) for corner in kept])
    if np.count_nonzero(air) < _LEAST_VALUES * air.size:
        return 0.0
    return float(np.median(air)) / _MEDIAN_OF_RAYLEIGH


def noise_level(snr: float | None, signal: float, floor: float) -> NoiseLevel:
    """Return the level of the noise.

    Parameters
    ----------
    snr
        Median of the object over the standard deviation; None for the deviation of the source.
    signal
        Median of the object.
    floor
        Standard deviation of the source's noise.
    """
    sigma = floor if snr is None else signal / snr
    missing = math.sqrt(max(sigma**2 - floor**2, 0.0))
    return NoiseLevel(sigma, missing / sigma if sigma else 0.0)


def head_covariance(maps: CoilMaps, slice_index: int, key: SliceKey) -> NDArray[np.complex64]:
    """Return a covariance as of real head arrays: coils that see the same part of the object share its noise."""
    values = torch.from_numpy(maps.sensitivities(slice_index))[:, ::4, ::4].reshape(maps.num_coils, -1)
    values = values.to(torch.complex128)
    inner = values @ values.conj().T
    size = inner.diagonal().real.sqrt()
    likeness = inner / size[:, None] / size
    likeness.fill_diagonal_(0)
    mean = likeness.abs().sum() / (maps.num_coils * (maps.num_coils - 1))
    # a weighted mean of two correlation matrices, so positive definite
    share = min(HEAD_CORRELATION / float(mean), HEAD_MOST / float(likeness.abs().max()), 0.9)
    likeness.mul_(share).fill_diagonal_(1)
    u = uniform(step_key(volume_key(key), 0), Stream.RECEIVER, maps.num_coils).to(torch.float64)
    deviation = torch.exp(math.log(HEAD_SPREAD) * u)
    deviation /= deviation.square().mean().sqrt()
    covariance = likeness * deviation[:, None] * deviation
    rounded = torch.complex(*((part * 2**20).round() / 2**20 + 0.0 for part in (covariance.real, covariance.imag)))
    matrix: NDArray[np.complex64] = rounded.to(torch.complex64).numpy()
    return matrix


def given_covariance(numbers: NDArray[np.complex128]) -> NDArray[np.complex64]:
    """Return a given covariance scaled to a mean diagonal of 1.

    Raises
    ------
    ValueError
        If it is not square, Hermitian and positive definite.
    """
    if numbers.ndim != 2 or numbers.shape[0] != numbers.shape[1]:
        raise ValueError(f"has shape {numbers.shape}; expected (coil, coil)")
    if not np.isfinite(numbers).all() or np.abs(numbers - numbers.conj().T).max() > 1e-5 * np.abs(numbers).max():
        raise ValueError("is not Hermitian; expected a covariance")
    scaled = numbers / np.trace(numbers).real * len(numbers)
    least = float(np.linalg.eigvalsh(scaled).min())
    if not least > 1e-6:
        raise ValueError(
            f"has an eigenvalue of {least:.3g} relative to the mean variance; expected a positive covariance"
        )
    matrix: NDArray[np.complex64] = (scaled + 0.0).astype(np.complex64)
    return matrix
