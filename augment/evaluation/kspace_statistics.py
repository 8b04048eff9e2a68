"""Statistics of complex images in k-space: spectrum, symmetry, partial Fourier, and undersampling.

Functions take the volumes of a session, which are pooled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.data.masks import ColumnMask
from rephase.diffusion.fourier import fft2c, ifft2c, radial_rings
from rephase.evaluation.statistics import PhaseVolume

NUM_RINGS = 32
"""Rings of `radial_spectrum`, from the centre to the nearer edge of k-space."""
FLOOR_DB = -80.0
"""Lower limit of a ring relative to the strongest: zero-filled parts of k-space have zero power."""
PARTIAL_FOURIER = 5.0 / 8.0
MIDDLE = 0.08
"""Central fraction of the columns of k-space in `middle_shares`; `zero_filled_errors` samples all of it."""
ACCELERATION = 4


def radial_spectrum(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return the mean power of k-space on `NUM_RINGS` rings in dB of the strongest ring, mean over the slices."""
    spectra = [_rings(slice_image) for one in volumes for slice_image in one.image if slice_image.any()]
    return np.mean(spectra, axis=0) if spectra else np.full(NUM_RINGS, np.nan)


def symmetry_defects(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return the conjugate-symmetry defect of each slice, `min_a ||K(k) - exp(ia) conj K(-k)|| / ||K||`.

    `conj K(-k)` is the transform of the conjugate image x, so by Parseval the defect is
    `sqrt(2 - 2 |sum x^2| / sum |x|^2)`: 0 for zero phase, sqrt(2) for white phase. The sums run over the object.
    """
    defects = []
    for one in volumes:
        for image, inside in zip(one.image, one.support, strict=True):
            x = image[inside].astype(np.complex128)
            power = float((np.abs(x) ** 2).sum())
            if power > 0:
                defects.append(np.sqrt(max(2.0 - 2.0 * abs((x**2).sum()) / power, 0.0)))
    return np.array(defects) if defects else np.array([np.nan])


def homodyne_errors(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return the relative magnitude error of each slice after a 5/8 homodyne reconstruction along width.

    Noll, Nishimura and Macovski, IEEE Trans Med Imaging 1991: three eighths of the phase-encoding lines are dropped,
    and the phase of the symmetric centre is removed. Phase of higher spatial frequency becomes error.
    """
    errors = []
    for one in volumes:
        made = homodyne(one.image)
        for result, magnitude, inside in zip(made, one.magnitude, one.support, strict=True):
            truth = magnitude[inside].astype(np.float64)
            if truth.size:
                errors.append(np.linalg.norm(result[inside] - truth) / np.linalg.norm(truth))
    return np.array(errors) if errors else np.array([np.nan])


def homodyne(images: NDArray[np.complex64], fraction: float = PARTIAL_FOURIER) -> NDArray[np.float64]:
    """Reconstruct real images from the upper `fraction` of their columns of k-space, `(slice height width)`."""
    width = images.shape[-1]
    kspace = fft2c(torch.from_numpy(images))
    k = torch.arange(width) - width // 2
    overscan = max(round(fraction * width) - width // 2, 1)
    ramp = (1.0 + k / overscan).clamp(0.0, 2.0)
    hann = torch.where(k.abs() < overscan, 0.5 + 0.5 * torch.cos(torch.pi * k / overscan), 0.0)
    guide = ifft2c(kspace * hann)
    made: NDArray[np.float64] = (
        ifft2c(kspace * ramp) * torch.polar(torch.ones_like(guide.real), -guide.angle())
    ).real.numpy()
    return made


def middle_shares(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return the share of each slice's k-space energy in the middle `MIDDLE` of the columns, at least one column.

    Whole image with its global and linear phase: a ramp moves energy out of the middle, as in the acquisition.
    """
    shares = []
    for one in volumes:
        energy = _kspace(one).abs().square().sum(dim=1).numpy().astype(np.float64)
        width = energy.shape[1]
        count = max(round(MIDDLE * width), 1)
        start = (width - count + 1) // 2
        totals = energy.sum(axis=1)
        shares += list((energy[:, start : start + count].sum(axis=1) / np.maximum(totals, 1e-300))[totals > 0])
    return np.array(shares) if shares else np.array([np.nan])


def zero_filled_errors(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Return the NMSE of the magnitude of each slice after zero-filling at `ACCELERATION`, `||r - m||^2 / ||m||^2`.

    The columns are those of fastMRI's `equispaced_fraction` mask with a centre of `MIDDLE` and offset 0, a fixed mask
    for each width. Whole image, with its global and linear phase.
    """
    errors = []
    for one in volumes:
        made = ifft2c(_kspace(one) * zero_filling_mask(one.magnitude.shape[-1])).abs().numpy().astype(np.float64)
        difference = ((made - one.magnitude) ** 2).sum(axis=(1, 2))
        power = (one.magnitude.astype(np.float64) ** 2).sum(axis=(1, 2))
        errors += list((difference / np.maximum(power, 1e-300))[power > 0])
    return np.array(errors) if errors else np.array([np.nan])


@cache
def zero_filling_mask(width: int) -> torch.Tensor:
    """Return the mask of `zero_filled_errors`, float32 `(width)`."""
    return torch.from_numpy(ColumnMask("equispaced_fraction", (ACCELERATION,), (MIDDLE,))(width, seed=0, offset=0))


def _kspace(volume: PhaseVolume) -> torch.Tensor:
    return fft2c(torch.from_numpy(volume.magnitude * volume.phasor))


def _rings(image: NDArray[np.complex64]) -> NDArray[np.float64]:
    power = fft2c(torch.from_numpy(image)).abs().square().numpy().astype(np.float64)
    height, width = image.shape
    ring = radial_rings(height, width, NUM_RINGS).numpy()
    totals = np.bincount(ring.ravel(), power.ravel(), NUM_RINGS + 1)[:NUM_RINGS]
    counts = np.bincount(ring.ravel(), minlength=NUM_RINGS + 1)[:NUM_RINGS]
    mean = np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
    with np.errstate(divide="ignore"):
        decibels: NDArray[np.float64] = 10.0 * np.log10(mean / np.nanmax(mean))
    return np.maximum(decibels, FLOOR_DB)
