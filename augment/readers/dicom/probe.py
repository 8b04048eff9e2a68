"""Says which volumes the DICOM files of one folder hold, from their headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
from fsspec.implementations.local import LocalFileSystem

from rephase.errors import VolumeError
from rephase.manifests.header import Kind, Probed, SeriesHeader
from rephase.readers.dicom.files import Source, looking_into, read_header
from rephase.readers.dicom.frames import Frame, frames_of, is_mr
from rephase.readers.dicom.geometry import Placement, place_frames
from rephase.readers.dicom.headers import number
from rephase.readers.dicom.kinds import frame_kind
from rephase.readers.dicom.pixels import check_encoding
from rephase.readers.dicom.select import Stack, split_volumes

# Kinds that are told apart by echo and time like magnitude, as they may be its pair.
_PAIRED: tuple[Kind, ...] = ("magnitude", "phase", "real", "imaginary")


@dataclass(frozen=True)
class _File:
    """One readable image file: its frames, or none and the kind that it is left out for."""

    source: Source
    series: str
    subject: str
    study: str
    frames: tuple[Frame, ...]
    left_out: Kind | None
    shape: tuple[int, int, int]


def probe_dicom(folder: Path, files: Sequence[Path]) -> Probed:
    """Describe the volumes that the DICOM files among `files` hold.

    Slices in many files make one volume with the folder as its path; what is complete in one file (Enhanced object,
    mosaic, single slice) has the file. `series` is set where the folder holds anything else beside the series.

    Parameters
    ----------
    folder
        Where the files lie.
    files
        Any files of it; those that are no DICOM images are passed over.

    Returns
    -------
    probed
        Headers of every kind, in the order of the file names; and files or series that cannot be a volume, with why.
    """
    probed = Probed()
    images: list[_File] = []
    for path in sorted(files):
        source = Source(LocalFileSystem(), str(path))
        try:
            dataset = read_header(source)
            if dataset is not None:
                images.append(_open(dataset, source))
        except VolumeError as error:
            probed.unreadable.append((path, str(error)))
    series = {image.series for image in images if image.left_out != "non_mr"}
    must_name = len(series) > 1 or bool(probed.unreadable)
    for group in _groups(images):
        headers, faults = _describe(folder, group, must_name)
        probed.headers.extend(headers)
        probed.unreadable.extend(faults)
    probed.headers[:] = _distinct(probed.headers)
    return probed


def _open(dataset: pydicom.Dataset, source: Source) -> _File:
    frames: tuple[Frame, ...] = ()
    left_out: Kind | None = None
    with looking_into(source):
        if not is_mr(dataset):
            left_out = "non_mr"
        else:
            try:
                check_encoding(dataset, source)
                frames = tuple(frames_of(dataset, source))
            except VolumeError:
                left_out = _kind_without_geometry(dataset)
                if left_out == "magnitude":
                    raise
        sizes = [int(number(dataset.get(keyword)) or 0) for keyword in ("NumberOfFrames", "Rows", "Columns")]
        return _File(
            source=source,
            series=str(dataset.get("SeriesInstanceUID") or ""),
            subject=_subject(dataset),
            study=str(dataset.get("StudyInstanceUID") or ""),
            frames=frames,
            left_out=left_out,
            shape=(sizes[0] or 1, sizes[1], sizes[2]),
        )


def _kind_without_geometry(dataset: pydicom.Dataset) -> Kind:
    """Screen saves, reports as pictures and coloured maps have no place in space; they are no faults either."""
    image_type = dataset.get("ImageType") or []
    words = [image_type] if isinstance(image_type, str) else list(image_type)
    component = dataset.get("ComplexImageComponent")
    return frame_kind(words, component, description=str(dataset.get("SeriesDescription") or ""))


def _subject(dataset: pydicom.Dataset) -> str:
    """What names the person best: the identity number, else name and birth date, else the study."""
    number = str(dataset.get("PatientID") or "")
    if number:
        return number
    named = f"{dataset.get('PatientName') or ''}|{dataset.get('PatientBirthDate') or ''}"
    return named if named.strip("|") else str(dataset.get("StudyInstanceUID") or "")


def _groups(images: Sequence[_File]) -> list[list[_File]]:
    """Files that belong together: a file with several planes stands alone, single planes go by series."""
    groups: dict[tuple[str, str], list[_File]] = {}
    for image in images:
        alone = str(image.source) if len(image.frames) > 1 else ""
        key = "left out" if image.left_out else alone
        groups.setdefault((image.series, key), []).append(image)
    return list(groups.values())


def _describe(
    folder: Path, group: Sequence[_File], must_name: bool
) -> tuple[list[SeriesHeader], list[tuple[Path, str]]]:
    first = group[0]
    path = Path(str(first.source)) if len(group) == 1 else folder
    base = SeriesHeader(
        path=path, format="dicom", kind="unsupported", series_key=first.series,
        num_slices=sum(image.shape[0] for image in group), height=first.shape[1], width=first.shape[2],
        subject_key=first.subject or None,
        series=first.series or None if must_name and path == folder else None,
    )  # fmt: skip
    if first.left_out:
        return [replace(base, kind=first.left_out)], []
    headers: list[SeriesHeader] = []
    faults: list[tuple[Path, str]] = []
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
                faults.append((path, str(error)))
            else:  # left out all the same: one entry, to be counted
                lump = replace(base, kind=kind, num_slices=len(frames), height=frames[0].rows, width=frames[0].columns)
                headers.append(replace(lump, series_key=f"{first.series}|{frames[0].instance}|{kind}"))
    return headers, faults


def _volume_headers(base: SeriesHeader, kind: Kind, frames: Sequence[Frame], study: str) -> list[SeriesHeader]:
    headers = []
    for stack in split_volumes(frames, str(base.path)):
        placement = place_frames(stack.frames, str(base.path))
        first = placement.frames[0]
        facts = first.facts
        headers.append(
            replace(
                base,
                kind=kind,
                series_key=_series_key(stack, kind),
                pair_key=_pair_key(stack, placement, study),
                num_slices=placement.shape[0], height=placement.shape[1], width=placement.shape[2],
                echo=stack.echo if stack.several_echoes else None,
                frame=stack.time if stack.several_times else None,
                te_ms=stack.te_ms or None, field_t=facts.field_t, contrast=facts.contrast, anatomy=facts.anatomy,
                spacing_mm=placement.spacing_mm,
            )
        )  # fmt: skip
    return headers


def _series_key(stack: Stack, kind: Kind) -> str:
    first = stack.frames[0]
    one_file = all(frame.source == first.source for frame in stack.frames)
    return "|".join([first.series, first.instance if one_file else "", kind, str(stack.echo), str(stack.time)])


def _pair_key(stack: Stack, placement: Placement, study: str) -> str:
    """Magnitude and phase of one acquisition share when, where and at which echo time they were measured.

    Vendors write them to one series or to two; the acquisition time is the same. Without it only one series can tell.
    """
    first = placement.frames[0]
    when = min(frame.acquired for frame in stack.frames) or first.series
    where = ",".join(f"{component:.2f}" for component in (*first.position, *placement.spacing_mm))
    shape = "x".join(str(length) for length in placement.shape)
    return "|".join([study, when, f"{stack.te_ms or 0:.3f}", where, shape, str(stack.time)])


def _distinct(headers: Sequence[SeriesHeader]) -> list[SeriesHeader]:
    """Make the keys of copies differ: exports exist in which several files share one instance UID."""
    seen: dict[str, int] = {}
    distinct = []
    for header in headers:
        count = seen[header.series_key] = seen.get(header.series_key, 0) + 1
        distinct.append(header if count == 1 else replace(header, series_key=f"{header.series_key}|{count}"))
    return distinct
