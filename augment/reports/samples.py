"""Select the volumes and slices of a report, and compute their complex images from the stored k-space."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.decoding import ShardError, SliceReader
from rephase.corpus.expansion import Expander, Scan
from rephase.corpus.layout import ArrayLayout, volume_prefix
from rephase.corpus.receipt import chunk_crc
from rephase.corpus.store import CorpusStore
from rephase.errors import VolumeError
from rephase.numpy_fourier import ifft2c_array
from rephase.reports.facts import Candidate

_MOST_LOOKED_AT = 9
_MOST_PLANE_SLICES = 128


@dataclass(frozen=True)
class Planes:
    """Two planes of a volume across its slices, of which every `step`-th is read.

    `along_row` is complex64 `(slice width)`, at one `row`; `along_column` is `(slice height)`, at one `column`.
    """

    row: int
    column: int
    step: int
    along_row: NDArray[np.complex64]
    along_column: NDArray[np.complex64]


@dataclass(frozen=True)
class Sample:
    """One slice to show.

    Attributes
    ----------
    name, slice_index
        Volume, and index of the slice from 0.
    receipt
        Receipt of the volume.
    magnitude
        float32 `(height width)`, root sum of squares of all coils, in stored units.
    image
        complex64 `(height width)`, the image whose phase is shown.
    image_source
        How the coils were combined to that image; empty without coils.
    kspace
        float32 `(height width)`, root sum of squares of `|kspace|` of all coils.
    planes
        Planes across the slices, None for a single slice.
    """

    name: str
    slice_index: int
    receipt: Mapping[str, Any]
    magnitude: NDArray[np.float32]
    image: NDArray[np.complex64]
    image_source: str
    kspace: NDArray[np.float32]
    planes: Planes | None = None


def choose_volumes(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Select volumes spread over contrasts, then over shapes; always the same ones.

    Ties are broken by the SHA-256 of the name, so that the selection is not alphabetical.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[Candidate]] = {}
    for one in sorted(candidates, key=lambda one: hashlib.sha256(one.name.encode()).digest(), reverse=True):
        groups.setdefault((one.contrast, one.shape), []).append(one)
    contrasts: Counter[str] = Counter()
    shapes: Counter[tuple[int, ...]] = Counter()
    chosen: list[Candidate] = []
    while groups and len(chosen) < count:
        key = min(groups, key=lambda key: (contrasts[key[0]], shapes[key[1]], key))
        chosen.append(groups[key].pop())
        contrasts[key[0]] += 1
        shapes[key[1]] += 1
        if not groups[key]:
            del groups[key]
    return sorted(chosen, key=lambda one: (one.contrast, one.shape, one.name))


def read_sample(store: CorpusStore, name: str) -> Sample:
    """Read the slice of a volume with the most signal near its middle.

    Raises
    ------
    VolumeError
        If the volume cannot be read or shown.
    """
    receipt = store.receipt(name)
    if receipt is None:
        raise VolumeError("missing", f"volume {name}: is no longer committed")
    reader = VolumeReader(store, name, receipt)
    with readable(store, name):
        slice_index, _ = reader.most_signal()
        magnitude, image, image_source, kspace = reader.slice_images(slice_index)
        planes = read_planes(reader, magnitude)
    return Sample(name, slice_index, receipt, magnitude, image, image_source, kspace, planes)


def read_middle(
    store: CorpusStore, name: str
) -> tuple[int, NDArray[np.float32], NDArray[np.complex64], Sequence[float]]:
    """Read the middle slice of a volume: its number, magnitude, image, and spacing in mm; raises as `read_sample`."""
    receipt = store.receipt(name)
    if receipt is None:
        raise VolumeError("missing", f"volume {name}: is no longer committed")
    reader = VolumeReader(store, name, receipt)
    with readable(store, name):
        magnitude, image, _, _ = reader.slice_images(reader.num_slices // 2)
    return reader.num_slices // 2, magnitude, image, receipt["spacing_mm"]


@contextmanager
def readable(store: CorpusStore, name: str) -> Iterator[None]:
    """Turn errors of reading a volume within a `with` block into a VolumeError that says how to mend it."""
    try:
        yield
    except (ShardError, OSError) as error:
        raise VolumeError("unreadable", f"volume {name}: {error}; run 'rephase verify {store.root}'") from error


def read_planes(reader: VolumeReader, magnitude: NDArray[np.float32]) -> Planes | None:
    """Read the planes through the middle of the object in a slice, across the slices; None for a single slice."""
    if reader.num_slices < 2:
        return None
    signal = magnitude > 0.1 * magnitude.max()
    row, column = (_middle(signal.any(axis=axis)) for axis in (1, 0))
    step = -(-reader.num_slices // _MOST_PLANE_SLICES)
    images = [reader.slice_images(number)[1] for number in range(0, reader.num_slices, step)]
    across = np.stack([image[row] for image in images]), np.stack([image[:, column] for image in images])
    return Planes(row, column, step, *across)


def _middle(inside: NDArray[np.bool_]) -> int:
    found = np.flatnonzero(inside)
    return int(found[len(found) // 2]) if len(found) else len(inside) // 2


class VolumeReader:
    """Reads slices of one volume and checks their checksums."""

    def __init__(self, store: CorpusStore, name: str, receipt: Mapping[str, Any]) -> None:
        self._arrays: Mapping[str, Any] = receipt["arrays"]
        self._receipt = receipt
        self._scan = Scan.of(name, receipt) if "coil_coefficients" in receipt["arrays"] else None
        self._expander = Expander(store.storage)
        self._name = name
        self._reader = SliceReader(store.storage)

    def read(self, array: str, slice_index: int) -> NDArray[Any]:
        """Read one slice of an array."""
        entry = self._arrays[array]
        prefix = f"{volume_prefix(self._name)}/{array}"
        layout = ArrayLayout(prefix, tuple(entry["shape"]), entry["dtype"], entry["chunks_per_shard"])
        return self._reader.read_slice(layout, slice_index, chunk_crc(self._receipt, array, slice_index))

    def maps(self, slice_index: int) -> NDArray[np.complex64] | None:
        """Return the coil maps of one slice, None without any."""
        if "sens_maps" in self._arrays:
            return self.read("sens_maps", slice_index)
        return None if self._scan is None else self._expander.maps(self._scan, slice_index)

    @property
    def num_slices(self) -> int:
        """Number of slices."""
        return self._source_shape[0]

    def slice_images(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.complex64], str, NDArray[np.float32]]:
        """Return magnitude, image, image_source and kspace of a slice, as `Sample` has them."""
        kspace = self._read_kspace(number)
        height, width, _ = self._receipt["recon_size"]
        images = _centre(ifft2c_array(kspace), height, width)
        image, image_source = _one_image(images, self.maps(number))
        return _root_sum_of_squares(images), image, image_source, _root_sum_of_squares(kspace)

    def most_signal(self) -> tuple[int, NDArray[np.complex64]]:
        """Return the slice of highest energy among a few of the middle third; among all if those are empty."""
        count = self._source_shape[0]
        middle = list(range(count // 3, count - count // 3))
        few = middle[:: -(-len(middle) // _MOST_LOOKED_AT)]
        best = self._best(few)
        if best[0] == 0.0:
            best = max(best, self._best([number for number in range(count) if number not in few]), key=_energy)
        return best[1], best[2]

    @property
    def _source_shape(self) -> list[int]:
        shape: list[int] = self._arrays["kspace" if "kspace" in self._arrays else "image"]["shape"]
        return shape

    def _read_kspace(self, number: int) -> NDArray[np.complex64]:
        if "kspace" in self._arrays or self._scan is None:
            return self.read("kspace", number)
        mask = self.read("mask", 0) if "mask" in self._arrays else None
        return self._expander.kspace(self._scan, self.read("image", number), number, mask)

    def _best(self, numbers: Sequence[int]) -> tuple[float, int, NDArray[np.complex64]]:
        best: tuple[float, int, NDArray[np.complex64]] = (-1.0, -1, np.empty((0, 0), np.complex64))
        for number in sorted(numbers, key=lambda number: abs(number - (self._source_shape[0] - 1) / 2)):
            kspace = self._read_kspace(number)
            energy = float(np.sum(np.square(np.abs(kspace), dtype=np.float64)))
            if energy > best[0]:
                best = (energy, number, kspace)
        return best


def _energy(found: tuple[float, int, NDArray[np.complex64]]) -> float:
    return found[0]


def _one_image(images: NDArray[np.complex64], maps: NDArray[np.complex64] | None) -> tuple[NDArray[np.complex64], str]:
    """Return the image whose phase is shown: coils combined with their maps, else the strongest coil."""
    if images.ndim == 2:
        return images, ""
    if maps is not None:
        return np.sum(np.conj(maps) * images, axis=0), "coils combined with their sensitivity maps"
    strongest = int(np.argmax(np.sum(np.square(np.abs(images), dtype=np.float64), axis=(1, 2))))
    return images[strongest], f"coil {strongest}, the strongest of {len(images)}"


def _root_sum_of_squares(images: NDArray[np.complex64]) -> NDArray[np.float32]:
    magnitude: NDArray[np.float32] = np.abs(images)
    return magnitude if images.ndim == 2 else np.sqrt(np.sum(np.square(magnitude), axis=0))


def _centre(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Crop oversampling: return the central `(height width)`."""
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]
