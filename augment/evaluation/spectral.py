"""Phase as k-space shows it: spectrum, conjugate symmetry, and the error of a partial Fourier reconstruction.

All on complex images whose global and linear phase was removed, so that the echo stands in the centre of k-space.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.fourier import fft2c, ifft2c, radial_rings
from rephase.evaluation.phase_volume import PhaseVolume

NUM_RINGS = 32
"""Of the radial spectrum, from the centre to the nearer edge of k-space."""
FLOOR_DB = -80.0
"""Rings that are weaker, relative to the strongest, count as this: what a scanner filled with zeros has no level."""
PARTIAL_FOURIER = 5.0 / 8.0


def radial_spectrum(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """Mean power of k-space on `NUM_RINGS` rings in dB relative to the strongest ring, mean over the slices."""
    spectra = [_rings(slice_image) for one in volumes for slice_image in one.image if slice_image.any()]
    return np.mean(spectra, axis=0) if spectra else np.full(NUM_RINGS, np.nan)


def symmetry_defects(volumes: Sequence[PhaseVolume]) -> NDArray[np.float64]:
    """The conjugate-symmetry defect of each slice, `min_a ||K(k) - exp(ia) conj K(-k)|| / ||K||`.

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
    """The relative error of each slice's magnitude, over the object, after a 5/8 homodyne reconstruction along width.

    Noll, Nishimura and Macovski, IEEE Trans Med Imaging 1991: three eighths of the phase-encoding lines are left out,
    and the image is made real by the phase of the symmetric centre. Phase that the centre does not hold becomes error.
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
