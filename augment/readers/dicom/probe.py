"""Describe the volumes in the DICOM files of one folder, from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
from fsspec.implementations.local import LocalFileSystem

from rephase.errors import VolumeError
from rephase.facts import known_facts
from rephase.manifests.header import Kind, Probed, SeriesHeader
from rephase.readers.dicom.files import DicomFile, looking_into, read_header
from rephase.readers.dicom.frames import Frame, frames_of, is_mr
from rephase.readers.dicom.geometry import SliceStack, stack_frames
from rephase.readers.dicom.headers import number
from rephase.readers.dicom.kinds import frame_kind
from rephase.readers.dicom.pixels import check_encoding
from rephase.readers.dicom.select import VolumeFrames, split_volumes

# split by echo and time like magnitude, as they may be its pair
_PAIRED: tuple[Kind, ...] = ("magnitude", "phase", "real", "imaginary")


@dataclass(frozen=True)
class _File:
    """One readable image file: its frames, or none and the kind for which it is skipped."""

    file: DicomFile
    series: str
    subject: str
    study: str
    frames: tuple[Frame, ...]
    skipped_as: Kind | None
    shape: tuple[int, int, int]


def probe_dicom(folder: Path, files: Sequence[Path]) -> Probed:
    """Describe the volumes that the DICOM files among `files` hold.

    Slices in many files are one volume with the folder as its path; a volume in one file (Enhanced object, mosaic,
    single slice) has the path of the file. `series` is set where the folder has anything beside the series.

    Parameters
    ----------
    folder
        The folder of the files.
    files
        Any files in it; those that are no DICOM images are ignored.

    Returns
    -------
    probed
        Headers of every kind, in the order of the file names; and files or series that form no volume, with the reason.
    """
    probed = Probed()
    images: list[_File] = []
    for path in sorted(files):
        file = DicomFile(LocalFileSystem(), str(path))
        try:
            dataset = read_header(file)
            if dataset is not None:
                images.append(_open(dataset, file))
            else:
                probed.others.append(path)
        except VolumeError as error:
            probed.unreadable.append((path, str(error)))
    series = {image.series for image in images if image.skipped_as != "non_mr"}
    must_name = len(series) > 1 or bool(probed.unreadable)
    for group in _groups(images):
        headers, problems = _describe(folder, group, must_name)
        probed.headers.extend(headers)
        probed.unreadable.extend(problems)
    probed.headers[:] = _distinct(probed.headers)
    return probed


def _open(dataset: pydicom.Dataset, file: DicomFile) -> _File:
    frames: tuple[Frame, ...] = ()
    skipped_as: Kind | None = None
    with looking_into(file):
        if not is_mr(dataset):
            skipped_as = "non_mr"
        else:
            try:
                check_encoding(dataset, file)
                frames = tuple(frames_of(dataset, file))
            except VolumeError:
                skipped_as = _kind_without_geometry(dataset)
                if skipped_as == "magnitude":
                    raise
        sizes = [int(number(dataset.get(keyword)) or 0) for keyword in ("NumberOfFrames", "Rows", "Columns")]
        return _File(
            file=file,
            series=str(dataset.get("SeriesInstanceUID") or ""),
            subject=_subject(dataset),
            study=str(dataset.get("StudyInstanceUID") or ""),
            frames=frames,
            skipped_as=skipped_as,
            shape=(sizes[0] or 1, sizes[1], sizes[2]),
        )


def _kind_without_geometry(dataset: pydicom.Dataset) -> Kind:
    """Return the kind of an image without geometry: a screen save, report or coloured map is no error."""
    image_type = dataset.get("ImageType") or []
    words = [image_type] if isinstance(image_type, str) else list(image_type)
    component = dataset.get("ComplexImageComponent")
    return frame_kind(words, component, description=str(dataset.get("SeriesDescription") or ""))


def _subject(dataset: pydicom.Dataset) -> str:
    """Return the best identification of the person: the id, else name and birth date, else the study."""
    number = str(dataset.get("PatientID") or "")
    if number:
        return number
    named = f"{dataset.get('PatientName') or ''}|{dataset.get('PatientBirthDate') or ''}"
    return named if named.strip("|") else str(dataset.get("StudyInstanceUID") or "")


def _groups(images: Sequence[_File]) -> list[list[_File]]:
    """Group files into volumes: a file with several planes is alone, single planes are grouped by series."""
    groups: dict[tuple[str, str], list[_File]] = {}
    for image in images:
        alone = str(image.file) if len(image.frames) > 1 else ""
        key = "skipped" if image.skipped_as else alone
        groups.setdefault((image.series, key), []).append(image)
    return list(groups.values())


def _describe(
    folder: Path, group: Sequence[_File], must_name: bool
) -> tuple[list[SeriesHeader], list[tuple[Path, str]]]:
    first = group[0]
    path = Path(str(first.file)) if len(group) == 1 else folder
    base = SeriesHeader(
        path=path, format="dicom", kind="unsupported", series_key=first.series,
        num_slices=sum(image.shape[0] for image in group), height=first.shape[1], width=first.shape[2],
        subject_key=first.subject or None,
        series=first.series or None if must_name and path == folder else None,
    )  # fmt: skip
    if first.skipped_as:
        return [replace(base, kind=first.skipped_as)], []
    headers: list[SeriesHeader] = []
    problems: list[tuple[Path, str]] = []
    by_kind: dict[Kind, list[Frame]] = {}
    for image in group:
        for frame in image.frames:
            by_kind.setdefault("derived" if frame.computed else frame.kind, []).append(frame)
    for kind, frames in by_kind.items():
        try:
            if kind not in _PAIRED:
                raise VolumeError("not_magnitude", "")
            headers.extend(_volume_headers(base, kind, frames, first.study))
        except VolumeError as error:
            if kind == "magnitude":
                problems.append((path, str(error)))
            else:  # skipped in any case: one entry, to be counted
                lump = replace(base, kind=kind, num_slices=len(frames), height=frames[0].rows, width=frames[0].columns)
                headers.append(replace(lump, series_key=f"{first.series}|{frames[0].instance}|{kind}"))
    return headers, problems


def _volume_headers(base: SeriesHeader, kind: Kind, frames: Sequence[Frame], study: str) -> list[SeriesHeader]:
    headers = []
    for volume in split_volumes(frames, str(base.path)):
        stack = stack_frames(volume.frames, str(base.path))
        first = stack.frames[0]
        facts = first.facts
        headers.append(
            replace(
                base,
                kind=kind,
                series_key=_series_key(volume, kind),
                pair_key=_pair_key(volume, stack, study),
                num_slices=stack.shape[0], height=stack.shape[1], width=stack.shape[2],
                echo=volume.echo if volume.several_echoes else None,
                frame=volume.time if volume.several_times else None,
                **known_facts(replace(facts, te_ms=volume.te_ms or None)),
                spacing_mm=stack.spacing_mm,
            )
        )  # fmt: skip
    return headers


def _series_key(volume: VolumeFrames, kind: Kind) -> str:
    first = volume.frames[0]
    one_file = all(frame.file == first.file for frame in volume.frames)
    return "|".join([first.series, first.instance if one_file else "", kind, str(volume.echo), str(volume.time)])


def _pair_key(volume: VolumeFrames, stack: SliceStack, study: str) -> str:
    """Return a key of the time, position and echo time of an acquisition, equal for its magnitude and phase.

    Vendors store them in one series or two, with one acquisition time. Without a time, the series identifies them.
    """
    first = stack.frames[0]
    when = min(frame.acquired for frame in volume.frames) or first.series
    where = ",".join(f"{component:.2f}" for component in (*first.position, *stack.spacing_mm))
    shape = "x".join(str(length) for length in stack.shape)
    return "|".join([study, when, f"{volume.te_ms or 0:.3f}", where, shape, str(volume.time)])


def _distinct(headers: Sequence[SeriesHeader]) -> list[SeriesHeader]:
    """Make the keys of copies distinct: in some exports several files share one instance UID."""
    seen: dict[str, int] = {}
    distinct = []
    for header in headers:
        count = seen[header.series_key] = seen.get(header.series_key, 0) + 1
        distinct.append(header if count == 1 else replace(header, series_key=f"{header.series_key}|{count}"))
    return distinct
