"""The table of file formats that can be read: one row per reader.

It is imported by both `manifests` and `readers`: a manifest's column `format` contains these names, and a
reader is found by them. Rows name the reader's module as text, so no reader is imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reader:
    """One file format and the module that reads it.

    Attributes
    ----------
    name
        The word in the manifest's column `format`.
    module
        Has the functions of `rephase.readers.reader.ReaderModule`; it is imported when a file of this format is read.
    suffixes
        File names of this format end in one of them; lower case, with the dot.
    help
        One line for `--help` and the documents.
    has_signature
        Whether the first bytes of a file (at most 1,024, unpacked if they are gzip) are of this format. It is used
        if no suffix matches.
    scanned
        Whether `rephase manifest scan` searches such files for volumes.
    kind
        As which a scan counts the files of a format that is not scanned.
    associated
        The manifest columns, `phase` or `segmentation`, that may name a file of this format; the module then has the
        functions of `rephase.readers.reader.AssociatedReader`.
    """

    name: str
    module: str
    suffixes: tuple[str, ...]
    help: str
    has_signature: Callable[[bytes], bool] = lambda start: False
    scanned: bool = True
    kind: str = "other image format"
    associated: tuple[str, ...] = ()


def _is_nifti(start: bytes) -> bool:
    return start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0")


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader(
            name="dicom",
            module="rephase.readers.dicom.reader",
            suffixes=(".dcm", ".dicom", ".ima", ".dcm.gz", ".dicom.gz", ".ima.gz"),
            help="DICOM images: one file, or a folder that holds the files of a series",
            has_signature=lambda start: start[128:132] == b"DICM",
            associated=("phase",),
        ),
        Reader(
            name="nifti",
            module="rephase.readers.nifti.read",
            suffixes=(".nii", ".nii.gz", ".hdr"),
            help="NIfTI-1 or NIfTI-2, one file or a pair .hdr and .img",
            has_signature=_is_nifti,
            associated=("phase", "segmentation"),
        ),
        Reader(
            name="mgh",
            module="rephase.readers.nifti.read",
            suffixes=(".mgz", ".mgh", ".mgh.gz"),
            help="FreeSurfer's images",
            scanned=False,  # most files of its folders are processed
            associated=("phase", "segmentation"),
        ),
        Reader(
            name="minc",
            module="rephase.readers.nifti.read",
            suffixes=(".mnc",),
            help="MINC 1 and 2",
            scanned=False,
            associated=("phase", "segmentation"),
        ),
        Reader(
            name="nrrd",
            module="rephase.readers.nifti.read",
            suffixes=(".nrrd", ".nhdr"),
            help="NRRD, raw or gzip",
            scanned=False,
            associated=("phase", "segmentation"),
        ),
        Reader(
            name="parrec",
            module="rephase.readers.nifti.read",
            suffixes=(".par",),
            help="Philips PAR/REC with magnitude alone",
            scanned=False,
            associated=("phase",),
        ),
        Reader(
            name="hdf5",
            module="rephase.readers.hdf5.read",
            suffixes=(".h5", ".hdf5"),
            help="HDF5: fastMRI files, or the dataset that the column `dataset` names",
            has_signature=lambda start: start.startswith(b"\x89HDF\r\n\x1a\n"),
        ),
        Reader(
            name="npy",
            module="rephase.readers.npy",
            suffixes=(".npy",),
            help="one NumPy array of shape (slice, height, width)",
            has_signature=lambda start: start.startswith(b"\x93NUMPY"),
            scanned=False,  # an array without a header may contain anything
            associated=("phase", "segmentation"),
        ),
        Reader(
            name="mat",
            module="rephase.readers.raw.read",
            suffixes=(".mat",),
            help="MATLAB: the array that the column `dataset` names, or the only one; before version 7.3 with SciPy "
            "(extra `raw`)",
            has_signature=lambda start: start.startswith(b"MATLAB "),
            scanned=False,
            kind="MATLAB",
        ),
        Reader(
            name="bart",
            module="rephase.readers.raw.read",
            suffixes=(".cfl",),
            help="BART: a .cfl file beside its .hdr",
            scanned=False,
            kind="raw data",
        ),
        Reader(
            name="ismrmrd",
            module="rephase.readers.raw.read",
            suffixes=(".mrd",),
            help="ISMRMRD (MRD 1) raw data, Cartesian; also in .h5 files",
            scanned=False,
            kind="raw data",
        ),
        Reader(
            name="twix",
            module="rephase.readers.raw.read",
            suffixes=(".dat",),
            help="Siemens raw data (twix), Cartesian; needs the extra `twix`",
            scanned=False,
            kind="raw data",
        ),
    )
}
"""By name. To add a format, write its module and add its row."""

FALLBACK = "dicom"
"""The format of folders, and of files that neither suffix nor signature identifies: old DICOM files have no mark."""


def match_suffix(name: str) -> tuple[Reader, str] | None:
    """Return the reader whose suffix a file name ends in, and that suffix, the longest one; None for no match."""
    lower = name.lower()
    found = [(reader, suffix) for reader in READERS.values() for suffix in reader.suffixes if lower.endswith(suffix)]
    return max(found, key=lambda pair: len(pair[1]), default=None)
