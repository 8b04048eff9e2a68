"""Describe the volumes in the DICOM files of an archive."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rephase.errors import VolumeError
from rephase.facts import known_facts
from rephase.manifests.header import KINDS, Kind, Passed, Probed, SeriesHeader
from rephase.readers.dicom.files import local_file
from rephase.readers.dicom.header import Header
from rephase.readers.dicom.index import BELOW, Index, index_files, series_id
from rephase.readers.dicom.phase import acquired_at
from rephase.readers.dicom.read import DicomVolume, check_series, volumes_of
from rephase.readers.dicom.series import Part, grouped, split_series

_PAIRED: tuple[Kind, ...] = ("magnitude", "phase")


def probe_dicom(files: Iterable[Path]) -> Probed:
    """Describe the volumes that the DICOM files among `files` hold.

    A series in many files has their folder as its path, or, where it lies in several folders, the one above them all;
    a series in one file has the path of the file.

    Parameters
    ----------
    files
        Any files; those that are no DICOM are returned in `others`.
    """
    probed = Probed()
    index = index_files(local_file(str(path)) for path in files)
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
    images = [header for header in headers if header.is_image]
    where = _place(images or headers)
    for header in headers:
        if not header.is_image and header.kind != "non_mr":
            why = f"{header.file}: is {KINDS[header.kind]}; expected an MR image"
            probed.passed.append(Passed(Path(header.file.path), header.kind, why))
    if any(header.kind == "non_mr" for header in headers):
        probed.headers.append(_counted(headers, "non_mr", where))
    if not images:
        return
    kinds = {frame.kind for header in images for frame in header.frames} | {header.kind for header in images}
    for kind in sorted(kinds):
        if kind not in _PAIRED:
            probed.headers.append(_counted(images, kind, where))
    try:
        check_series(index, headers, str(where))
    except VolumeError as error:
        probed.unreadable.append((where, str(error)))
        return
    for kind in _PAIRED:
        lost: list[VolumeError] = []
        for part in split_series(images, kind, str(where), lost.append):
            probed.unreadable.extend((where, f"{where}: {note}") for note in part.notes if kind == "magnitude")
            try:
                probed.headers.extend(_headers(part, where, volumes_of(part, str(where))))
            except VolumeError as error:
                lost.append(error)
        if kind == "magnitude":
            probed.unreadable.extend((where, str(error)) for error in lost)
        elif lost:
            probed.headers.append(_counted(images, kind, where))


def _place(headers: Sequence[Header]) -> Path:
    """Return the path of the rows of a series: its file, its folder, or the folder above its folders."""
    if len(headers) == 1:
        return Path(headers[0].file.path)
    return Path(os.path.commonpath({header.file.folder for header in headers}))


def _counted(headers: Sequence[Header], kind: Kind, where: Path) -> SeriesHeader:
    first = next((header for header in headers if header.kind == kind), headers[0])
    kinds = [frame.kind for header in headers for frame in header.frames]
    kinds += [header.kind for header in headers if not header.frames]
    key = f"{first.series}|{first.instance}|{kind}"
    rows, columns = first.matrix or (0, 0)
    return SeriesHeader(where, "dicom", kind, key, kinds.count(kind), rows, columns, subject_key=first.subject or None)


def _headers(part: Part, where: Path, volumes: Sequence[DicomVolume]) -> list[SeriesHeader]:
    first = part.headers[0]
    alone = first.file.path == str(where)
    below = BELOW if any(header.file.folder != str(where) for header in part.headers) else ""
    headers = []
    for time, volume in enumerate(volumes):
        num_slices, height, width = volume.shape
        key = "|".join([first.series, first.instance if len(part.headers) == 1 else "", part.kind, part.label or "",
                        str(part.echo), str(time)])  # fmt: skip
        headers.append(
            SeriesHeader(
                path=where,
                format="dicom",
                kind=part.kind,
                series_key=key,
                pair_key=_pair_key(volume, time),
                num_slices=num_slices,
                height=height,
                width=width,
                subject_key=first.subject or None,
                series=None if alone else below + series_id(first.series),
                part=part.label,
                echo=part.echo if part.several_echoes else None,
                frame=time if len(volumes) > 1 else None,
                spacing_mm=volume.arrangement.spacing_mm,
                **known_facts(volume.facts),
            )
        )
    return headers


def _pair_key(volume: DicomVolume, time: int) -> str:
    """Return a key of the time, grid and echo time of an acquisition, equal for its magnitude and phase.

    Vendors store them in one series or two, with one acquisition time. Without a time, the series identifies them.
    """
    first = volume.part.headers[0]
    when = acquired_at(volume.part) or first.series
    grid = ",".join(f"{value + 0.0:.2f}" for line in volume.arrangement.affine for value in line)
    return "|".join([first.study, when, f"{volume.part.te_ms or 0:.3f}", grid, str(volume.shape), str(time)])
