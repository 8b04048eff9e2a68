"""The interface of a reader's module, and finding the module that reads a file."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.formats import FALLBACK, READERS, match_suffix
from rephase.manifests.header import Probed
from rephase.manifests.record import ManifestRow
from rephase.readers.foreign import START_BYTES, foreign_by_name, foreign_by_start, unpacked_start
from rephase.readers.geometry import Arrangement
from rephase.readers.sources import local_path
from rephase.readers.volume import Description, Volume
from rephase.text import is_url


class ReaderModule(Protocol):
    """The functions of the module that a row of `READERS` names. All but `probe` raise `VolumeError`."""

    def read(self, row: ManifestRow, limit_bytes: int | None = None) -> tuple[Volume, Arrangement | None]:
        """Read the magnitude volume that a row names, without associated files.

        Parameters
        ----------
        row
            Row of a validated manifest; `path` may be a URL (see `rephase.readers.sources.local_path`).
        limit_bytes
            Memory limit for one file; exceeding it is refused with `too_large` before allocation. None for no limit.

        Returns
        -------
        volume
            With the phase of a complex file if `row.phase` is `row.path`.
        arrangement
            Mapping of the file's axes to those of the volume. None if the file has no array of three axes, as
            DICOM; arrays without an affine are then read in the order of the displayed slices.
        """
        ...

    def describe(self, row: ManifestRow) -> Description:
        """Describe the volume that a row names, from headers alone."""
        ...

    def digest(self, row: ManifestRow) -> str:
        """Return the `source_sha256` of the volume that `read` returns, without decoding pixels."""
        ...

    def probe(self, files: Iterable[Path]) -> Probed:
        """Describe the volumes in all files of an archive that carry this format's suffixes; called if `scanned`.

        Called once per archive, so that a series or a pair of files may lie in several folders. Each file is opened
        once. The reader of the fallback format also gets the files that no suffix identifies, and returns those that
        are not its own in `Probed.others`.
        """
        ...


class AssociatedReader(Protocol):
    """The further functions of a module whose row lists columns in `associated`."""

    def read_associated(
        self,
        location: str,
        row: ManifestRow,
        volume: Volume,
        arrangement: Arrangement | None,
        limit_bytes: int | None,
    ) -> tuple[NDArray[Any], str]:
        """Read the phase or the labels in an associated file.

        Parameters
        ----------
        location
            The row's `phase` or `segmentation`.
        row
            The magnitude's row.
        volume, arrangement
            The magnitude, as its reader returned it.
        limit_bytes
            Memory limit for this file.

        Returns
        -------
        values
            Stored values on the grid of the magnitude: same shape, same axes, never resampled.
        digest
            As `digest_associated`.
        """
        ...

    def digest_associated(self, location: str, row: ManifestRow) -> str:
        """Return the SHA-256 of the bytes that `read_associated` reads."""
        ...


def load_reader(name: str) -> ReaderModule:
    """Import the module that reads a format.

    Raises
    ------
    VolumeError
        `unsupported` for a name that is not in `READERS`.
    """
    if name not in READERS:
        raise VolumeError("unsupported", f"format {name}: unknown; expected {', '.join(READERS)}; correct it")
    return cast(ReaderModule, import_module(READERS[name].module))


def load_associated(name: str) -> AssociatedReader:
    """Import the module that reads associated files of a format; see `load_reader`."""
    return cast(AssociatedReader, load_reader(name))


def format_of(location: str) -> str:
    """Return the name of the format of a file, a folder or a URL: by its suffix, else by its first bytes.

    Raises
    ------
    VolumeError
        `missing` or `unreadable`; `unsupported` for the formats of `rephase.readers.foreign`. A URL is fetched only if
        its suffix is not conclusive.
    """
    if is_url(location) and (found := match_suffix(location.rstrip("/"))):
        return found[0].name
    with local_path(location) as path:
        if path.is_dir():
            return FALLBACK
        if foreign := foreign_by_name(path.name):
            raise VolumeError("unsupported", foreign.message(location))
        if found := match_suffix(path.name):
            return found[0].name
        if path.name.lower().endswith(".img") and any(path.with_suffix(one).exists() for one in (".hdr", ".HDR")):
            return "nifti"  # the values of a pair
        try:
            with path.open("rb") as file:
                start = unpacked_start(file.read(START_BYTES))
        except OSError as error:
            raise VolumeError(
                "unreadable", f"{path}: {error.strerror or error}; expected a readable file; check it"
            ) from error
    known = next((reader.name for reader in READERS.values() if reader.has_signature(start)), None)
    if known is None and (foreign := foreign_by_start(start)):
        raise VolumeError("unsupported", foreign.message(location))
    return known or FALLBACK
