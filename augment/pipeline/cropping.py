"""Go back from a zero-filled image to the matrix that was acquired: cut k-space, and keep the geometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.fourier import fft2c, ifft2c
from rephase.readers.volume import Volume


def crop_volume(volume: Volume, height: int, width: int) -> tuple[Volume, float]:
    """Cut a volume's k-space to its central `(height, width)`.

    Measured phase is cut with the magnitude, so the k-space of the result is the central part of that of the complex
    image, to rounding; without one, the magnitude is cut as if its phase were zero.

    Parameters
    ----------
    volume
        The volume. Its field of view stays, and the centre of k-space and of the image.
    height, width
        At most those of the volume.

    Returns
    -------
    cropped
        The volume with the new matrix, spacing, affine, magnitude, phase and labels (those at the nearest voxel).
    outside
        Share of the energy that was cut off, of zero-filled images that of the rounding of their values.
    """
    shape = (len(volume.magnitude), height, width)
    magnitude = np.empty(shape, np.float32)
    phase = None if volume.phase is None else np.empty(shape, np.float32)
    total = kept = 0.0
    for number, part in enumerate(volume.magnitude):
        image = torch.from_numpy(np.ascontiguousarray(part)).to(torch.complex64)
        if volume.phase is not None:
            angle = torch.from_numpy(np.ascontiguousarray(volume.phase[number], np.float32))
            image = image * torch.polar(torch.ones_like(angle), angle)
        kspace = fft2c(image)
        inner = central(kspace.numpy(), height, width)
        total += float(kspace.abs().square().sum(dtype=torch.float64))
        kept += float(np.square(np.abs(inner), dtype=np.float64).sum())
        cropped = ifft2c(torch.from_numpy(inner))
        magnitude[number] = cropped.abs().numpy()
        if phase is not None:
            phase[number] = cropped.angle().numpy()
    old = volume.magnitude.shape[1:]
    labels = volume.segmentation
    if labels is not None:
        rows, columns = (_nearest(size, new) for size, new in zip(old, (height, width), strict=True))
        labels = np.ascontiguousarray(labels[:, rows[:, None], columns])
    steps = (1.0, old[0] / height, old[1] / width)
    first, second, third = (spacing * step for spacing, step in zip(volume.spacing_mm, steps, strict=True))
    result = replace(
        volume,
        magnitude=magnitude,
        phase=phase,
        segmentation=labels,
        spacing_mm=(first, second, third),
        affine=_affine(volume.affine, steps, old, (height, width)),
    )
    return result, max(0.0, 1 - kept / total) if total > 0 else 0.0


def central(kspace: NDArray[np.complex64], height: int, width: int) -> NDArray[np.complex64]:
    """Return the central `(height, width)` of centred k-space, whose zero frequency stays at `n // 2`."""
    top, left = (size // 2 - new // 2 for size, new in zip(kspace.shape[-2:], (height, width), strict=True))
    return np.ascontiguousarray(kspace[..., top : top + height, left : left + width])


def _nearest(before: int, after: int) -> NDArray[np.intp]:
    """Return the nearest old index of every new one; the centres of both are at `n // 2`."""
    places = np.rint((np.arange(after) - after // 2) * (before / after) + before // 2)
    return np.asarray(np.clip(places, 0, before - 1), np.intp)


def _affine(
    affine: tuple[tuple[float, float, float, float], ...],
    steps: tuple[float, float, float],
    old: tuple[int, ...],
    new: tuple[int, int],
) -> tuple[tuple[float, float, float, float], ...]:
    """Return the affine of the cropped volume: the voxel at the centre of the image stays where it is."""
    matrix = np.array(affine, np.float64)
    centre = matrix @ (0, old[0] // 2, old[1] // 2, 1)
    matrix[:3, :3] *= steps
    matrix[:3, 3] = (centre - matrix @ (0, new[0] // 2, new[1] // 2, 0))[:3]
    lines = [tuple(float(value) for value in line) for line in matrix]
    return tuple((a, b, c, d) for a, b, c, d in lines)
