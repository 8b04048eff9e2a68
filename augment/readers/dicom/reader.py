"""The DICOM reader with the functions that the table of readers expects."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from rephase.manifests.record import ManifestRow
from rephase.readers.dicom.phase import hash_dicom_phase, read_dicom_phase
from rephase.readers.dicom.probe import probe_dicom as probe
from rephase.readers.dicom.read import describe_dicom as describe
from rephase.readers.dicom.read import digest_dicom as digest
from rephase.readers.dicom.read import read_dicom
from rephase.readers.geometry import Arrangement
from rephase.readers.volume import Volume

__all__ = ["describe", "digest", "digest_associated", "probe", "read", "read_associated"]


def read(row: ManifestRow, limit_bytes: int | None = None) -> tuple[Volume, Arrangement | None]:
    """Read a magnitude volume; see `read_dicom`. Slices are many images, so there is no arrangement of one array."""
    return read_dicom(row, limit_bytes), None


def read_associated(
    location: str, row: ManifestRow, volume: Volume, arrangement: Arrangement | None, limit_bytes: int | None
) -> tuple[NDArray[Any], str]:
    """Read the phase that belongs to the magnitude, in radians; see `read_dicom_phase`."""
    return read_dicom_phase(row, limit_bytes)


def digest_associated(location: str, row: ManifestRow) -> str:
    """Return the SHA-256 of that phase's files."""
    return hash_dicom_phase(row)
