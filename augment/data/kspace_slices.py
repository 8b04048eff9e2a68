"""The committed slices of a corpus as a torch `Dataset`, in fastMRI's tuple.

loader = DataLoader(KSpaceSlices("corpus.zarr", split="train"), num_workers=2)
for kspace, mask, target, attrs, fname, slice_index in loader:
    ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.corpus.decoding import ShardError, SliceReader
from rephase.corpus.expansion import LAZY, Expander, SampledPart, Scan, ScanNoise
from rephase.corpus.layout import DTYPES, ArrayLayout, chunks_per_shard, volume_prefix
from rephase.corpus.receipt import AUDIT_FLAGS, chunk_crc
from rephase.corpus.storage.open import open_storage
from rephase.data.base import Matrix, Parts, Transform, VolumeSlices, origin_attributes
from rephase.data.binding import Binding
from rephase.data.columns import Columns, open_columns
from rephase.errors import RequestError, VolumeError
from rephase.facts import facts_where

__all__ = ["KSpaceSlices", "Transform"]

Words = str | Collection[str]

_NOISE = ("noise_covariance", "noise_scan")
_MOST_NOISES = 64
"""Volumes whose noise arrays are kept, since all slices of a volume share them."""


class KSpaceSlices(VolumeSlices):
    """Slices of a corpus, volume by volume in the order of the index.

    An item is `(kspace, mask, target, attrs, fname, slice_index)`:

    - `kspace`: complex64 `(height, width)` or `(coil, height, width)`, a NumPy array;
    - `mask`: float32 `(width,)`. Of a fully sampled volume, which has none: all ones, so that torch's default collate
      works; None with a `transform`, as fastMRI's transforms expect;
    - `target`: float32 `(height, width)`;
    - `attrs`: fastMRI's `max`, `norm`, `padding_left`, `padding_right`, `encoding_size`, `recon_size` (height, width,
      1), `patient_id`, `acquisition`, `spacing_mm` (slice, height, width), and the facts of `rephase.facts` such as
      `split`, `contrast`, `anatomy`, `sequence` (empty if unknown), `field_t`, `te_ms` (NaN if unknown);
      `phase_generator`, `replica`, and `synthetic`, false for real phase without simulated coils;
    - `fname`: the name of the volume, `slice_index`: the number of the slice in it.

    Volumes with different matrices need `rephase.BucketBatchSampler`, `batch_size=1`, or a transform that makes their
    sizes equal. The data set keeps no file open: it may be forked, pickled and spawned. It has the volumes that were in
    the index when it was opened. Filters are joined by *and*.

    Parameters
    ----------
    root
        Path or URL of a corpus.
    split, contrast, anatomy, acquisition, phase_generator
        Keep the volumes with this value, or one of these values.
    volumes, subjects
        Keep these volumes, or the volumes of these subjects.
    audit
        Keep the volumes with one of these audit flags.
    without_audit
        Drop the volumes with one of these audit flags; `"any"` for all flags.
    where
        Keep the volumes for which this returns true. It is called with a row of the index: the columns of
        augment/FORMAT.md, with NaN for unknown numbers and empty text for unknown texts.
    **facts
        Any other text fact of `rephase.facts`: keep the volumes with this value, or one of these values.
    transform
        Called with the six parts of the tuple; returns the item.
    suffix
        Appended to every `fname`. With ".h5" it is the name that fastMRI's data set returns for an export of the
        corpus, so that masks seeded with the name are the same.
    maps
        Add the coil sensitivity maps of the slice to `attrs`, `sens_maps`, complex64 `(coil, height, width)` of the
        image; an error for volumes without maps.
    noise
        Add what is known of the noise that was added (`--noise` with coils) to `attrs`: `noise_covariance`, complex64
        `(coil, coil)` in units of `noise_sigma` squared, and with `--prescan` `noise_scan`, complex64 `(coil, sample)`;
        an error for volumes without.
    segmentation
        Add the labels of the slice to `attrs`, `segmentation`, uint8 `(height, width)` on the pixels of the target.

    Raises
    ------
    RequestError
        If there is no corpus or no index, no slice matches, or the segmentation is wanted of a volume without one.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: Words | None = None,
        contrast: Words | None = None,
        anatomy: Words | None = None,
        volumes: Collection[str] | None = None,
        transform: Transform | None = None,
        *,
        acquisition: Words | None = None,
        phase_generator: Words | None = None,
        subjects: Collection[str] | None = None,
        audit: Words | None = None,
        without_audit: Words | None = None,
        where: Callable[[Mapping[str, Any]], bool] | None = None,
        suffix: str = "",
        maps: bool = False,
        noise: bool = False,
        segmentation: bool = False,
        **facts: Words,
    ) -> None:
        self.root, columns = open_columns(root)
        words = {
            "split": split, "contrast": contrast, "anatomy": anatomy, "acquisition": acquisition,
            "phase_generator": phase_generator, "name": volumes, "patient_id": subjects, "audit": audit, **facts,
        }  # fmt: skip
        known = facts_where(in_index=True, kind="text")
        if unknown := sorted(facts.keys() - set(known)):
            raise TypeError(f"filter {unknown[0]!r}: expected one of {', '.join(known)}; filter numbers by 'where'")
        columns = _select(self.root, columns, {key: value for key, value in words.items() if value is not None})
        if without_audit is not None:
            columns = _drop_flagged(self.root, columns, without_audit)
        if where is not None:
            kept = [position for position in range(len(columns)) if where(columns.row(position))]
            columns = _taken(self.root, columns, np.array(kept, np.intp), "for which 'where' is true")
        if segmentation:
            _require_segmentations(self.root, columns)
        super().__init__(columns.number("num_slices"), transform)
        self.suffix = suffix
        self._columns = columns
        self._maps, self._noise, self._segmentation = maps, noise, segmentation
        self._noises: dict[int, dict[str, NDArray[np.complex64]]] = {}
        storage = open_storage(self.root)
        self._reader, self._expander = SliceReader(storage), Expander(storage)
        self._binding = Binding(storage, columns, self.volume_slices)

    @property
    def volumes(self) -> list[str]:
        """Names of the volumes, in order."""
        return self._columns.texts("name")

    def volume_name(self, volume: int) -> str:
        """Return `fname` of a volume by its number."""
        return str(self._columns.value("name", volume)) + self.suffix

    def volume_matrix(self, volume: int) -> Matrix:
        """Return coils, height, width, and height and width of the target of a volume by its number."""
        value = self._columns.value
        sizes = ("num_coils", "height", "width", "target_height", "target_width")
        coils, height, width, target_height, target_width = (int(value(column, volume)) for column in sizes)
        return coils, height, width, target_height, target_width

    def shape_codes(self) -> tuple[list[Matrix], NDArray[np.int64]]:
        """Return the distinct sizes, and for every slice the index of its size."""
        sizes = ("num_coils", "height", "width", "target_height", "target_width")
        table = np.stack([self._columns.number(column) for column in sizes], axis=1)
        different, codes = np.unique(table, axis=0, return_inverse=True)
        shapes = [(int(c), int(h), int(w), int(th), int(tw)) for c, h, w, th, tw in different]
        return shapes, np.repeat(codes.reshape(-1).astype(np.int64), self.volume_slices)

    def volume_attributes(self, volume: int) -> dict[str, Any]:
        """Return `attrs` of a volume by its number."""
        value = self._columns.value
        _, height, width, target_height, target_width = self.volume_matrix(volume)
        attributes: dict[str, Any] = {"max": float(value("max", volume)), "norm": float(value("norm", volume))}
        attributes |= {column: int(value(column, volume)) for column in ("padding_left", "padding_right")}
        attributes |= {"encoding_size": (height, width, 1), "recon_size": (target_height, target_width, 1)}
        for column in ("patient_id", "acquisition", *facts_where(in_index=True, kind="text")):
            attributes[column] = value(column, volume)
        for column in facts_where(in_index=True, kind="number"):
            attributes[column] = float(value(column, volume))
        for column in facts_where(in_index=True, kind="flag"):
            attributes[column] = bool(value(column, volume))
        spacing = (float(value(f"spacing_{axis}_mm", volume)) for axis in ("slice", "height", "width"))
        origin = origin_attributes(
            value("phase_generator", volume), int(value("replica", volume)), value("coil_array", volume)
        )
        return attributes | origin | {"spacing_mm": tuple(spacing)}

    def bind(self, volume: int) -> None:
        """Compare the receipt of a volume with the index, as reading its first slice does.

        Raises
        ------
        ShardError
            If it has no receipt, or not the one that the index names.
        """
        self._binding.crc(volume, self._layouts(volume), "kspace", 0)

    def read_parts(self, volume: int, slice_index: int) -> Parts:
        """Read one slice of a volume by its number.

        Raises
        ------
        VolumeError
            If a chunk is missing, damaged, or not the one that the receipt names, or the receipt not the one that the
            index names; the message names volume and slice.
        """
        layouts = self._layouts(volume)
        source, target_name = list(layouts)[:2]
        kspace = self._read(volume, layouts, source, slice_index)
        mask = self._read(volume, layouts, "mask", 0) if "mask" in layouts else None
        if source == "image":
            with self._explained(volume, slice_index, "coil_coefficients"):
                kspace = self._expander.kspace(self._scan(volume, layouts), kspace, slice_index, mask)
        target = self._read(volume, layouts, target_name, slice_index)
        attributes = self.volume_attributes(volume)
        if self._maps:
            attributes["sens_maps"] = self.read_maps(volume, slice_index)
        if self._noise:
            attributes |= self.read_noise(volume)
        if self._segmentation:
            attributes["segmentation"] = self._read(volume, layouts, "segmentation", slice_index)
        return Parts(kspace, mask, target, attributes)

    def read_maps(self, volume: int, slice_index: int) -> NDArray[np.complex64]:
        """Return the coil sensitivity maps of one slice of a volume by its number, complex64 `(coil, height, width)`.

        Raises
        ------
        VolumeError
            If the volume has none, or they are damaged.
        """
        layouts = self._layouts(volume)
        if "sens_maps" in layouts:
            return self._read(volume, layouts, "sens_maps", slice_index)
        if not self._columns.value("coil_array", volume):
            name = self._columns.value("name", volume)
            fix = "build the corpus with --coils, or open it without maps"
            raise VolumeError("unsupported", f"{self.root}: volume {name}: has no coil maps; expected some; {fix}")
        with self._explained(volume, slice_index, "coil_coefficients"):
            return self._expander.maps(self._scan(volume, layouts), slice_index)

    def read_noise(self, volume: int) -> dict[str, NDArray[np.complex64]]:
        """Return `noise_covariance` and, if it was built with a prescan, `noise_scan` of a volume by its number.

        Raises
        ------
        VolumeError
            If the volume has none, or they are damaged.
        """
        if volume in self._noises:
            return self._noises[volume]
        name, found = str(self._columns.value("name", volume)), {}
        with self._explained(volume, 0, _NOISE[0]):
            receipt = self._binding.receipt(volume, name)
            for array in _NOISE:
                if (entry := receipt["arrays"].get(array)) is not None:
                    layout = ArrayLayout.of(array, tuple(entry["shape"]), name)
                    crcs = [chunk_crc(receipt, array, number) for number in range(layout.num_chunks)]
                    rows = [self._reader.read_slice(layout, number, crc) for number, crc in enumerate(crcs)]
                    found[array] = np.stack(rows)
        if not found:
            fix = "build the corpus with --coils and --noise, or open it without noise"
            raise VolumeError("unsupported", f"{self.root}: volume {name}: has no noise arrays; expected some; {fix}")
        if len(self._noises) >= _MOST_NOISES:
            self._noises.clear()
        self._noises[volume] = found
        return found

    def _scan(self, volume: int, layouts: dict[str, ArrayLayout]) -> Scan:
        value = self._columns.value
        num_coils, num_slices, height, width = (
            int(value(column, volume)) for column in ("num_coils", "num_slices", "target_height", "target_width")
        )
        noise, along = None, float(value("noise_along", volume))
        if along >= 0 and value("noise_sigma", volume) > 0:  # NaN if unknown
            seed, replica = int(value("seed", volume)), int(value("replica", volume))
            noise = ScanNoise(float(value("noise_sigma", volume)), along, seed, replica)
        digest = self._binding.scanner(volume, layouts)
        start = float(value("readout_start", volume))
        facts = {column: value(column, volume) for column in ("padding_left", "padding_right", "elliptical")}
        facts["readout_start"] = start if start > 0 else 0  # NaN if unknown
        sampled = SampledPart.of(facts, int(value("height", volume)), int(value("width", volume)), height)
        return Scan(value("name", volume), num_coils, num_slices, height, width, digest, noise, sampled)

    def _read(self, volume: int, layouts: dict[str, ArrayLayout], array: str, slice_index: int) -> NDArray[Any]:
        with self._explained(volume, slice_index, array):
            crc = self._binding.crc(volume, layouts, array, slice_index)
            return self._reader.read_slice(layouts[array], slice_index, crc)

    @contextmanager
    def _explained(self, volume: int, slice_index: int, array: str) -> Iterator[None]:
        """Raise VolumeError, which names volume, slice and array, for errors of reading it."""
        try:
            yield
        except (ShardError, OSError) as error:
            name = self._columns.value("name", volume)
            where = f"{self.root}: volume {name}, slice {slice_index}, {array}"
            fix = f"'rephase verify {self.root}' lists what is damaged, 'rephase repair {self.root}' rebuilds it"
            raise VolumeError("unreadable", f"{where}: {error}; {fix}") from error

    def _layouts(self, volume: int) -> dict[str, ArrayLayout]:
        """Return the layouts of a volume's k-space and target, in this order, and of the others that are read."""
        value = self._columns.value
        coils, height, width, target_height, target_width = self.volume_matrix(volume)
        count, target = int(value("num_slices", volume)), str(value("target", volume))
        prefix = volume_prefix(value("name", volume))

        def layout(array: str, shape: tuple[int, ...], per_shard: int) -> ArrayLayout:
            return ArrayLayout(f"{prefix}/{array}", shape, DTYPES[array], per_shard)

        source, shape = "kspace", (count, *((coils,) if coils else ()), height, width)
        if value("storage", volume) == LAZY:
            source, shape = "image", (count, target_height, target_width)
        layouts = {
            source: layout(source, shape, int(value("kspace_chunks_per_shard", volume))),
            target: layout(target, (count, target_height, target_width), int(value("target_chunks_per_shard", volume))),
        }
        if value("has_sens_maps", volume):
            maps = (count, coils, height, width)
            layouts["sens_maps"] = layout("sens_maps", maps, chunks_per_shard("sens_maps", maps))
        if self._segmentation:
            labels = (count, target_height, target_width)
            layouts["segmentation"] = layout("segmentation", labels, chunks_per_shard("segmentation", labels))
        return layouts | ({"mask": layout("mask", (width,), 1)} if value("has_mask", volume) else {})


def _select(root: str, columns: Columns, wanted: Mapping[str, Words]) -> Columns:
    if not len(columns):
        raise RequestError(f"{root}: the corpus has no committed volumes; build it with 'rephase build'")
    everything = columns
    for column, words in wanted.items():
        allowed = {words} if isinstance(words, str) else set(words)
        # each name must exist: otherwise a typing error in a list would be ignored silently
        unknown = allowed - set(everything.different(column)) if column in ("name", "patient_id") else set()
        kept = columns.having(column, allowed)
        if unknown or not kept.any():
            present = everything.different(column)
            shown = ", ".join(str(word) or "(none)" for word in present[:10]) + (", ..." if len(present) > 10 else "")
            requested = ", ".join(sorted(map(str, unknown or allowed)))
            raise RequestError(f"{root}: no volumes with {column} {requested}; the corpus has: {shown}")
        columns = columns.take(np.flatnonzero(kept))
    return columns


def _require_segmentations(root: str, columns: Columns) -> None:
    without = np.flatnonzero(~columns.number("has_segmentation").astype(np.bool_))
    if len(without):
        first = columns.value("name", int(without[0]))
        raise RequestError(
            f"{root}: {len(without)} of {len(columns)} volumes have no segmentation, such as {first}; expected one "
            'each; keep those that have one: where=lambda row: row["has_segmentation"]'
        )


def _drop_flagged(root: str, columns: Columns, flags: Words) -> Columns:
    known = set(columns.different("audit")) - {""}
    unwanted = known if flags == "any" else {flags} if isinstance(flags, str) else set(flags)
    strange = sorted(unwanted - known - {"", *AUDIT_FLAGS})
    if strange:
        raise RequestError(f"{root}: no audit flag {strange[0]!r}; expected any, {', '.join(AUDIT_FLAGS)}; correct it")
    kept = ~columns.having("audit", unwanted - {""})
    return _taken(root, columns, np.flatnonzero(kept), f"without the audit flags {', '.join(sorted(unwanted))}")


def _taken(root: str, columns: Columns, rows: NDArray[np.intp], what: str) -> Columns:
    if not len(rows):
        raise RequestError(f"{root}: no volumes {what}; {len(columns)} were considered; relax the filters")
    return columns.take(rows)
