"""Opening what a manifest names: local files as they are, URLs by fsspec into a temporary file, and their digests."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rephase.errors import VolumeError
from rephase.files import file_sha256, sha256
from rephase.text import is_url, one_line

_BLOCK_BYTES = 1 << 20


@contextmanager
def local_path(location: str) -> Iterator[Path]:
    """Give a local path of a file or folder for as long as the context lasts.

    Raises
    ------
    VolumeError
        `missing` where nothing is there, `unreadable` where a URL cannot be fetched.
    """
    if location.startswith("file://"):
        location = unquote(urlsplit(location).path)
    if not is_url(location):
        check_local(location)
        yield Path(location)
        return
    with tempfile.TemporaryDirectory(prefix="rephase-") as folder:
        yield _fetch(location, Path(folder))


def check_local(location: str) -> None:
    """Make sure that a local path is a file or a folder, before anything opens it: opening a pipe waits for ever.

    Raises
    ------
    VolumeError
        `missing` where nothing is there, `unreadable` where it may not be looked at, or is neither.
    """
    try:
        mode = Path(location).stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        code = error.errno if isinstance(error, OSError) else errno.ENOENT
        if code in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            raise VolumeError(
                "missing", f"{location}: is not there; expected a file or folder; correct the manifest's path"
            ) from None
        raise VolumeError(
            "unreadable", f"{location}: cannot be looked at ({one_line(error)}); expected a readable file; check it"
        ) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise VolumeError(
            "unreadable", f"{location}: is a pipe, a socket or a device; expected a file or folder; name one"
        )


def _fetch(location: str, folder: Path) -> Path:
    import fsspec

    # The name decides the format where a row says `auto`, so it is kept.
    path = folder / (os.path.basename(location.rstrip("/")) or "source")  # noqa: PTH119
    try:
        with fsspec.open(location, "rb") as remote, path.open("wb") as local:
            shutil.copyfileobj(remote, local, _BLOCK_BYTES)
    except FileNotFoundError:
        raise VolumeError(
            "missing", f"{location}: is not there; expected a file; correct the manifest's path"
        ) from None
    except (OSError, ValueError, ImportError) as error:
        raise VolumeError(
            "unreadable",
            f"{location}: cannot be fetched ({one_line(error)}); expected a file that fsspec opens; try it by hand",
        ) from error
    return path


def hash_file(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, as hexadecimal digits."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise VolumeError(
            "unreadable", f"{path}: {error.strerror or error}; expected a readable file; check it"
        ) from error


def join_digests(digests: Sequence[str]) -> str:
    """Join the digests of the files of one volume: of one file its own, of several the SHA-256 over them in order."""
    if len(digests) == 1:
        return digests[0]
    return sha256(b"".join(map(bytes.fromhex, digests)))


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
