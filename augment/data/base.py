"""The base of the data sets of slices, for a corpus and for fastMRI's own files.

Slices are ordered volume by volume; samplers, streams and mixtures rely on this order.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from rephase.data.order import set_epoch_of

Transform = Callable[[Any, Any, Any, dict[str, Any], str, int], Any]
"""Called with `(kspace, mask, target, attrs, fname, slice_index)`, as fastMRI's transforms; returns the item."""

Matrix = tuple[int, int, int, int, int]
"""Coils (0: no coil axis), height and width of the k-space, height and width of the target."""


class RawSample(NamedTuple):
    """One slice in the form of fastMRI's `SliceDataset.raw_samples`."""

    fname: Path
    slice_ind: int
    metadata: dict[str, Any]


def origin_attributes(phase_generator: str, replica: int, coil_array: str) -> dict[str, Any]:
    """Return the attributes that tell real from synthetic k-space: real is real phase without simulated coils."""
    synthetic = phase_generator != "real" or bool(coil_array)
    return {"phase_generator": phase_generator, "replica": replica, "synthetic": synthetic}


class Parts(NamedTuple):
    """The arrays of one slice; mask and target may be None."""

    kspace: NDArray[np.complex64]
    mask: NDArray[np.float32] | None
    target: NDArray[np.float32] | None
    attributes: dict[str, Any]


class Item(NamedTuple):
    """The six parts of an item, as `rephase.transforms` return them; mask and target may be None."""

    kspace: NDArray[np.complex64]
    mask: NDArray[np.float32] | None
    target: NDArray[np.float32] | None
    attrs: dict[str, Any]
    fname: str
    slice_index: int


class VolumeSlices(Dataset[Any]):
    """Slices of volumes, volume by volume.

    An item is `(kspace, mask, target, attrs, fname, slice_index)`, or the value that the transform returns for it.
    Without a transform, and after those of `rephase.transforms`, the parts can be collated: a missing mask is all ones,
    a missing target all NaN. A transform receives None, as fastMRI's transforms expect.

    Parameters
    ----------
    num_slices
        Number of slices of every volume.
    transform
        Called with the six parts.
    """

    def __init__(self, num_slices: Sequence[int] | NDArray[Any], transform: Transform | None) -> None:
        self.transform = transform
        self._ends = np.cumsum(np.asarray(num_slices, np.int64))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of a transform that has one, such as `MaskedSlices(training=True)`."""
        set_epoch_of(self.transform, epoch)

    @property
    @abstractmethod
    def volumes(self) -> list[str]:
        """Names of the volumes, in order."""

    @abstractmethod
    def volume_matrix(self, volume: int) -> Matrix:
        """Return the sizes of a volume by its number."""

    @abstractmethod
    def volume_attributes(self, volume: int) -> dict[str, Any]:
        """Return `attrs` of a volume by its number."""

    @abstractmethod
    def read_parts(self, volume: int, slice_index: int) -> Parts:
        """Read one slice of a volume by its number."""

    @abstractmethod
    def volume_name(self, volume: int) -> str:
        """Return `fname` of a volume by its number."""

    @property
    def volume_slices(self) -> NDArray[np.int64]:
        """Number of slices of every volume."""
        return np.diff(self._ends, prepend=0)

    @property
    def raw_samples(self) -> Sequence[RawSample]:
        """All slices in the form of fastMRI's `SliceDataset`, for code such as fastMRI's `VolumeSampler`."""
        return _RawSamples(self)

    def fingerprint(self) -> str:
        """Return a digest of names and numbers of slices of the volumes, by which a saved position is recognised."""
        digest = hashlib.sha256(np.ascontiguousarray(self.volume_slices, "<i8").tobytes())
        digest.update("\n".join(self.volumes).encode())
        return digest.hexdigest()[:16]

    def shape_codes(self) -> tuple[list[Matrix], NDArray[np.int64]]:
        """Return the distinct sizes, and for every slice the index of its size."""
        known: dict[Matrix, int] = {}
        codes = [known.setdefault(self.volume_matrix(volume), len(known)) for volume in range(len(self._ends))]
        return list(known), np.repeat(np.array(codes, np.int64), self.volume_slices)

    def locate(self, index: int) -> tuple[int, int]:
        """Return the number of the volume and the slice in it for an item; negative numbers count from the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        index = int(index) % len(self)
        volume = int(np.searchsorted(self._ends, index, side="right"))
        return volume, index - (int(self._ends[volume - 1]) if volume else 0)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - any value that the transform returns
        """Read one slice; negative indices count from the end.

        Raises
        ------
        VolumeError
            If it cannot be read; it names the volume and the slice.
        """
        volume, slice_index = self.locate(index)
        item = Item(*self.read_parts(volume, slice_index), self.volume_name(volume), slice_index)
        if self.transform is not None:
            item = self.transform(*item)
            if not isinstance(item, Item):
                return item
        kspace, mask, target, attributes, name, slice_index = item
        if mask is None:
            mask = np.ones(kspace.shape[-1], np.float32)
        if target is None:
            target = np.full(attributes["recon_size"][:2], np.nan, np.float32)
        return kspace, mask, target, attributes, name, slice_index


class _RawSamples(Sequence[RawSample]):
    def __init__(self, slices: VolumeSlices) -> None:
        self._slices = slices

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - an int or a slice object, as for a list
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        volume, slice_index = self._slices.locate(index)
        attributes = self._slices.volume_attributes(volume)
        return RawSample(Path(self._slices.volume_name(volume)), slice_index, attributes)

    def __iter__(self) -> Iterator[RawSample]:
        for volume, count in enumerate(self._slices.volume_slices.tolist()):
            name, attributes = Path(self._slices.volume_name(volume)), self._slices.volume_attributes(volume)
            yield from (RawSample(name, number, attributes) for number in range(count))
