"""The DICOM reader with the functions that the table of readers expects."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rephase.errors import VolumeError
from rephase.facts import known_facts
from rephase.manifests.header import KINDS, Kind, Passed, Probed, SeriesHeader
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom.files import dicom_file, digest_files
from rephase.readers.dicom.header import Header
from rephase.readers.dicom.index import BELOW, Index, index_files, one_at_a_time, series_id
from rephase.readers.dicom.read import DicomVolume, find_part, find_phase, find_volume, radians, volumes_of
from rephase.readers.dicom.series import Part, grouped
from rephase.readers.geometry import Arrangement
from rephase.readers.sources import local_path
from rephase.readers.volume import Description, Volume, check_limit

__all__ = ["describe", "digest", "digest_associated", "probe", "read", "read_associated"]

_PAIRED: tuple[Kind, ...] = ("magnitude", "phase")


@one_at_a_time
def read(row: ManifestRow, limit_bytes: int | None = None) -> tuple[Volume, Arrangement | None]:
    """Read the magnitude volume that a row names. Slices are many images, so there is no arrangement of one array.

    Parameters
    ----------
    row
        `path` is a file or a folder; of a folder, the files directly in it (below it too, where `series` starts with
        `**/`). `series`, `part`, `echo` (the header's number where these are distinct, else 1, 2, ... by echo time) and
        `frame` (0-based) choose where there are several.
    limit_bytes
        Memory for the volume as float32, for one file unpacked, and for the conversion of its series.

    Raises
    ------
    VolumeError
        With one line: the file or folder, the problem and its fix.
    """
    with local_path(row.path) as path:
        found = find_volume(row, str(path), limit_bytes)
        check_limit(4 * int(np.prod(found.shape, dtype=np.int64)), limit_bytes, row.path)
        values, num_padding = _without_padding(found)
        digest = digest_files(tuple(header.file for header in found.part.headers))
    place, acquisition = found.arrangement, {**found.facts.acquisition, "mosaic": found.part.headers[0].is_tiled}
    volume = Volume(
        magnitude=values,
        spacing_mm=place.spacing_mm,
        affine=place.affine,
        orientation=place.orientation,
        transposed=place.transposed,
        phase_encode=place.phase_encode,
        source_sha256=digest,
        **known_facts(row, found.facts),
        acquisition={**acquisition, "padding_pixels": num_padding} if num_padding else acquisition,
    )
    return volume, None


def _without_padding(found: DicomVolume) -> tuple[NDArray[np.float32], int]:
    """Return the values with 0 for padding that dcm2niix leaves negative, and the number of such pixels."""
    values, padding, output = found.values(), found.part.headers[0].padding, found.output
    if padding is None or output.stored.dtype.kind != "i":
        return values, 0
    bits = 8 * output.stored.dtype.itemsize
    signed = (padding + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)  # many files write it as unsigned
    level = np.float32(signed * output.slope + output.intercept)
    outside = values == level if level < 0 else np.zeros(1, bool)
    if outside.any():
        values[outside] = 0.0
    return values, int(outside.sum())


@one_at_a_time
def describe(row: ManifestRow) -> Description:
    """Describe the volume that a row names; see `read`."""
    with local_path(row.path) as path:
        found = find_volume(row, str(path))
    return Description(found.shape, found.arrangement.spacing_mm)


@one_at_a_time
def digest(row: ManifestRow) -> str:
    """Return the `source_sha256` of the volume that a row names: of all files of its part of the series."""
    with local_path(row.path) as path:
        return digest_files(tuple(header.file for header in find_part(row, str(path)).headers))


@one_at_a_time
def read_associated(
    location: str, row: ManifestRow, volume: Volume, arrangement: Arrangement | None, limit_bytes: int | None
) -> tuple[NDArray[Any], str]:
    """Read the phase that belongs to the magnitude of a row, in radians if its header states the unit."""
    with local_path(row.path) as path, local_path(location) as phase:
        found = find_phase(row, str(path), str(phase), limit_bytes)
        return radians(found), digest_files(tuple(header.file for header in found.part.headers))


@one_at_a_time
def digest_associated(location: str, row: ManifestRow) -> str:
    """Return the SHA-256 of that phase's files."""
    with local_path(row.path) as path, local_path(location) as phase:
        found = find_phase(row, str(path), str(phase), None)
        return digest_files(tuple(header.file for header in found.part.headers))


@one_at_a_time
def probe(files: Iterable[Path]) -> Probed:
    """Describe the volumes in DICOM files; those that are no DICOM are returned in `others`.

    A series in many files has their folder as its path, or, where it lies in several folders, the one above them all;
    a series in one file has the path of the file.
    """
    probed = Probed()
    index = index_files(dicom_file(str(path)) for path in files)
    probed.others.extend(Path(file.path) for file in index.others)
    probed.unreadable.extend((Path(file.path), str(error)) for file, error in index.lost.items())
    probed.notes.extend(
        (Path(file.path), f"{file}: is a copy of {original}, byte for byte; it is left out")
        for file, original in index.copies
    )
    for headers in grouped(index.headers, lambda header: header.series).values():
        _probe_series(index, headers, probed)
    return probed


def _probe_series(index: Index, headers: Sequence[Header], probed: Probed) -> None:
    images = [header for header in headers if header.matrix]
    folders = {header.file.folder for header in images or headers}
    where = Path((images or headers)[0].file.path if len(images or headers) == 1 else os.path.commonpath(folders))
    for header in headers:
        if not header.matrix and header.kind != "non_mr":
            why = f"{header.file}: is {KINDS[header.kind]}; expected an MR image"
            probed.passed.append(Passed(Path(header.file.path), header.kind, why))
    if any(header.kind == "non_mr" for header in headers):
        probed.headers.append(_counted(headers, "non_mr", where))
    for kind in sorted({frame.kind for header in images for frame in header.frames} - set(_PAIRED)):
        probed.headers.append(_counted(images, kind, where))
    if not images:
        return
    try:
        index.check(headers, str(where))
    except VolumeError as error:
        probed.unreadable.append((where, str(error)))
        return
    for kind in _PAIRED:
        parts, errors = index.parts(images, kind, str(where))
        lost = [str(error) for error in errors]
        for part in parts:
            lost += [f"{where}: {note}" for note in part.notes]
            try:
                probed.headers.extend(_headers(part, where, volumes_of(part, str(where))))
            except VolumeError as error:
                lost.append(str(error))
        if kind == "magnitude":
            probed.unreadable.extend((where, why) for why in lost)
        elif lost:
            probed.headers.append(_counted(images, kind, where))


def _counted(headers: Sequence[Header], kind: Kind, where: Path) -> SeriesHeader:
    first = next((header for header in headers if header.kind == kind), headers[0])
    count = sum(frame.kind == kind for header in headers for frame in header.frames)
    key = f"{first.series}|{first.instance}|{kind}"
    return SeriesHeader(where, "dicom", kind, key, count, *(first.matrix or (0, 0)), subject_key=first.subject or None)


def _headers(part: Part, where: Path, volumes: Sequence[DicomVolume]) -> list[SeriesHeader]:
    first = part.headers[0]
    below = BELOW if any(header.file.folder != str(where) for header in part.headers) else ""
    own = first.instance if len(part.headers) == 1 else ""
    return [
        SeriesHeader(
            where,
            "dicom",
            part.kind,
            "|".join([first.series, own, part.kind, part.label or "", str(part.echo), str(time)]),
            *volume.shape,
            pair_key=_pair_key(volume, time),
            subject_key=first.subject or None,
            series=None if first.file.path == str(where) else below + series_id(first.series),
            part=part.label,
            echo=part.echo if part.several_echoes else None,
            frame=time if len(volumes) > 1 else None,
            spacing_mm=volume.arrangement.spacing_mm,
            **known_facts(volume.facts),
        )
        for time, volume in enumerate(volumes)
    ]


def _pair_key(volume: DicomVolume, time: int) -> str:
    """Return a key of the time, grid and echo time of an acquisition, equal for its magnitude and phase.

    Vendors store them in one series or two, with one acquisition time. Without a time, the series identifies them.
    """
    first = volume.part.headers[0]
    when = volume.part.acquired or first.series
    grid = ",".join(f"{value + 0.0:.2f}" for line in volume.arrangement.affine for value in line)
    return "|".join([first.study, when, f"{volume.part.te_ms or 0:.3f}", grid, str(volume.shape), str(time)])
