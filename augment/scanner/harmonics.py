"""Smooth complex maps as few Fourier coefficients: `sum_k c[k] exp(2 pi i k u)`, k = -2..2 along each axis.

The form in which BART (`src/simu/sens.c`) keeps the sensitivities of real head arrays: 125 numbers per coil describe
its map on any grid. `u` is a position in periods of the series.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MODES = 5
"""Coefficients per axis."""

PERIOD = 1.5
"""Period of a volume's series along each axis, in fields of view: opposite edges of the image need not agree."""

_ORDERS = torch.arange(MODES, dtype=torch.float64) - MODES // 2
_RIDGE = 1e-5


def waves(positions: Tensor) -> Tensor:
    """Return `exp(2 pi i k u)` for positions `(point)` in periods, complex128 `(point mode)`."""
    return torch.exp(2j * math.pi * positions.to(torch.float64)[:, None] * _ORDERS)


def index_positions(count: int) -> Tensor:
    """Return the positions of all indices of an axis, in periods; the index `count // 2` is at 0."""
    return (torch.arange(count, dtype=torch.float64) - count // 2) / (PERIOD * count)


def evaluate(coefficients: Tensor, positions: Tensor) -> Tensor:
    """Evaluate series at scattered positions.

    Parameters
    ----------
    coefficients
        Complex `(coil 5 5 5)`.
    positions
        float64 `(point axis)`, in periods.

    Returns
    -------
    values
        complex128 `(coil point)`.
    """
    first, second, third = (waves(axis) for axis in positions.T)
    return torch.einsum("cijk,pi,pj,pk->cp", coefficients.to(torch.complex128), first, second, third)


def fit(values: Tensor, positions: Tensor, weights: Tensor) -> Tensor:
    """Fit series to values by weighted, regularised least squares.

    Parameters
    ----------
    values
        complex128 `(coil point)`.
    positions
        float64 `(point axis)`, in periods.
    weights
        float64 `(point)`, >= 0.

    Returns
    -------
    coefficients
        complex64 `(coil 5 5 5)`, rounded to 20 bits: the last bits of the solution depend on the linear algebra
        library, but the stored coefficients must not.
    """
    first, second, third = (waves(axis) for axis in positions.T)
    basis = torch.einsum("pi,pj,pk->pijk", first, second, third).reshape(len(positions), -1)
    weighted = basis.conj() * weights[:, None]
    normal = weighted.T @ basis + _RIDGE * weights.sum() * torch.eye(basis.shape[1], dtype=torch.complex128)
    solved = torch.linalg.solve(normal, weighted.T @ values.T).T.reshape(-1, MODES, MODES, MODES)
    step = 2.0 ** (math.ceil(math.log2(float(solved.abs().max()) or 1.0)) - 20)
    return torch.complex(*((part / step).round() * step + 0.0 for part in (solved.real, solved.imag))).to(
        torch.complex64
    )
