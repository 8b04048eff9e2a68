"""Recognise files that no reader reads: what they are, and what converts them."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from rephase.formats import READERS, match_suffix
from rephase.manifests.header import Kind, Passed, not_fetched

START_BYTES = 1024
"""As many first bytes of a file identify it."""

_DCM2NIIX = "convert it with dcm2niix"
_NIBABEL = "convert it with nibabel (nib-convert)"
_SLICER = "convert it with SimpleITK or 3D Slicer"
_RECONSTRUCT = "reconstruct it and scan the images"


@dataclass(frozen=True)
class Foreign:
    """A format or a family of files that no reader reads.

    Attributes
    ----------
    kind
        Under which a scan counts such files.
    what
        In words that complete "it is ...".
    advice
        What to do with the file.
    names
        Regular expression of a whole file name in lower case.
    starts
        Regular expression of the first bytes.
    """

    kind: Kind
    what: str
    advice: str
    names: str = ""
    starts: bytes = b""

    def message(self, path: Path | str) -> str:
        """Return the line about one file."""
        known = ", ".join(reader.name for reader in READERS.values())
        return f"{path}: is {self.what}; expected one of {known}; {self.advice}"


_IMAGE: Kind = "other image format"
FOREIGN: tuple[Foreign, ...] = (
    Foreign("surface", "a CIFTI file (surfaces, matrices)", "name an image of the volume",
            r".*\.(dscalar|dtseries|dlabel|dconn|ptseries|pscalar|pconn|plabel|dfan|sdseries)\.nii"),
    Foreign("surface", "a surface, or values on one", "name an image of the volume",
            r".*\.(gii(\.gz)?|surf|annot|obj|stl|ply|vtk|vtp|off)|[lr]h\.(pial|white|inflated|orig|sphere|smoothwm|curv|sulc"
            r"|thickness|area|volume|avg_curv|jacobian_white|qsphere|w-g)(\.\w+)*",
            rb"\xff\xff\xfe|# vtk DataFile"),
    Foreign("surface", "a file of fibre tracts", "name an image of the volume", r".*\.(trk|tck|trx|tt\.gz|fib\.gz)",
            rb"TRACK\0|mrtrix tracks"),
    Foreign(_IMAGE, "a FreeSurfer image (MGH)", "convert it with mri_convert or nibabel", r".*\.(mgz|mgh|mgh\.gz)",
            rb"\0\0\0\x01\0\0..\0\0..\0\0..\0\0..\0\0\0[\0-\x0a]"),
    Foreign(_IMAGE, "an NRRD image", _SLICER, r".*\.(nrrd|nhdr)", rb"NRRD000"),
    Foreign(_IMAGE, "a MetaImage", _SLICER, r".*\.(mha|mhd)", rb"(ObjectType|NDims)\s*="),
    Foreign(_IMAGE, "a Philips PAR/REC image", _DCM2NIIX, r".*\.(par|rec)", rb"# === DATA DESCRIPTION FILE"),
    Foreign(_IMAGE, "a MINC image", "convert it with mnc2nii or nibabel", r".*\.(mnc|mnc\.gz|mnc2)", rb"CDF[\x01\x02]"),
    Foreign(_IMAGE, "an AFNI image", "convert it with 3dAFNItoNIFTI", r".*\.(head|brik|brik\.gz)",
            rb"\s*type\s*=\s*\w+-attribute"),
    Foreign(_IMAGE, "a Bruker reconstruction", "convert it with Bru2Nii or brkraw", r"2dseq|visu_pars|reco"),
    Foreign(_IMAGE, "an MRtrix image", "convert it with mrconvert", r".*\.(mif|mif\.gz|mih)", rb"mrtrix image"),
    Foreign(_IMAGE, "an Agilent (Varian) image", "convert it with fdf2nifti or VnmrJ's DICOM export", r".*\.fdf",
            rb"#!/usr/local/fdf"),
    Foreign(_IMAGE, "an ECAT image", _NIBABEL, r".*\.v", rb"MATRIX7"),
    Foreign(_IMAGE, "a GIPL image", _SLICER, r".*\.gipl(\.gz)?"),
    Foreign(_IMAGE, "a VTK image", _SLICER, r".*\.(vti|mhdr)"),
    Foreign(_IMAGE, "a TIFF image", "convert the volume with SimpleITK, or scan its DICOM", r".*\.tiff?",
            rb"II\*\0|MM\0\*"),
    Foreign(_IMAGE, "a picture", "scan the DICOM that it was made from", r".*\.(png|jpe?g|bmp|gif|jp2|webp|svg)",
            rb"\x89PNG\r\n|\xff\xd8\xff|GIF8|BM.{4}\0\0\0\0"),
    Foreign(_IMAGE, "an archive of NumPy arrays", "save one array as .npy", r".*\.npz"),
    Foreign("spectroscopy", "spectroscopy", "remove it from the rows; it is no image",
            r".*\.(rda|sdat|spar)"),
    Foreign("raw data", "GE raw data (P-file)", f"{_RECONSTRUCT}, or convert it with ge_to_ismrmrd", r"p\d{5}\.7"),
    Foreign("raw data", "Philips raw data", f"{_RECONSTRUCT}, or convert it with philips_to_ismrmrd",
            r".*\.(lab|sin|raw|list|data)"),
    Foreign("raw data", "Bruker or Varian raw data", f"{_RECONSTRUCT}, or convert it with bruker_to_ismrmrd",
            r"fid|ser|rawdata\.job\d+"),
    Foreign("archive", "an archive of files", "unpack it and scan the folder",
            r".*\.(zip|7z|rar|tar|tgz|tbz2?|txz|(tar|dcm)\.(gz|bz2|xz|zst)(?<!dcm\.gz))",
            rb"PK\x03\x04|7z\xbc\xaf|Rar!"),
    Foreign("archive", "compressed by another program than gzip", "unpack it, or compress it with gzip",
            r".*\.(nii|dcm|h5)\.(bz2|xz|zst|zip|lz4)", rb"BZh\d1AY|\xfd7zXZ|\x28\xb5\x2f\xfd"),
    Foreign("no image", "a file without image", "name an image",
            r"\._.*|\.ds_store|thumbs\.db|desktop\.ini|dicomdir|readme|changes|license|.*\.(json|jsonl|tsv|tsv\.gz|csv|txt"
            r"|md|rst|html?|css|js|pdf|docx?|xlsx?|pptx?|bvals?|bvecs?|ya?ml|toml|xml|ini|cfg|log|py|r|sh|m|ipynb|lta|xfm"
            r"|dat|par\.txt|salt|bib|rtf|md5|sha\d*|stats|label|ctab|eeg|edf|set|fdt|vhdr|vmrk|sql|db|zarr|exe|mp4|avi)",
            rb"\0\x05\x16\x07|%PDF-|\x7fELF|<!DOCTYPE|<\?xml|\{\s*\""),
)  # fmt: skip
"""The first match of a name counts; the first bytes decide for names that none matches."""

_NAMES = tuple((foreign, re.compile(foreign.names)) for foreign in FOREIGN if foreign.names)
_STARTS = tuple((foreign, re.compile(foreign.starts, re.DOTALL)) for foreign in FOREIGN if foreign.starts)
_POINTER = re.compile(rb"\s*(/annex/objects/|version https://git-lfs\.github\.com/|(\.\./)*\.git/annex/objects/)")


def foreign_by_name(name: str, readable: bool = False) -> Foreign | None:
    """Return the format that a file name denotes; None if none does, or if a reader has its suffix and not `readable`.

    CIFTI ends in `.nii`, and macOS writes `._x.nii` beside `x.nii`: neither is an image.
    """
    lower = name.lower()
    found = next((foreign for foreign, matches in _NAMES if matches.fullmatch(lower)), None)
    known = match_suffix(name) is not None  # some of these are read, but not scanned
    return None if found is None or (known and not readable and found.kind not in ("surface", "no image")) else found


def foreign_by_start(start: bytes) -> Foreign | None:
    """Return the format of a file by its first bytes, unpacked if they are gzip; None if it is none of these."""
    start = unpacked_start(start)
    return next((foreign for foreign, matches in _STARTS if matches.match(start)), None)


def unpacked_start(start: bytes) -> bytes:
    """Return the first bytes of a file, decompressed if they are gzip; empty for a broken stream."""
    if not start.startswith(b"\x1f\x8b"):
        return start
    try:
        return zlib.decompressobj(wbits=31).decompress(start, START_BYTES)
    except zlib.error:
        return b""


def is_pointer(start: bytes) -> bool:
    """Check whether a file's bytes are those that git-annex or Git LFS keep in place of contents not yet fetched."""
    return _POINTER.match(start) is not None


def explain(path: Path) -> Passed | None:
    """Tell what a file is that no reader could read: empty, not fetched, or of another format; None if unknown.

    It is opened only if its name does not tell.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            return Passed(path, "empty", f"{path}: is empty (0 bytes); expected an image; fetch it again")
        found = foreign_by_name(path.name)
        if found is None or size < START_BYTES:
            with path.open("rb") as file:
                start = file.read(START_BYTES)
            if is_pointer(start):
                return not_fetched(path)
            found = found or foreign_by_start(start)
    except OSError:
        return None
    return None if found is None else Passed(path, found.kind, found.message(path))
