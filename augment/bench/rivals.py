"""Other ways to read the slices of a corpus, to measure the loader against: they are no part of the way itself.

The only place outside readers and store where h5py and zarr are imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import zarr
from torch.utils.data import Dataset

_ARRAYS = ("kspace", "reconstruction_esc")


class PlainZarrSlices(Dataset[Any]):
    """The same slices through the zarr package, arrays opened once a process."""

    def __init__(self, root: Path, volumes: Sequence[str], num_slices: int) -> None:
        self.root, self.volumes, self.num_slices = root, list(volumes), num_slices
        self._open: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.volumes) * self.num_slices

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Read one slice."""
        volume, number = divmod(index, self.num_slices)
        return tuple(self._array(f"{self.volumes[volume]}/{name}")[number] for name in _ARRAYS)

    def _array(self, key: str) -> Any:  # noqa: ANN401 - zarr's own type
        if key not in self._open:
            self._open[key] = zarr.open_array(self.root / "volumes" / key, mode="r")
        return self._open[key]


class Hdf5Slices(Dataset[Any]):
    """The same slices out of a fastMRI-like file per volume, opened for every slice as fastMRI does."""

    def __init__(self, folder: Path, volumes: Sequence[str], num_slices: int) -> None:
        self.folder, self.volumes, self.num_slices = folder, list(volumes), num_slices

    def __len__(self) -> int:
        return len(self.volumes) * self.num_slices

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Read one slice."""
        volume, number = divmod(index, self.num_slices)
        with h5py.File(self.folder / f"{self.volumes[volume]}.h5", "r") as file:
            return tuple(file[name][number] for name in _ARRAYS)


def copy_to_hdf5(root: Path, folder: Path, volumes: Sequence[str]) -> None:
    """Copy the arrays of a corpus's volumes to `<name>.h5` files, uncompressed."""
    for name in volumes:
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for array in _ARRAYS:
                file.create_dataset(array, data=zarr.open_array(root / "volumes" / name / array, mode="r")[...])
