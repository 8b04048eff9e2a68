"""Tell what HDF5 files hold that are not fastMRI's."""

from __future__ import annotations

from collections.abc import Iterator

import h5py

from rephase.manifests.header import Kind

_MOST_OBJECTS = 64
_MATLAB_MARK = "MATLAB_class"


def kind_of_file(file: h5py.File) -> tuple[Kind, str]:
    """Return what a file holds, without following links to other files.

    Returns
    -------
    kind
        As a scan counts it.
    what
        What it is, and what to do with it: the end of a message.
    """
    objects = dict(_objects(file))
    groups = {name: one for name, one in objects.items() if isinstance(one, h5py.Group)}
    arrays = {name: one for name, one in objects.items() if isinstance(one, h5py.Dataset) and one.shape}
    if any({"xml", "data"} <= set(dict(_objects(one))) for one in (file, *groups.values())):
        return "raw data", "is ISMRMRD raw data; expected images; add its row by hand, with the file in path and kspace"
    if "minc-2.0" in groups:
        return "other image format", "is a MINC image; expected NIfTI; convert it with mnc2nii or nibabel"
    if "TransformGroup" in groups:
        return "vectors", "is a transformation of ITK; expected images; name those"
    if _is_matlab(file, objects):
        names = ", ".join(arrays) or "no array"
        return "MATLAB", (
            f"is a MATLAB 7.3 file with {names}; expected images; save one volume as NIfTI (niftiwrite), or name an "
            "array of real numbers in the column dataset"
        )
    if not arrays:
        names = ", ".join(objects) or "nothing"
        return "no image", f"is HDF5 with {names}; expected reconstruction_rss or _esc; name a dataset by hand"
    listed = ", ".join(f"{name} {arrays[name].shape}" if name in arrays else name for name in list(objects)[:8])
    return "other image format", f"is HDF5 with {listed}; expected fastMRI's names; name an image in the column dataset"


def _objects(group: h5py.Group) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    for number, name in enumerate(group):
        if number == _MOST_OBJECTS:
            return
        if isinstance(group.get(name, getlink=True), h5py.HardLink):
            found = group[name]
            if isinstance(found, h5py.Group | h5py.Dataset):
                yield str(name), found


def _is_matlab(file: h5py.File, objects: dict[str, h5py.Group | h5py.Dataset]) -> bool:
    if file.userblock_size >= 512 or "#refs#" in objects:
        return True
    for one in objects.values():
        if isinstance(one, h5py.Dataset) and set(one.dtype.names or ()) == {"real", "imag"}:
            return True
        if _MATLAB_MARK in one.attrs:
            return True
    return False
