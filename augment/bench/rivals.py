"""Other readers of the same slices for comparison: plain zarr and fastMRI's HDF5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from torch.utils.data import Dataset

ARRAYS = ("kspace", "reconstruction_esc", "reconstruction_rss")

_HEADER = """<?xml version="1.0" encoding="utf-8"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{height}</x><y>{width}</y><z>1</z></matrixSize></encodedSpace>
<reconSpace><matrixSize><x>{height}</x><y>{width}</y><z>1</z></matrixSize></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{centre}</center>
</kspace_encoding_step_1></encodingLimits></encoding></ismrmrdHeader>"""


class PlainZarrSlices(Dataset[Any]):
    """The same slices through the zarr package; each process opens an array once."""

    def __init__(self, root: Path, volumes: Sequence[str], num_slices: int, target: str = ARRAYS[1]) -> None:
        self.root, self.volumes, self.num_slices, self.target = root, list(volumes), num_slices, target
        self._open: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.volumes) * self.num_slices

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Read one slice."""
        volume, number = divmod(index, self.num_slices)
        return tuple(self._array(f"{self.volumes[volume]}/{name}")[number] for name in ("kspace", self.target))

    def _array(self, key: str) -> Any:  # noqa: ANN401 - zarr's own type
        if key not in self._open:
            self._open[key] = zarr.open_array(self.root / "volumes" / key, mode="r")
        return self._open[key]


class Hdf5Slices(Dataset[Any]):
    """The reads of fastMRI's `SliceDataset` by h5py: one file per volume, opened for every slice."""

    def __init__(self, folder: Path, volumes: Sequence[str], num_slices: int, target: str = ARRAYS[1]) -> None:
        self.folder, self.volumes, self.num_slices, self.target = folder, list(volumes), num_slices, target

    def __len__(self) -> int:
        return len(self.volumes) * self.num_slices

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Read one slice."""
        volume, number = divmod(index, self.num_slices)
        with h5py.File(self.folder / f"{self.volumes[volume]}.h5", "r") as file:
            kspace = file["kspace"][number]
            mask = np.asarray(file["mask"]) if "mask" in file else None
            target = file[self.target][number] if self.target in file else None
            return kspace, target, mask, dict(file.attrs)


def fastmri_slices(folder: Path, volumes: Sequence[str], num_slices: int, target: str) -> tuple[Dataset[Any], str]:
    """Return fastMRI's `SliceDataset` over a folder if the package is installed, else `Hdf5Slices`, and which it is."""
    try:
        from fastmri.data import SliceDataset  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return Hdf5Slices(
            folder, volumes, num_slices, target
        ), "its reads by h5py: the fastmri package is not installed"
    challenge = "multicoil" if target == "reconstruction_rss" else "singlecoil"
    slices: Dataset[Any] = SliceDataset(folder, challenge, _as_it_is, raw_sample_filter=_every)
    return slices, "its own SliceDataset"


def _as_it_is(*parts: Any) -> tuple[Any, ...]:  # noqa: ANN401 - fastMRI's own types
    return parts


def _every(_: object) -> bool:
    """Replace fastMRI's default, a lambda, which cannot be pickled for a spawned worker."""
    return True


def copy_to_hdf5(root: Path, folder: Path, volumes: Sequence[str], compression: str | None = None) -> None:
    """Copy the arrays of a corpus's volumes to `<name>.h5` files in fastMRI's layout."""
    folder.mkdir(exist_ok=True)
    for name in volumes:
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for array in ARRAYS:
                if (root / "volumes" / name / array).is_dir():
                    values = np.asarray(zarr.open_array(root / "volumes" / name / array, mode="r")[...])
                    chunks = (1, *values.shape[1:]) if compression else None
                    file.create_dataset(array, data=values, compression=compression, chunks=chunks)
            height, width = file["kspace"].shape[-2:]
            header = _HEADER.format(height=height, width=width, last=width - 1, centre=width // 2)
            file["ismrmrd_header"] = np.bytes_(header.encode())
            file.attrs.update({"acquisition": "AXT1", "max": 1.0, "norm": 1.0, "patient_id": name})
