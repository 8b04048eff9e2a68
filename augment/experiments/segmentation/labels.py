"""Labels of the experiment: those of the manifest, or a rule on the magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.data.base import Parts, Transform, VolumeSlices
from rephase.data.matrices import change_extent, resample_labels
from rephase.errors import RequestError
from rephase.experiments.segmentation.config import RuleConfig
from rephase.experiments.slices import ResizedSlices
from rephase.experiments.subjects import Rows
from rephase.text import install_hint

RULE_TEXT = (
    "a rule on the magnitude, since the manifest has no column segmentation: Otsu's threshold of the smoothed volume, "
    "narrow bridges cut in each slice, the largest connected part, its holes filled. It is no brain drawn by a person: "
    "figures say how well a network reproduces the rule"
)
MANIFEST_TEXT = "the manifest's column segmentation, any label above 0"
_PERCENTILE = 99.0


def has_labels(rows: Rows) -> bool:
    """Return whether the rows name a segmentation: all of them, or none.

    Raises
    ------
    RequestError
        If some do; labels of two kinds would be compared.
    """
    everything = {row.volume_id: row for row in (*rows.train, *rows.test, *rows.magnitudes)}
    without = [name for name, row in everything.items() if row.segmentation is None]
    if without and len(without) < len(everything):
        shown = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
        raise RequestError(
            f"{rows.manifest}: {len(without)} of {len(everything)} rows have no segmentation ({shown}); expected all, "
            "or none for labels by a rule; complete the column segmentation, or leave these rows out"
        )
    return not without


def rule(magnitude: NDArray[np.float32], spacing_mm: Sequence[float], config: RuleConfig) -> NDArray[np.bool_]:
    """Label the largest bright part of a volume, such as the brain of a head, whose scalp hangs on narrow bridges.

    Otsu's threshold of the smoothed volume; in each slice an opening, limited to the thresholded pixels, which cuts
    bridges; the largest part, connected through faces; its holes filled in each slice.

    Parameters
    ----------
    magnitude
        `(slice height width)`.
    spacing_mm
        Along slice, height and width.
    config
        Lengths.

    Returns
    -------
    labels
        Of the same shape; all False for an empty volume.

    Raises
    ------
    RequestError
        If scikit-image is not installed.
    """
    try:
        from scipy import ndimage
        from skimage.filters import threshold_otsu
    except ImportError as error:
        raise RequestError(f"labels by a rule: scikit-image is not installed; {install_hint('experiments')}") from error
    plane = [float(size) for size in spacing_mm[1:]]
    smooth = ndimage.gaussian_filter(magnitude, [0, *(config.smooth_mm / size for size in plane)])
    if smooth.max() <= smooth.min():
        return np.zeros(magnitude.shape, np.bool_)
    bright = smooth > threshold_otsu(smooth)

    def within(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which pixels have only pixels of the mask nearer than the length."""
        found = mask.copy()  # without a pixel outside, there is no distance
        for one, inside in zip(mask, found, strict=True):
            if not one.all():
                inside[:] = ndimage.distance_transform_edt(one, plane) > config.bridge_mm
        return found

    def largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        parts, _ = ndimage.label(mask)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        return np.asarray(mask & (parts == sizes.argmax()), np.bool_)

    core = largest(within(bright))
    if not core.any():  # nothing is that thick
        core = largest(bright)
    # what was lost at the rim comes back, but no bridge beyond
    grown = bright & ~within(~core)
    return np.stack([np.asarray(ndimage.binary_fill_holes(one), np.bool_) for one in largest(grown)])


def otsu(magnitude: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return what Otsu's threshold alone finds: the baseline without a network."""
    from skimage.filters import threshold_otsu

    return np.asarray(magnitude > threshold_otsu(magnitude), np.bool_)


class LabelledSlices(ResizedSlices):
    """Slices on one matrix with `segmentation`, 0 or 1, and `spacing_mm` of this matrix in their attributes.

    K-space and target are divided by the 99th percentile of the magnitude of the volume.

    Parameters
    ----------
    slices
        The data set.
    matrix
        Height and width.
    config
        The rule; None if the data set has `segmentation` in its attributes, any label of which above 0 counts.
    transform, random_angle
        See `ResizedSlices`.
    """

    def __init__(
        self,
        slices: VolumeSlices,
        matrix: tuple[int, int],
        config: RuleConfig | None,
        transform: Transform | None = None,
        *,
        random_angle: int | None = None,
    ) -> None:
        super().__init__(slices, matrix, transform, random_angle=random_angle)
        self.config = config
        self._labelled: dict[int, list[Parts]] = {}

    def volume_attributes(self, volume: int) -> dict[str, Any]:
        """Return the attributes of a volume; its pixels are larger where k-space is cropped."""
        attributes = super().volume_attributes(volume)
        sizes = self.slices.volume_matrix(volume)[1:3]
        through, *plane = attributes["spacing_mm"]
        spacing = [mm * max(count / size, 1.0) for mm, count, size in zip(plane, sizes, self.matrix, strict=True)]
        return attributes | {"spacing_mm": (through, *spacing)}

    def read_parts(self, volume: int, slice_index: int) -> Parts:
        """Read one slice; all of its volume is read at the first one."""
        if volume not in self._labelled:
            self._labelled[volume] = self._read_volume(volume)
        return self._labelled[volume][slice_index]

    def _read_volume(self, volume: int) -> list[Parts]:
        numbers = range(int(self.volume_slices[volume]))
        parts = [super(LabelledSlices, self).read_parts(volume, number) for number in numbers]
        self._kept.clear()
        magnitude = np.stack([one.target for one in parts if one.target is not None])
        attributes = self.volume_attributes(volume)
        if self.config is None:
            labels = np.stack([self._stored(volume, number) for number in numbers])
        else:
            labels = rule(magnitude, attributes["spacing_mm"], self.config)
        # of a volume with an empty background the percentile may be 0
        scale = np.float32(float(np.percentile(magnitude, _PERCENTILE)) or float(magnitude.max()) or 1.0)
        return [
            Parts(one.kspace / scale, None, image / scale, attributes | {"segmentation": label.astype(np.uint8)})
            for one, image, label in zip(parts, magnitude, labels, strict=True)
        ]

    def _stored(self, volume: int, slice_index: int) -> NDArray[np.bool_]:
        """Return the labels of the data set, on the matrix of these slices."""
        labels = self.slices.read_parts(volume, slice_index).attributes["segmentation"]
        return resize_labels(labels > 0, self.slices.volume_matrix(volume)[1:3], self.matrix)


def resize_labels(labels: NDArray[np.bool_], kspace: tuple[int, ...], matrix: tuple[int, int]) -> NDArray[np.bool_]:
    """Bring labels of the target to a matrix, as `rephase.experiments.slices.resize` does with the k-space.

    Parameters
    ----------
    labels
        `(height width)` on the pixels of the target.
    kspace
        Height and width of the k-space, whose image may be larger than the target.
    matrix
        Height and width.
    """
    height, width = kspace
    found = change_extent(labels, (height, width)).astype(np.uint8)
    found = resample_labels(found, (min(height, matrix[0]), min(width, matrix[1])))
    before = [size // 2 - count // 2 for size, count in zip(matrix, found.shape, strict=True)]
    after = [size - count - first for size, count, first in zip(matrix, found.shape, before, strict=True)]
    return np.pad(found, list(zip(before, after, strict=True))) > 0
