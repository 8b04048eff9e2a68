"""Telling the format of a source by its name, else by its first bytes."""

from __future__ import annotations

import zlib
from pathlib import Path

from augment.errors import VolumeError

_SUFFIXES = {
    ".nii": "nifti", ".nii.gz": "nifti", ".h5": "hdf5", ".hdf5": "hdf5", ".npy": "npy", ".dcm": "dicom",
    ".ima": "dicom", ".dcm.gz": "dicom", ".ima.gz": "dicom",
}  # fmt: skip
_NIFTI_MAGIC = (b"n+1\0", b"ni1\0")
_NIFTI_2_MAGIC = (b"n+2\0", b"ni2\0")


def format_of(path: Path, stated: str) -> str:
    """Tell which reader opens a local path.

    Parameters
    ----------
    path
        Of a file or folder; a folder is DICOM.
    stated
        The manifest's word; anything but `"auto"` stands.

    Returns
    -------
    format
        `dicom`, `nifti`, `hdf5` or `npy`; `dicom` where nothing tells, because old DICOM files have no mark.
    """
    if stated != "auto":
        return stated
    if path.is_dir():
        return "dicom"
    name = path.name.lower()
    named = next((word for suffix, word in _SUFFIXES.items() if name.endswith(suffix)), None)
    return named or _format_of_bytes(path)


def _format_of_bytes(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise VolumeError(
            "unreadable", f"{path}: {error.strerror or error}; expected a readable file; check it"
        ) from error
    if start.startswith(b"\x1f\x8b"):
        try:
            start = zlib.decompressobj(wbits=31).decompress(start, 1024)
        except zlib.error:
            start = b""
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    return "nifti" if start[344:348] in _NIFTI_MAGIC or start[4:8] in _NIFTI_2_MAGIC else "dicom"
