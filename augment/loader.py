"""Committed slices as a torch `Dataset`, in fastMRI's tuple.

loader = DataLoader(KSpaceSlices("corpus.zarr", split="train"), num_workers=2)
for kspace, mask, target, attrs, fname, slice_index in loader:
    ...
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from augment.errors import RequestError, VolumeError
from augment.index import CorpusIndex, read_index
from augment.layout import DTYPES, ArrayLayout, volume_prefix
from augment.shards import ShardError, SliceReader
from augment.storage import open_storage

Transform = Callable[[Any, Any, Any, dict[str, Any], str, int], Any]

_COLUMNS = (
    "name", "num_slices", "num_coils", "height", "width", "target", "target_height", "target_width",
    "kspace_chunks_per_shard", "target_chunks_per_shard", "has_mask", "max", "norm", "padding_left", "padding_right",
    "patient_id", "acquisition", "split", "contrast", "anatomy", "field_t", "te_ms", "spacing_slice_mm",
    "spacing_height_mm", "spacing_width_mm",
)  # fmt: skip


class KSpaceSlices(Dataset[Any]):
    """Slices of a corpus, volume by volume in the order of the index.

    An item is `(kspace, mask, target, attrs, fname, slice_index)`:

    - `kspace`: complex64 `(height, width)` or `(coil, height, width)`, a NumPy array;
    - `mask`: float32 `(width,)`. Where a volume has none (it is fully sampled): all ones, so that torch's default
      collate takes the tuple; but None with a `transform`, as fastMRI's transforms expect it;
    - `target`: float32 `(height, width)`;
    - `attrs`: fastMRI's `max`, `norm`, `padding_left`, `padding_right`, `encoding_size`, `recon_size` (height, width,
      1), `patient_id`, `acquisition`; and `split`, `contrast`, `anatomy` (empty where unknown), `field_t`, `te_ms` (NaN
      where unknown), `spacing_mm` (slice, height, width);
    - `fname`: the volume's name, `slice_index`: its number in the volume.

    Volumes of unequal matrices go through a `DataLoader` with `batch_size=1` or a transform that makes them equal. The
    data set holds no open file: it may be forked, pickled and spawned. It shows the volumes that were in the index when
    it was opened.

    Parameters
    ----------
    root
        Path or URL of a corpus.
    split, contrast, anatomy
        Keep the volumes of this one, or of these.
    volumes
        Keep the volumes of these names.
    transform
        Called with the tuple's six parts; what it gives is the item.

    Raises
    ------
    RequestError
        If there is no corpus or no index, or if no slice is left to give.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str | Collection[str] | None = None,
        contrast: str | Collection[str] | None = None,
        anatomy: str | Collection[str] | None = None,
        volumes: Collection[str] | None = None,
        transform: Transform | None = None,
    ) -> None:
        index = read_index(root)
        wanted = {"split": split, "contrast": contrast, "anatomy": anatomy, "name": volumes}
        rows = _select(index, {column: words for column, words in wanted.items() if words is not None})
        self.root = index.root
        self.transform = transform
        self._columns = {column: [index.columns[column][row] for row in rows] for column in _COLUMNS}
        self._ends = np.cumsum(self._columns["num_slices"])
        self._reader = SliceReader(open_storage(self.root))

    @property
    def volumes(self) -> list[str]:
        """Names of the volumes, in order."""
        return list(self._columns["name"])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - a transform gives what it likes
        """Read one slice; negative indices count from the end.

        Raises
        ------
        VolumeError
            If a chunk is missing or damaged; it names the volume and the slice.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)} in {self.root}")
        index = int(index) % len(self)
        volume = int(np.searchsorted(self._ends, index, side="right"))
        row = {column: values[volume] for column, values in self._columns.items()}
        slice_index = index - int(self._ends[volume]) + row["num_slices"]
        kspace = self._read(row, "kspace", slice_index)
        target = self._read(row, row["target"], slice_index)
        mask = self._mask(row)
        parts = (kspace, mask, target, _attributes(row), row["name"], slice_index)
        return parts if self.transform is None else self.transform(*parts)

    def _read(self, row: dict[str, Any], array: str, slice_index: int) -> NDArray[Any]:
        try:
            return self._reader.read_slice(_layout(row, array), slice_index)
        except (ShardError, OSError) as error:
            where = f"{self.root}: volume {row['name']}, slice {slice_index}, {array}"
            mend = f"'phasegen verify {self.root}' lists what is damaged, 'phasegen repair {self.root}' makes it again"
            raise VolumeError("unreadable", f"{where}: {error}; {mend}") from error

    def _mask(self, row: dict[str, Any]) -> NDArray[np.float32] | None:
        if row["has_mask"]:
            return self._read(row, "mask", 0)
        return np.ones(row["width"], np.float32) if self.transform is None else None


def _select(index: CorpusIndex, wanted: dict[str, str | Collection[str]]) -> list[int]:
    if not len(index):
        raise RequestError(f"{index.root}: the corpus has no committed volumes; build it with 'phasegen build'")
    rows = list(range(len(index)))
    for column, words in wanted.items():
        allowed = {words} if isinstance(words, str) else set(words)
        values = index.columns[column]
        kept = [row for row in rows if values[row] in allowed]
        # each name must be there: a list with a slip in it would else silently shrink
        unknown = allowed - set(values) if column == "name" else set()
        if unknown or not kept:
            allowed = unknown or allowed
            present = sorted({str(values[row]) for row in rows})
            shown = ", ".join(present[:10]) + (", ..." if len(present) > 10 else "")
            asked = ", ".join(sorted(map(str, allowed)))
            raise RequestError(f"{index.root}: no volumes with {column} {asked}; there are: {shown}")
        rows = kept
    if any(index.columns["storage"][row] != "kspace" for row in rows):
        raise RequestError(f"{index.root}: some volumes are stored as image+maps, which this loader cannot expand")
    return rows


def _layout(row: dict[str, Any], array: str) -> ArrayLayout:
    coils = (row["num_coils"],) if row["num_coils"] else ()
    if array == "kspace":
        shape = (row["num_slices"], *coils, row["height"], row["width"])
        per_shard = row["kspace_chunks_per_shard"]
    elif array == "mask":
        shape, per_shard = (row["width"],), 1
    else:
        shape = (row["num_slices"], row["target_height"], row["target_width"])
        per_shard = row["target_chunks_per_shard"]
    return ArrayLayout(f"{volume_prefix(row['name'])}/{array}", shape, DTYPES[array], per_shard)


def _attributes(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "max": float(row["max"]),
        "norm": float(row["norm"]),
        "padding_left": row["padding_left"],
        "padding_right": row["padding_right"],
        "encoding_size": (row["height"], row["width"], 1),
        "recon_size": (row["target_height"], row["target_width"], 1),
        "patient_id": row["patient_id"],
        "acquisition": row["acquisition"],
        "split": row["split"] or "",
        "contrast": row["contrast"] or "",
        "anatomy": row["anatomy"] or "",
        "field_t": math.nan if row["field_t"] is None else float(row["field_t"]),
        "te_ms": math.nan if row["te_ms"] is None else float(row["te_ms"]),
        "spacing_mm": tuple(float(row[f"spacing_{axis}_mm"]) for axis in ("slice", "height", "width")),
    }
