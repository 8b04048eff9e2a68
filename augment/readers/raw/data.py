"""What every file of complex data becomes: k-space or images with named axes, checked and brought to the corpus's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.facts import VolumeFacts
from rephase.manifests.record import ManifestRow

Defaults = Mapping[int, tuple[str, ...]]
"""Names of the axes of an array by their number."""

_ORDER = ("slice", "partition", "coil", "height", "width")
_MOST_GAPS = 0.2
_CENTRE = 16


@dataclass(frozen=True)
class RawData:
    """The data of one volume as its file has it.

    Attributes
    ----------
    values
        An array, or one that is mapped from the file.
    axes
        A name of `rephase.manifests.columns.AXES` for every axis, or None for an axis of size 1.
    is_kspace
        Whether it is k-space, or an image.
    size
        Height and width to which the image is cropped: this removes oversampling. None keeps all.
    spacing_mm
        Along slice, height, width; None if the file does not state it.
    facts
        Facts of the volume that the file states.
    centred
        Whether the zero frequency is in the middle of the array; None to find out.
    """

    values: NDArray[Any]
    axes: tuple[str | None, ...]
    is_kspace: bool
    size: tuple[int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    facts: VolumeFacts = field(default_factory=VolumeFacts)
    centred: bool | None = None

    def length(self, axis: str) -> int:
        """Return the size along an axis, 1 without it."""
        return int(dict(zip(self.axes, self.values.shape, strict=True)).get(axis, 1))

    @property
    def num_coils(self) -> int:
        """Number of coils, 1 for data without them."""
        return self.length("coil") * max(self.length("pair") // 2, 1)

    def sizes(self) -> tuple[int, int, int]:
        """Return slices, height and width of the image, from the shape alone."""
        height, width = self.length("height"), self.length("width")
        if self.size is not None:
            height, width = min(self.size[0], height), min(self.size[1], width)
        return self.length("slice") * self.length("partition"), height, width


@dataclass(frozen=True)
class CheckedData:
    """Complex data in the corpus's axes.

    Attributes
    ----------
    values
        complex64 `(slice [coil] height width)`, k-space centred and transformed along partitions.
    said
        Facts for audits and messages: what was found and assumed.
    """

    values: NDArray[np.complex64]
    said: dict[str, Any]


def named_axes(shape: tuple[int, ...], row: ManifestRow, default: Defaults, name: str) -> tuple[str | None, ...]:
    """Return the names of an array's axes: those of the row, else by their number.

    Raises
    ------
    VolumeError
        `mismatch` if the row names another number of axes, `unsupported` if the number is not in `default`.
    """
    if row.axes is not None:
        words = row.axes.split()
        if len(words) != len(shape):
            raise VolumeError(
                "mismatch",
                f"{name}: has shape {shape}; expected the {len(words)} of the column axes ({row.axes}); correct it",
            )
        return tuple(words)
    if len(shape) not in default:
        known = " or ".join(" ".join(one) for one in default.values())
        raise VolumeError(
            "unsupported", f"{name}: has shape {shape}; expected {known}; name its axes in the column axes"
        )
    return default[len(shape)]


def check(raw: RawData, name: str) -> CheckedData:
    """Bring data to the corpus's axes; find where its zero frequency is, and whether all of it was acquired.

    Raises
    ------
    VolumeError
        `unsupported` for real values, an empty or undersampled k-space; `not_finite`.
    """
    values = _arranged(raw, name)
    if not np.isfinite(values).all():
        what = "k-space" if raw.is_kspace else "the image"
        raise VolumeError("not_finite", f"{name}: {what} is not finite everywhere; expected numbers; fix the source")
    said: dict[str, Any] = {}
    if raw.is_kspace:
        if not values.any():
            raise VolumeError("unsupported", f"{name}: k-space is empty; expected samples; fetch it again")
        centred = _is_centred(values) if raw.centred is None else raw.centred
        has_partitions = raw.length("partition") > 1
        if not centred:
            values = np.fft.fftshift(values, axes=(0, -2, -1) if has_partitions else (-2, -1))
            said["kspace"] = "zero frequency at index 0, as found"
        said |= _sampling(values, name)
        if has_partitions:
            values = _along_partitions(values)
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    return CheckedData(np.ascontiguousarray(values, np.complex64), said)


def check_type(raw: RawData, name: str) -> None:
    """Refuse what type and shape tell, so that a plan does: real values, or none; VolumeError `unsupported`."""
    if 0 in raw.values.shape:
        raise VolumeError("unsupported", f"{name}: has shape {raw.values.shape}; expected some samples; fetch it again")
    if raw.values.dtype.kind != "c" and "pair" not in raw.axes:
        raise VolumeError(
            "unsupported",
            f"{name}: has real values of type {raw.values.dtype}; expected complex ones; save them as complex, or name "
            "the axis of real and imaginary part 'pair' in the column axes",
        )


def _arranged(raw: RawData, name: str) -> NDArray[np.complex64]:
    check_type(raw, name)
    values, axes = np.asarray(raw.values), list(raw.axes)
    if "pair" in axes:  # of every channel, or alone
        at = axes.index("pair")
        values = np.moveaxis(values, at, -1)
        del axes[at]
        values = values[..., ::2] + 1j * values[..., 1::2]
        if values.shape[-1] == 1:
            values = values[..., 0]
        else:
            axes.append("coil")
    keep = [number for number, axis in enumerate(axes) if axis is not None]
    values = values.reshape([values.shape[number] for number in keep])
    axes = [axes[number] for number in keep]
    order = [one for one in _ORDER if one in axes]
    values = values.transpose([axes.index(one) for one in order])
    if "slice" in order and "partition" in order:
        if min(values.shape[:2]) > 1:
            raise VolumeError(
                "unsupported", f"{name}: has several slabs of partitions; expected one; save one volume per file"
            )
        values = values.reshape(-1, *values.shape[2:])
    elif not {"slice", "partition"} & set(order):
        values = values[np.newaxis]
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        return values.astype(np.complex64)


def _is_centred(kspace: NDArray[np.complex64]) -> bool:
    """Tell where the energy is: around the middle of the last two axes, or around their corners."""
    energy = np.square(np.abs(kspace)).sum(axis=tuple(range(kspace.ndim - 2)))
    height, width = (min(_CENTRE, max(size // 4, 1)) for size in energy.shape)
    rows, columns = ((np.arange(n) - n // 2) % n for n in energy.shape)

    def around(values: NDArray[Any]) -> float:
        top, left = (values.shape[0] - height) // 2, (values.shape[1] - width) // 2
        return float(values[top : top + height, left : left + width].sum())

    return around(energy) >= around(energy[np.ix_(rows, columns)])


def _sampling(kspace: NDArray[np.complex64], name: str) -> dict[str, Any]:
    """Refuse undersampled k-space; tell the part of it that was acquired, where its borders are empty."""
    of_slice = (kspace != 0).any(axis=1) if kspace.ndim == 4 else kspace != 0
    of_slice = of_slice[of_slice.any(axis=(1, 2))]
    sampled = of_slice.any(axis=0)
    rows, columns = (np.flatnonzero(sampled.any(axis=axis)) for axis in (1, 0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    share = min(_filled(of_slice, axis) for axis in (1, 2))
    height, width = (one.stop - one.start for one in box)
    if share < 1 - _MOST_GAPS:
        raise VolumeError(
            "unsupported",
            f"{name}: k-space is undersampled, with {share:.0%} of the samples between the outer ones of {height} x "
            f"{width}; expected full sampling; use another file",
        )
    if (height, width) == sampled.shape:
        return {}
    said: dict[str, Any] = {"acquired_matrix": [height, width]}
    for word, part, size in zip(("height", "width"), box, sampled.shape, strict=True):
        if abs((part.start - size // 2) + (part.stop - 1 - size // 2)) > max(2, size // 16):
            said["partial_kspace"] = f"samples {part.start} to {part.stop - 1} of {size} along {word}"
    return said


def _filled(sampled: NDArray[np.bool_], axis: int) -> float:
    """Return the part of samples between the first and the last one along an axis, of the slice in the middle.

    So an ellipse, whose corners were not acquired, is full.
    """
    ahead = np.logical_or.accumulate(sampled, axis=axis)
    behind = np.flip(np.logical_or.accumulate(np.flip(sampled, axis), axis=axis), axis)
    between = (ahead & behind).sum(axis=(1, 2))
    return float(np.median(sampled.sum(axis=(1, 2)) / between))


def _along_partitions(kspace: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Transform the first axis of centred k-space to slices."""
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axes=0), axis=0, norm="ortho"), axes=0)
    return np.asarray(image, np.complex64)
