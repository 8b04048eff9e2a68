"""Describe the volumes in the NIfTI files of an archive."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rephase.errors import VolumeError
from rephase.facts import CONTRASTS
from rephase.manifests.header import Kind, Passed, Probed, SeriesHeader
from rephase.readers.geometry import Arrangement, axis_along
from rephase.readers.kinds import contrast_of_name, pair_name, read_sidecar, stem_of
from rephase.readers.nifti.file import NiftiFile, open_nifti
from rephase.readers.nifti.header import NiftiHeader, NotAnImageError
from rephase.readers.nifti.kinds import kind_of_labels, kind_of_sample, stated_kind
from rephase.readers.nifti.labels import Image, LabelMap, fits_column, match_labels
from rephase.readers.nifti.survey import Survey, survey
from rephase.readers.sequence import sequence_of_bids_name, sequence_of_sidecar

_INNER_FOLDERS = ("derivatives", "sourcedata", "rawdata")


def probe(files: Iterable[Path]) -> Probed:
    """Describe the volumes in files, a header per frame; of complex files also their phase."""
    found = Probed()
    images: list[Image] = []
    labels: list[LabelMap] = []
    for path in files:
        try:
            with open_nifti(path, str(path)) as file:
                _look(path, file, found, images, labels)
        except NotAnImageError as error:
            found.passed.append(Passed(path, error.kind, str(error)))
        except VolumeError as error:
            if path.suffix.lower() == ".hdr" and error.reason == "unreadable" and "no NIfTI header" in str(error):
                found.others.append(path)  # other formats have headers of this name too
            else:
                found.unreadable.append((path, str(error)))
    _attach(found, match_labels(images, labels))
    return found


def _look(path: Path, file: NiftiFile, found: Probed, images: list[Image], labels: list[LabelMap]) -> None:
    header, sidecar = file.header, read_sidecar(path)
    stated = stated_kind(path, header, sidecar)
    if stated is not None and stated[0] != "label map":
        found.headers.extend(_other(path, header, stated[0]))
        return
    seen = survey(file)
    kind, evidence = stated or kind_of_sample(header, seen.sample)
    if kind == "magnitude":
        kind, evidence = kind_of_labels(seen.frames[0], seen.sample) or (kind, evidence)
    if kind == "magnitude" and seen.is_blank and len(seen.frames) == header.num_frames:
        kind = "blank"
    if kind == "label map":
        first = seen.frames[0]
        labels.append(LabelMap(path, header, fits_column(first.least, first.most, first.whole)))
        if stated is None:
            found.notes.append((path, f"is taken for a label map {evidence}; name it in a row if it is an image"))
    if kind != "magnitude":
        found.headers.extend(_other(path, header, kind))
        return
    slice_axis = sidecar_axis(header, sidecar)
    arrangement = header.arrange(slice_axis)
    images.append(Image(path, header, arrangement))
    notes = (*header.notes_on(arrangement, slice_axis), *_notes(seen))
    base = _series_header(path, header, sidecar, arrangement, slice_axis, notes)
    kinds: list[Kind] = ["magnitude", "phase"] if header.dtype.kind == "c" else ["magnitude"]
    for frame in _frames(header):
        why = _refusal(seen, frame)
        if why is not None:
            where = f"frame {frame}: " if frame is not None else ""
            found.unreadable.append((path, f"{path}: {where}{why}"))
            if len(seen.frames) < header.num_frames:
                return
            continue
        found.headers.extend(replace(_of_frame(base, frame), kind=kind) for kind in kinds)


def _frames(header: NiftiHeader) -> Iterable[int | None]:
    return range(header.num_frames) if header.num_frames > 1 else (None,)


def _refusal(seen: Survey, frame: int | None) -> str | None:
    number = frame or 0
    return seen.frames[number].refusal if number < len(seen.frames) else None


def _notes(seen: Survey) -> tuple[str, ...]:
    if any(frame.least < 0 for frame in seen.frames):
        return ("has a few values below zero, which a build takes with --negative clip",)
    return ()


def sidecar_axis(header: NiftiHeader, sidecar: Mapping[str, Any]) -> int | None:
    """Return the slice axis by the plane of acquisition in the sidecar of dcm2niix; None if it does not state it."""
    numbers = sidecar.get("ImageOrientationPatientDICOM")
    if isinstance(numbers, list) and len(numbers) == 6 and all(isinstance(n, int | float) for n in numbers):
        return axis_along(header.affine, np.cross(numbers[:3], numbers[3:]).tolist())
    return None


def _other(path: Path, header: NiftiHeader, kind: Kind) -> list[SeriesHeader]:
    """Return the headers of an image that is no magnitude: they are counted, or are the phase of one."""
    width, height, num_slices = header.shape
    base = SeriesHeader(
        path=path, format="nifti", kind=kind, series_key=str(path), num_slices=num_slices, height=height, width=width,
        pair_key=pair_name(path), paired_by_name=True,
    )  # fmt: skip
    if kind != "phase":
        return [base]
    return [_of_frame(base, frame) for frame in _frames(header)]


def _of_frame(header: SeriesHeader, frame: int | None) -> SeriesHeader:
    if frame is None:
        return header
    suffix = f"#{frame}"
    return replace(
        header, frame=frame, series_key=f"{header.series_key}{suffix}", pair_key=f"{header.pair_key}{suffix}"
    )


def _series_header(
    path: Path,
    header: NiftiHeader,
    sidecar: Mapping[str, Any],
    arrangement: Arrangement,
    slice_axis: int | None,
    notes: tuple[str, ...],
) -> SeriesHeader:
    num_slices, height, width = arrangement.sizes(header.shape)
    echo_time_s = _number(sidecar.get("EchoTime"))
    contrast = contrast_of_name(path)
    return SeriesHeader(
        path=path,
        format="nifti",
        kind="magnitude",
        series_key=str(path),
        num_slices=num_slices,
        height=height,
        width=width,
        subject_key=_subject(path),
        pair_key=pair_name(path),
        paired_by_name=True,
        te_ms=None if echo_time_s is None else round(echo_time_s * 1000, 6),
        field_t=_number(sidecar.get("MagneticFieldStrength")),
        contrast=contrast if contrast in CONTRASTS else None,
        sequence=sequence_of_sidecar(sidecar) or sequence_of_bids_name(stem_of(path)),
        slice_axis=slice_axis,
        spacing_mm=arrangement.spacing_mm,
        notes=notes,
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < np.inf else None


def _subject(path: Path) -> str | None:
    """Return the path up to the part `sub-...` of BIDS, which identifies a subject within its data set.

    Images of a subject in `derivatives`, `sourcedata` and `rawdata` of the data set are of the same person.
    """
    for parent in (*reversed(path.parents), path):
        if found := re.match(r"sub-[A-Za-z0-9]+", parent.name):
            parts = parent.parent.parts
            inner = next((k for k, part in enumerate(parts) if part in _INNER_FOLDERS), len(parts))
            return str(Path(*parts[:inner], found.group()))
    return None


def _attach(found: Probed, matched: Mapping[Path, list[Path]]) -> None:
    for number, header in enumerate(found.headers):
        maps = matched.get(header.path, []) if header.kind == "magnitude" else []
        if len(maps) == 1:
            found.headers[number] = replace(header, segmentation=maps[0])
        elif maps:
            names = ", ".join(path.name for path in maps[:4])
            note = f"has several label maps ({names}); name one in the column segmentation"
            found.headers[number] = replace(header, notes=(*header.notes, note))
