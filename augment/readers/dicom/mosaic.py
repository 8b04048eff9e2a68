"""Read the layout of Siemens mosaics: one image with all slices of a volume as tiles."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import pydicom

from rephase.errors import VolumeError

with warnings.catch_warnings():
    # nibabel warns at import that its DICOM readers are experimental; only its parser of Siemens headers is used
    warnings.simplefilter("ignore", UserWarning)
    from nibabel.nicom import csareader

Vector = tuple[float, float, float]
_MOST_SLICES = 4096  # a mosaic has a few hundred at most; a damaged count must not create millions of frames


@dataclass(frozen=True)
class MosaicLayout:
    """`grid` x `grid` tiles of `tile_shape` (rows, columns); slices grow along `normal`."""

    num_slices: int
    grid: int
    tile_shape: tuple[int, int]
    normal: Vector


def is_mosaic(dataset: pydicom.Dataset) -> bool:
    """Whether ImageType marks the image as a mosaic."""
    image_type = dataset.get("ImageType") or []
    return "MOSAIC" in ([image_type] if isinstance(image_type, str) else list(image_type))


def mosaic_layout(dataset: pydicom.Dataset, rows: int, columns: int, normal: Vector, name: str) -> MosaicLayout:
    """Read the layout of a mosaic from the private Siemens header.

    Parameters
    ----------
    dataset
        Header of the mosaic.
    rows, columns
        Of the whole image.
    normal
        Row direction x column direction; the private header gives the sign.
    name
        For messages.

    Raises
    ------
    VolumeError
        `unsupported` where the private header was removed or contradicts the image.
    """
    header = _csa_header(dataset, name)
    num_slices = int(csareader.get_n_mosaic(header) or 0) if header else _private_count(dataset)
    if num_slices < 1:
        raise VolumeError(
            "unsupported",
            f"{name}: a Siemens mosaic without its number of slices; expected the private Siemens header; "
            "export it again without removing private tags",
        )
    grid = math.ceil(math.sqrt(num_slices))
    if num_slices > _MOST_SLICES or min(rows, columns) < grid or rows % grid or columns % grid:
        raise VolumeError(
            "unsupported",
            f"{name}: a mosaic of {num_slices} slices in {rows}x{columns} pixels; "
            f"expected {grid}x{grid} tiles of equal "
            "size; export it again",
        )
    csa_normal = csareader.get_slice_normal(header) if header else None
    along = 1.0 if csa_normal is None else sum(a * b for a, b in zip(normal, csa_normal, strict=True))
    sign = -1.0 if along < 0 else 1.0
    x, y, z = (sign * component for component in normal)
    return MosaicLayout(num_slices, grid, (rows // grid, columns // grid), (x, y, z))


def _csa_header(dataset: pydicom.Dataset, name: str) -> dict[str, Any] | None:
    try:
        header: dict[str, Any] | None = csareader.get_csa_header(dataset)
    except (csareader.CSAError, AssertionError, ValueError, IndexError, TypeError, OSError) as error:
        raise VolumeError(
            "unreadable", f"{name}: private Siemens header is damaged ({error}); export it again"
        ) from error
    return header


def _private_count(dataset: pydicom.Dataset) -> int:
    try:
        return int(dataset.private_block(0x19, "SIEMENS MR HEADER")[0x0A].value)
    except (KeyError, ValueError, TypeError):
        return 0
