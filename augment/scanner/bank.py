"""Files of coil arrays: measured arrays as coefficients, for `--coils bank:FILE`, and the head array of this package.

A bank is a NumPy archive: `coefficients` complex64 `(array coil 5 5 5)`, the Fourier series of every array along slice,
height and width; `period_mm` `(array 3)`, the period along each; `reach_mm` `(array 3)`, the field of view that was
measured.
"""

from __future__ import annotations

import functools
import zipfile
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.errors import RequestError, unreadable
from rephase.files import sha256
from rephase.scanner.arrays import MOST_COILS
from rephase.scanner.harmonics import MODES
from rephase.text import one_line

_FIX = "write it with 'rephase coils estimate'"


@dataclass(frozen=True)
class CoilBank:
    """Measured coil arrays.

    Attributes
    ----------
    coefficients
        complex64 `(array coil 5 5 5)`.
    period_mm, reach_mm
        float64 `(array 3)`.
    sha256
        Of the file.
    """

    coefficients: NDArray[np.complex64]
    period_mm: NDArray[np.float64]
    reach_mm: NDArray[np.float64]
    sha256: str = ""

    @property
    def num_coils(self) -> int:
        """Coils of every array."""
        return int(self.coefficients.shape[1])

    def save(self, path: Path) -> None:
        """Write the bank; equal banks yield equal bytes."""
        arrays = {"coefficients": self.coefficients, "period_mm": self.period_mm, "reach_mm": self.reach_mm}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, values in arrays.items():
                # np.savez would record the present time
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as file:
                    np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)


def read_bank(path: Path) -> CoilBank:
    """Read a bank.

    Raises
    ------
    RequestError
        If the file is missing or not a bank.
    """
    try:
        data = path.read_bytes()
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("coefficients", "period_mm", "reach_mm")}
    except OSError as error:
        raise unreadable(str(path), error) from None
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError, TypeError, AttributeError) as error:
        raise RequestError(f"{path}: not a bank of coils ({one_line(error)}); {_FIX}") from None
    coefficients, period_mm, reach_mm = arrays.values()
    shape = coefficients.shape
    right = len(shape) == 5 and shape[2:] == (MODES,) * 3 and coefficients.dtype == np.complex64 and shape[0] > 0
    right = right and all(one.shape == (shape[0], 3) and one.dtype == np.float64 for one in (period_mm, reach_mm))
    if not right or not 2 <= shape[1] <= MOST_COILS:
        raise RequestError(
            f"{path}: coefficients {coefficients.dtype} {shape}; expected complex64 (array, 2 to {MOST_COILS} coils, "
            f"5, 5, 5), and period_mm and reach_mm of three numbers per array; {_FIX}"
        )
    finite = np.isfinite(coefficients).all() and all(np.isfinite(one).all() for one in (period_mm, reach_mm))
    if not finite or not coefficients.any((1, 2, 3, 4)).all() or min(period_mm.min(), reach_mm.min()) <= 0:
        raise RequestError(f"{path}: some numbers are not finite, or an array or a size is zero; {_FIX}")
    return CoilBank(coefficients, period_mm, reach_mm, sha256(data))


@functools.cache
def head_coils(num_coils: int) -> torch.Tensor:
    """Return the measured head array with this number of coils, complex128 `(coil x y z)` modes.

    Of the 64 coils, those that differ most are chosen one after another, and every other coil joins the chosen one that
    it resembles most, in phase with it: fewer coils are larger ones, in the same places.
    """
    with as_file(files("rephase.scanner") / "head64.npy") as path:
        coils = torch.from_numpy(np.load(path, allow_pickle=False)).to(torch.complex128)
    # equal noise in every coil, so equal energy over the head, a ball of a quarter of the period
    likeness = _correlation(coils)
    chosen = [int(likeness.abs().sum(dim=0).argmin())]
    while len(chosen) < num_coils:
        chosen.append(int(likeness[chosen].abs().amax(dim=0).argmin()))
    owner = likeness[chosen].abs().argmax(dim=0)
    energy = _energy(coils).diagonal().real.sqrt()
    joined = torch.zeros((num_coils, *coils.shape[1:]), dtype=torch.complex128)
    for coil, which in enumerate(owner.tolist()):
        angle = likeness[chosen[which], coil]
        joined[which] += coils[coil] / energy[coil] * (angle / angle.abs())
    return joined / _energy(joined).diagonal().real.sqrt()[:, None, None, None]


def _energy(coils: torch.Tensor) -> torch.Tensor:
    """Return the inner products of maps over the head, complex128 `(coil coil)`."""
    from rephase.scanner.harmonics import waves

    line = torch.linspace(-0.25, 0.25, 13, dtype=torch.float64)
    one = waves(line)
    maps = torch.einsum("cijk,xi,yj,zk->cxyz", coils, one, one, one)
    inside = (line[:, None, None] ** 2 + line[:, None] ** 2 + line**2).sqrt() <= 0.25
    values = maps[:, inside]
    return values.conj() @ values.T / values.shape[1]


def _correlation(coils: torch.Tensor) -> torch.Tensor:
    inner = _energy(coils)
    size = inner.diagonal().real.sqrt()
    return inner / size[:, None] / size
