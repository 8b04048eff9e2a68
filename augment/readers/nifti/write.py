"""Write a magnitude volume as NIfTI, for measurements and examples."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray


def write_axial(path: Path, magnitude: NDArray[np.float32], spacing_mm: tuple[float, float, float]) -> None:
    """Write `(slice height width)` as axial slices with this distance of neighbours along each axis."""
    slice_mm, height_mm, width_mm = spacing_mm
    affine = np.diag([-width_mm, -height_mm, slice_mm, 1.0])  # NIfTI's x grows to the right, y to the front
    nib.save(nib.Nifti1Image(magnitude.transpose(2, 1, 0), affine), path)
