"""Finding objects in an HDF5 file without leaving it: a link may name another file, or go round in a circle."""

from __future__ import annotations

import h5py

from augment.errors import VolumeError

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
