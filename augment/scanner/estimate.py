"""Estimate coil arrays from measured multi-coil k-space: ESPIRiT (Uecker et al., MRM 2014) by the package sigpy.

sigpy is an optional extra, `coils`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.errors import RequestError, VolumeError
from rephase.numpy_fourier import ifft2c_array
from rephase.scanner.bank import CoilBank
from rephase.scanner.harmonics import PERIOD, fit
from rephase.text import install_hint, one_line

CALIBRATION = 24
"""Columns and rows in the centre of k-space from which maps are estimated; fewer in small matrices."""

_MOST_SLICES = 7
_MARGIN = 1.25
"""Size of the objects that an array is offered, relative to that on which it was measured: other heads are larger."""

_STEP = 8
"""Every eighth pixel enters the fit: maps are smooth."""


def require_sigpy() -> Any:  # noqa: ANN401 - a module without types
    """Import sigpy's MRI applications.

    Raises
    ------
    RequestError
        If the package is not installed.
    """
    try:
        from sigpy.mri import app
    except ImportError as error:
        raise RequestError(
            f"coils estimate: cannot import sigpy ({one_line(error)}); expected it to be installed; "
            f"{install_hint('coils')}"
        ) from None
    return app


def estimate_array(
    read: Callable[[int], NDArray[np.complex64]], num_slices: int, spacing_mm: tuple[float, float, float], name: str
) -> tuple[NDArray[np.complex64], NDArray[np.float64], NDArray[np.float64]]:
    """Estimate the array of one scan from a few of its slices.

    Parameters
    ----------
    read
        Reads the k-space of a slice, complex64 `(coil height width)`.
    num_slices
        Slices.
    spacing_mm
        Distance of neighbouring slices, rows and columns of the image that k-space encodes.
    name
        Of the scan, for messages.

    Returns
    -------
    coefficients, period_mm, reach_mm
        An entry of a `CoilBank`: complex64 `(coil 5 5 5)`, and `(3)` each.

    Raises
    ------
    VolumeError
        If the scan has one coil, no calibration region or no object.
    """
    calibrate = require_sigpy().EspiritCalib
    chosen = sorted({round(x) for x in np.linspace(0, num_slices - 1, _MOST_SLICES + 2)[1:-1]})
    positions, weights, maps = [], [], []
    reference: NDArray[np.complex64] | None = None
    for number in sorted(chosen, key=lambda number: abs(number - num_slices // 2)):
        kspace = read(number)
        if kspace.ndim != 3 or len(kspace) < 2:
            raise VolumeError("unsupported", f"{name}: has one coil; expected multi-coil k-space; leave it out")
        _, height, width = kspace.shape
        size = min(CALIBRATION, height, width)
        middle = kspace[:, height // 2 - size // 2 :, width // 2 - size // 2 :][:, :size, :size]
        if not middle.any(axis=(0, 1)).all():
            raise VolumeError(
                "unsupported",
                f"{name}: {size} columns in the centre of k-space are not all sampled; expected them to be; leave it "
                "out",
            )
        found = np.asarray(calibrate(kspace, calib_width=size, crop=0.9, show_pbar=False).run())
        if reference is None:
            reference = _virtual_coil(middle)
        found = found * np.exp(-1j * np.angle(np.tensordot(reference.conj(), found, axes=1)))
        energy = np.square(np.abs(ifft2c_array(kspace))).sum(axis=0) * found.any(axis=0)
        rows, columns = np.nonzero(energy[::_STEP, ::_STEP] > 0.01 * energy.max())
        rows, columns = rows * _STEP, columns * _STEP
        depth = np.full(len(rows), number - num_slices // 2)
        positions.append(np.stack([depth, rows - height // 2, columns - width // 2], axis=1) * np.array(spacing_mm))
        weights.append(np.ones(len(rows)))
        maps.append(found[:, rows, columns])
    points = np.concatenate(positions)
    if len(points) < 50:
        raise VolumeError("unsupported", f"{name}: no object in which maps can be estimated; leave it out")
    reach = np.ptp(points, axis=0) + np.array(spacing_mm) * [1, _STEP, _STEP]
    points = points - (points.max(axis=0) + points.min(axis=0)) / 2
    # the field of view of an array is the object that it was measured on; beyond it a series only continues smoothly
    reach = np.maximum(reach, num_slices * spacing_mm[0] * np.array([1.0, 0.0, 0.0]))
    period = PERIOD * np.maximum(reach, 100.0)
    coefficients = fit(
        torch.from_numpy(np.concatenate(maps, axis=1).astype(np.complex128)),
        torch.from_numpy(points / period),
        torch.from_numpy(np.concatenate(weights)),
    )
    array: NDArray[np.complex64] = coefficients.numpy()
    return array, period, _MARGIN * reach


def make_bank(arrays: list[tuple[NDArray[np.complex64], NDArray[np.float64], NDArray[np.float64]]]) -> CoilBank:
    """Join estimated arrays, which all have the same number of coils."""
    coefficients, period, reach = (np.stack(parts) for parts in zip(*arrays, strict=True))
    return CoilBank(coefficients, period, reach)


def _virtual_coil(middle: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Return the combination of coils with the most signal, whose phase maps are relative to, complex64 `(coil)`."""
    flat = middle.reshape(len(middle), -1)
    vector = np.linalg.eigh(flat @ flat.conj().T)[1][:, -1]
    largest = vector[np.argmax(np.abs(vector))]
    combination: NDArray[np.complex64] = (vector * np.conj(largest) / np.abs(largest)).astype(np.complex64)
    return combination
