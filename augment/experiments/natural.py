"""Natural images as a control: do networks need anatomy, or only some image with a smooth phase?

The pictures are photographs in the wheel of scikit-image (extra `experiments`), whose functions name their sources:
CC0, public domain, or without known restrictions.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rephase.errors import RequestError
from rephase.files import replacing
from rephase.readers.nifti.write import write_axial
from rephase.text import install_hint

NAMES = ("astronaut", "camera", "chelsea", "coffee", "rocket", "moon", "coins", "brick", "grass", "gravel")
"""Photographs in the wheel itself, for which nothing is fetched."""
_SIDE, _SPACING_MM, _SLICE_MM = 192, 1.2, 10.0
"""Side of a crop in pixels, spacing, with which a crop has the field of view of a head, and the distance of crops, as
between slices that share no structure."""


def write_pictures(folder: Path, count: int) -> Path:
    """Write crops of photographs as magnitude volumes, and return their manifest; what is there stays.

    Parameters
    ----------
    folder
        Where images and manifest are.
    count
        Number of pictures, at most `NAMES`.

    Raises
    ------
    RequestError
        If scikit-image is not installed, or there are fewer pictures.
    """
    path = folder / "pictures.csv"
    if count > len(NAMES):
        raise RequestError(f"pictures {count}: expected at most {len(NAMES)}")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in NAMES[:count]:
        image = folder / f"{name}.nii"
        if not image.is_file():
            with replacing(image, image.with_suffix(".partial.nii")) as partial:
                write_axial(partial, _crops(_picture(name)), (_SLICE_MM, _SPACING_MM, _SPACING_MM))
        rows.append((f"natural-{name}", image.name, name, "gradient-echo"))
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("volume_id", "path", "subject_id", "sequence"))
        writer.writerows(rows)
    return path


def _picture(name: str) -> NDArray[np.float32]:
    try:
        from skimage import data
    except ImportError as error:
        raise RequestError(f"arm natural: scikit-image is not installed; {install_hint('experiments')}") from error
    picture = np.asarray(getattr(data, name)(), np.float32)
    return picture.mean(axis=-1) if picture.ndim == 3 else picture


def _crops(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return crops at corners, sides and centre, float32 `(slice height width)`."""
    side = min(_SIDE, *picture.shape)
    places = [
        (round(down * (picture.shape[0] - side)), round(right * (picture.shape[1] - side)))
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5), (0, 0.5), (1, 0.5), (0.5, 0))
    ]
    crops = np.stack([picture[top : top + side, left : left + side] for top, left in places])
    return np.ascontiguousarray(crops, np.float32)
