"""Find objects in an HDF5 file without following links to other files, or in circles."""

from __future__ import annotations

import math

import h5py

from rephase.errors import VolumeError

_MOST_LINKS = 16


def find_object(file: h5py.File, key: str, name: str) -> h5py.Dataset | h5py.Group | None:
    """Find the object of a key through groups and soft links; None if it does not exist.

    h5py would open any file that an external link names, including pipes, and could read the data of another person.

    Parameters
    ----------
    file, key
        The file and the key: names separated by `/`.
    name
        Name of the file in messages.

    Raises
    ------
    VolumeError
        `unsupported` for an external link, `unreadable` for a circle of soft links and for a dangling one: a
        dangling `mask` must not be treated as an absent one.
    """
    here: h5py.Group | h5py.Dataset = file
    steps = _steps(key)
    followed = 0
    while steps:
        step = steps.pop(0)
        link = here.get(step, getlink=True) if isinstance(here, h5py.Group) else None
        if link is None:
            if followed:
                raise VolumeError("unreadable", f"{name}: the link to {key} is dangling; expected data; repack it")
            return None
        if isinstance(link, h5py.ExternalLink):
            raise VolumeError("unsupported", f"{name}: {key} is in another file; expected one file; repack it")
        if isinstance(link, h5py.SoftLink):
            followed += 1
            if followed > _MOST_LINKS:
                raise VolumeError("unreadable", f"{name}: links to {key} form a circle; expected data; repack it")
            steps = _steps(link.path) + steps
            here = file if link.path.startswith("/") else here
        else:
            here = here[step]
    return here if isinstance(here, h5py.Dataset | h5py.Group) else None


def _steps(path: str) -> list[str]:
    return [step for step in path.split("/") if step not in ("", ".")]


def named_dataset(file: h5py.File, key: str, name: str) -> h5py.Dataset:
    """Return the dataset of a key, as `find_object`; `mismatch` if it does not exist."""
    found = find_object(file, key, name)
    if not isinstance(found, h5py.Dataset):
        keys = ", ".join(sorted(map(str, file.keys()))[:8]) or "nothing"
        raise VolumeError(
            "mismatch", f"{name}: has no dataset {key}; expected one of {keys}; correct the column dataset"
        )
    if lies_elsewhere(found):
        raise VolumeError("unsupported", f"{name}: {key} is in other files; expected one file; repack it")
    return found


def lies_elsewhere(dataset: h5py.Dataset) -> bool:
    """Check whether the values of a dataset are in other files."""
    return bool(dataset.is_virtual or dataset.external)


def chunk_bytes(dataset: h5py.Dataset) -> int:
    """Return the memory to unpack one chunk, packed and unpacked; it may be far larger than the array."""
    return 2 * math.prod(dataset.chunks or ()) * dataset.dtype.itemsize if dataset.chunks else 0
