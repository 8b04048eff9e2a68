"""The stamp of an exported HDF5 file: an attribute of its root."""

from __future__ import annotations

from pathlib import Path

import h5py

from augment.exports.stamp import STAMP_KEY, Stamp


def read_stamp(path: Path) -> Stamp | None:
    """Read the stamp of a file; None where it has none or is no whole HDF5 file."""
    try:
        with h5py.File(path, "r") as file:
            return Stamp.from_json(file.attrs.get(STAMP_KEY))
    except OSError:
        return None


def is_foreign(path: Path) -> bool:
    """Tell whether this is a whole HDF5 file that no export wrote; a torn one is taken for ours, to be made again."""
    try:
        with h5py.File(path, "r") as file:
            return STAMP_KEY not in file.attrs
    except OSError:
        return False
