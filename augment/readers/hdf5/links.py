"""Finding objects in an HDF5 file without leaving it: a link may name another file, or go round in a circle."""

from __future__ import annotations

import math

import h5py

from rephase.errors import VolumeError

_MOST_LINKS = 16


def find_object(file: h5py.File, key: str, name: str) -> h5py.Dataset | h5py.Group | None:
    """Follow a key through groups and soft links; None where nothing is there.

    `h5py` would open whatever file an external link names, also a pipe, and read another person's data as this one's.

    Parameters
    ----------
    file, key
        Where to look, and for what: names with `/` between them.
    name
        Of the file, for messages.

    Raises
    ------
    VolumeError
        `unsupported` where an external link is on the way, `unreadable` where soft links go round in a circle or lead
        nowhere: a `mask` that is lost so is not the same as none.
    """
    here: h5py.Group | h5py.Dataset = file
    steps = _steps(key)
    followed = 0
    while steps:
        step = steps.pop(0)
        link = here.get(step, getlink=True) if isinstance(here, h5py.Group) else None
        if link is None:
            if followed:
                raise VolumeError("unreadable", f"{name}: the link to {key} leads nowhere; expected data; repack it")
            return None
        if isinstance(link, h5py.ExternalLink):
            raise VolumeError("unsupported", f"{name}: {key} lies in another file; expected one file; repack it")
        if isinstance(link, h5py.SoftLink):
            followed += 1
            if followed > _MOST_LINKS:
                raise VolumeError("unreadable", f"{name}: links to {key} go in a circle; expected data; repack it")
            steps = _steps(link.path) + steps
            here = file if link.path.startswith("/") else here
        else:
            here = here[step]
    return here if isinstance(here, h5py.Dataset | h5py.Group) else None


def _steps(path: str) -> list[str]:
    return [step for step in path.split("/") if step not in ("", ".")]


def named_dataset(file: h5py.File, key: str, name: str) -> h5py.Dataset:
    """Give the dataset of a key, as `find_object`; one that is not there is a `mismatch`."""
    found = find_object(file, key, name)
    if not isinstance(found, h5py.Dataset):
        keys = ", ".join(sorted(map(str, file.keys()))[:8]) or "nothing"
        raise VolumeError("mismatch", f"{name}: has no dataset {key}; expected one of {keys}; correct the manifest")
    if lies_elsewhere(found):
        raise VolumeError("unsupported", f"{name}: {key} lies in other files; expected one file; repack it")
    return found


def lies_elsewhere(dataset: h5py.Dataset) -> bool:
    """Tell whether the values of a dataset are in other files."""
    return bool(dataset.is_virtual or dataset.external)


def chunk_bytes(dataset: h5py.Dataset) -> int:
    """Memory to unpack one chunk, which may be far larger than the array: as stored, and as it comes out."""
    return 2 * math.prod(dataset.chunks or ()) * dataset.dtype.itemsize if dataset.chunks else 0
