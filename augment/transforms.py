"""Transforms of slices for the loaders: one matrix for all, random flips, normalisation.

Each takes the six parts of an item, `(kspace, mask, target, attrs, fname, slice_index)`, and returns six, so that they
may be chained; so does `rephase.MaskedSlices`:

transform = Compose(FitMatrix((320, 320)), RandomFlips(seed=1), MaskedSlices(mask, training=True), Normalise())
train = KSpaceSlices("corpus.zarr", split="train", transform=transform)

The functions that they consist of take arrays. Nothing random depends on the order of reading, on workers or ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rephase.data.base import Item
from rephase.data.masks import seed_of
from rephase.data.matrices import (
    change_extent,
    change_field_of_view,
    change_resolution,
    flip,
    flip_image,
    flip_mask,
    resample_labels,
    resample_maps,
)
from rephase.data.order import set_epoch_of, shared_epoch
from rephase.errors import RequestError
from rephase.numpy_fourier import fft2c_array, ifft2c_array

__all__ = [
    "Compose", "FitMatrix", "Item", "Normalise", "RandomFlips", "change_extent", "change_field_of_view",
    "change_resolution", "flip", "flip_image", "flip_mask", "resample_labels", "resample_maps",
]  # fmt: skip

_FLIPS = 0xF11B  # so that flips and masks of one seed are unrelated


class Compose:
    """Apply transforms one after another; the last one may return anything.

    `set_epoch` is passed on to all of them.
    """

    def __init__(self, *transforms: Callable[..., Any]) -> None:
        self.transforms = transforms

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the transforms that have one."""
        for one in self.transforms:
            set_epoch_of(one, epoch)

    def __call__(self, *parts: Any) -> Any:  # noqa: ANN401 - any value that the last one returns
        """Transform one item."""
        item: Any = parts
        for one in self.transforms:
            item = one(*item)
        return item


@dataclass(frozen=True)
class FitMatrix:
    """Bring every slice to one matrix, with the intensity of its image.

    First, the image is cropped to the target, which removes the oversampling of the readout. Then each axis that is
    larger is cropped in k-space (the field of view stays, the resolution falls) and each that is smaller is padded in
    the image (a larger field of view of zeros, the same resolution); or both the other way.

    The target of an image of lower resolution is the magnitude of the complex image, of several coils the root sum of
    squares; not a smoothed magnitude. `sens_maps` and `segmentation` in `attrs` follow, as do `encoding_size`,
    `recon_size`, `spacing_mm`, `padding_left` and `padding_right`; `max` and `norm` stay those of the stored volume.

    Attributes
    ----------
    size
        Height and width.
    larger
        What an axis that is larger loses: `resolution`, or `field_of_view` (its ends are cut off).
    smaller
        What an axis that is smaller gains: `field_of_view`, or `resolution` (zero-filled, thus interpolated).
    """

    size: tuple[int, int]
    larger: Literal["resolution", "field_of_view"] = "resolution"
    smaller: Literal["resolution", "field_of_view"] = "field_of_view"

    def __post_init__(self) -> None:
        for name in ("larger", "smaller"):
            if getattr(self, name) not in ("resolution", "field_of_view"):
                raise RequestError(f"{name} {getattr(self, name)!r}: expected resolution or field_of_view")
        change_extent(np.zeros((1, 1)), self.size)  # checks it

    def __call__(
        self,
        kspace: NDArray[np.complex64],
        mask: NDArray[np.float32] | None,
        target: NDArray[np.float32] | None,
        attrs: dict[str, Any],
        fname: str,
        slice_index: int,
    ) -> Item:
        """Transform one item.

        Raises
        ------
        RequestError
            If the matrix of undersampled k-space would change.
        """
        shown = tuple(int(one) for one in attrs["recon_size"][:2]) if target is None else target.shape
        begin = tuple(min(pair) for pair in zip(shown, kspace.shape[-2:], strict=True))
        item = Item(kspace, mask, target, dict(attrs), fname, slice_index)
        if (*begin, *kspace.shape[-2:]) == (*self.size, *self.size):
            return item
        if mask is not None and not mask.all():
            raise RequestError(
                f"{fname}: k-space of {kspace.shape[-2]} x {kspace.shape[-1]} is undersampled, so FitMatrix cannot "
                f"make it {self.size[0]} x {self.size[1]}; expected full sampling; put FitMatrix before MaskedSlices"
            )
        item = _with_extent(item, (begin[0], begin[1]))
        modes = [self.larger if old > new else self.smaller for old, new in zip(begin, self.size, strict=True)]
        pairs = list(zip(modes, begin, self.size, strict=True))
        height, width = (new if mode == "resolution" else old for mode, old, new in pairs)
        return _with_extent(_with_resolution(item, (height, width)), self.size)


@dataclass(frozen=True)
class RandomFlips:
    """Flip images at random: k-space, mask, target, and `sens_maps` and `segmentation` in `attrs`.

    Whether a slice is flipped along an axis is a function of seed, epoch, file name and slice alone; `set_epoch` of the
    data set, sampler or stream sets the epoch. An image may be flipped before or after its masking.

    Attributes
    ----------
    axes
        Of `height` and `width`; each is decided by itself.
    probability
        That of a flip.
    seed
        From 0 to 4294967295.
    """

    axes: Collection[str] = ("height", "width")
    probability: float = 0.5
    seed: int = 0
    _epoch: Tensor = field(default_factory=shared_epoch, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.axes, str) or not set(self.axes) <= {"height", "width"}:
            raise RequestError(f"axes {self.axes!r}: expected some of ('height', 'width')")
        if not 0 <= self.probability <= 1:
            raise RequestError(f"probability {self.probability}: expected 0 to 1")
        if not 0 <= self.seed < 2**32:
            raise RequestError(f"seed {self.seed}: expected 0 to {2**32 - 1}")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch."""
        self._epoch[0] = epoch

    def __call__(
        self,
        kspace: NDArray[np.complex64],
        mask: NDArray[np.float32] | None,
        target: NDArray[np.float32] | None,
        attrs: dict[str, Any],
        fname: str,
        slice_index: int,
    ) -> Item:
        """Transform one item."""
        seed = (_FLIPS, self.seed, int(self._epoch) % 2**32, slice_index, *seed_of(fname))
        drawn = np.random.RandomState(seed).uniform(size=2) < self.probability
        item = Item(kspace, mask, target, dict(attrs), fname, slice_index)
        for axis, chosen in zip(("height", "width"), drawn.tolist(), strict=True):
            if chosen and axis in self.axes:
                item = flip_item(item, axis)
        return item


@dataclass(frozen=True)
class Normalise:
    """Divide k-space and target by one number, so that images are of about 1.

    `max` and `norm` in `attrs` are divided too, and `attrs["divided_by"]` is the number.

    Attributes
    ----------
    by
        `input`: the maximum of the image of this k-space, as sampled (root sum of squares of several coils), so that
        nothing of the target is used; or `volume`: the maximum of the volume, the same for all its slices.
    """

    by: Literal["input", "volume"] = "input"

    def __post_init__(self) -> None:
        if self.by not in ("input", "volume"):
            raise RequestError(f"by {self.by!r}: expected input or volume")

    def __call__(
        self,
        kspace: NDArray[np.complex64],
        mask: NDArray[np.float32] | None,
        target: NDArray[np.float32] | None,
        attrs: dict[str, Any],
        fname: str,
        slice_index: int,
    ) -> Item:
        """Transform one item.

        Raises
        ------
        RequestError
            If the maximum of the volume is unknown.
        """
        scale = float(attrs["max"]) if self.by == "volume" else float(magnitude_of(ifft2c_array(kspace)).max())
        if not math.isfinite(scale):
            raise RequestError(
                f"{fname}: the maximum of {'the volume is unknown' if self.by == 'volume' else 'its image'}"
                f" ({scale:g}); expected a number; use Normalise('input'), or mend the file"
            )
        scale = scale or 1.0  # an empty slice
        divided: dict[str, Any] = {key: attrs[key] / scale for key in ("max", "norm") if key in attrs}
        target = None if target is None else (target / np.float32(scale)).astype(np.float32)
        values = (kspace / np.float32(scale)).astype(np.complex64)
        return Item(values, mask, target, {**attrs, **divided, "divided_by": scale}, fname, slice_index)


def magnitude_of(image: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Return the magnitude of an image `(height width)`, or the root sum of squares of `(coil height width)`."""
    magnitude = np.abs(image)
    return magnitude if magnitude.ndim == 2 else np.sqrt(np.sum(np.square(magnitude), axis=0))


def flip_item(item: Item, axis: str) -> Item:
    """Flip an item along `height` or `width`, about the middle of its target."""
    number = ("height", "width").index(axis)
    size = int(item.attrs["recon_size"][number] if item.target is None else item.target.shape[number])
    attrs = dict(item.attrs)
    if "segmentation" in attrs:
        attrs["segmentation"] = np.flip(attrs["segmentation"], number).copy()
    if "sens_maps" in attrs:
        attrs["sens_maps"] = flip_image(attrs["sens_maps"], axis, size)
    mask = item.mask
    if axis == "width":
        mask = None if mask is None else flip_mask(mask)
        width = item.kspace.shape[-1]
        left, right, last = attrs["padding_left"], attrs["padding_right"], 2 * (width // 2)
        if (left, right) != (0, width):
            attrs |= {"padding_left": max(last - right + 1, 0), "padding_right": min(last - left + 1, width)}
    target = None if item.target is None else np.flip(item.target, number).copy()
    return item._replace(kspace=flip(item.kspace, axis, size), mask=mask, target=target, attrs=attrs)


def _with_extent(item: Item, size: tuple[int, int]) -> Item:
    """Change the field of view of an item."""
    old, attrs = item.kspace.shape[-2:], dict(item.attrs)
    for name in ("sens_maps", "segmentation"):
        if name in attrs:
            attrs[name] = change_extent(attrs[name], size)
    width, new = old[1], size[1]
    if (attrs["padding_left"], attrs["padding_right"]) != (0, width):  # the same frequencies lie closer or farther
        left, right = ((attrs[key] - width // 2) * new / width + new // 2 for key in ("padding_left", "padding_right"))
        attrs |= {"padding_left": max(math.floor(left), 0), "padding_right": min(math.ceil(right), new)}
    else:
        attrs["padding_right"] = new
    return _resized(item, change_field_of_view(item.kspace, size), attrs, lambda one: change_extent(one, size))


def _with_resolution(item: Item, size: tuple[int, int]) -> Item:
    """Change the resolution of an item whose target has the size of its k-space."""
    old, attrs = item.kspace.shape[-2:], dict(item.attrs)
    if tuple(old) == size:
        return item
    if "sens_maps" in attrs:
        attrs["sens_maps"] = resample_maps(attrs["sens_maps"], size)
    if "segmentation" in attrs:
        attrs["segmentation"] = resample_labels(attrs["segmentation"], size)
    shift = size[1] // 2 - old[1] // 2
    attrs["padding_left"] = max(attrs["padding_left"] + shift, 0)
    attrs["padding_right"] = min(attrs["padding_right"] + shift, size[1])
    slice_mm, height_mm, width_mm = attrs["spacing_mm"]
    attrs["spacing_mm"] = (slice_mm, height_mm * old[0] / size[0], width_mm * old[1] / size[1])
    kspace = change_resolution(item.kspace, size)
    return _resized(item, kspace, attrs, lambda target: _at_resolution(item.kspace, target, size))


def _at_resolution(
    kspace: NDArray[np.complex64], target: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the target at another resolution: of the complex image whose magnitude it is.

    K-space with added noise and a clean target: the phase is that of the noisy image.
    """
    image = ifft2c_array(kspace)
    magnitude = magnitude_of(image)
    ratio = np.divide(target, magnitude, out=np.zeros_like(target), where=magnitude > 0)
    image = image * ratio
    # no phase is known where k-space has no signal, but the target has
    image = np.where((magnitude == 0) & (target > 0), target / np.float32(math.sqrt(image.size / target.size)), image)
    return magnitude_of(ifft2c_array(change_resolution(fft2c_array(image), size)))


def _resized(
    item: Item,
    kspace: NDArray[np.complex64],
    attrs: dict[str, Any],
    target: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Item:
    size = (*kspace.shape[-2:], 1)
    attrs |= {"encoding_size": size, "recon_size": size}
    mask = None if item.mask is None else np.ones(size[1], np.float32)
    found = item.target
    return item._replace(kspace=kspace, mask=mask, target=None if found is None else target(found), attrs=attrs)
