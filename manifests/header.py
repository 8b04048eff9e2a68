"""What a reader's `probe` finds for a scan: volumes of every kind, files of other kinds, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from rephase.facts import VolumeFacts

Kind = Literal[
    "magnitude", "phase", "real", "imaginary", "fieldmap", "derived", "localizer", "non_mr", "kspace", "unsupported",
    "label map", "statistics", "parametric map", "vectors", "spectroscopy", "surface", "blank", "raw data",
    "other image format", "MATLAB", "archive", "empty", "not fetched", "no image",
]  # fmt: skip
"""What a volume or a file is. Only magnitude becomes a row; a scan counts the others by these names."""

KINDS: dict[Kind, str] = {
    "magnitude": "a magnitude image",
    "phase": "a phase image",
    "real": "a signed image (real part, field map or phase)",
    "imaginary": "an imaginary part",
    "fieldmap": "a field map",
    "derived": "a derived image",
    "localizer": "a localizer",
    "non_mr": "no MR image",
    "kspace": "k-space",
    "unsupported": "undersampled k-space",
    "label map": "a label map or mask",
    "statistics": "a statistical map",
    "parametric map": "a parametric map",
    "vectors": "a field of vectors or a transformation",
    "spectroscopy": "spectroscopy",
    "surface": "a surface, or values on one",
    "blank": "blank, with one value everywhere",
    "raw data": "raw data",
    "other image format": "an image in another format",
    "MATLAB": "a MATLAB file",
    "archive": "an archive of files",
    "empty": "empty",
    "not fetched": "a pointer to contents that were not fetched",
    "no image": "no image",
}
"""Each kind in words that complete "it is ..."."""


@dataclass(frozen=True)
class SeriesHeader(VolumeFacts):
    """One volume that may become a manifest row: a series, echo or time point.

    Attributes
    ----------
    path, format, series, part, echo, frame, dataset
        The cells of a manifest row that select this volume; None if the file has only one.
    segmentation
        The only label map that belongs to this volume.
    kind
        Type of the pixels, such as magnitude or phase.
    series_key, subject_key
        Identifying texts of volume and subject. Only salted hashes of them may be written.
    num_slices, height, width, spacing_mm
        In the axes of the corpus.
    pair_key
        Equal for the magnitude and the phase of one acquisition.
    paired_by_name
        Whether `pair_key` comes from file names; a key shared by two magnitudes then identifies neither.
    notes
        What a user should know of this volume, such as an assumed orientation: a line each, without its path.
    """

    path: Path
    format: str
    kind: Kind
    series_key: str
    num_slices: int
    height: int
    width: int
    subject_key: str | None = None
    pair_key: str | None = None
    paired_by_name: bool = False
    series: str | None = None
    part: str | None = None
    echo: int | None = None
    frame: int | None = None
    dataset: str | None = None
    slice_axis: int | None = None
    spacing_mm: tuple[float, float, float] | None = None
    segmentation: Path | None = None
    notes: tuple[str, ...] = ()


class Passed(NamedTuple):
    """A file, or a folder of files, that is no volume: its kind, and what it is and how to use it, a line."""

    path: Path
    kind: Kind
    why: str


def is_annex_link(path: Path) -> bool:
    """Check whether a link leads to the store of git-annex, where contents that were not fetched are missing."""
    return "annex/objects/" in path.readlink().as_posix()


def not_fetched(path: Path) -> Passed:
    """Return the entry of a file that git-annex or Git LFS has not fetched."""
    fix = "fetch them (git annex get, git lfs pull, datalad get)"
    return Passed(path, "not fetched", f"{path}: its contents were not fetched; expected an image; {fix}")


@dataclass(frozen=True)
class Probed:
    """The result of a probe. Every file contributes to at least one of the lists.

    Attributes
    ----------
    headers
        The volumes, of every kind.
    unreadable
        Files and series that a build would refuse, each with the reason.
    passed
        Files of this format, or of a relative, that hold no volume and are no error.
    notes
        What a user should know of a path, such as a copy that was ignored.
    others
        Files that are not of this reader's format.
    """

    headers: list[SeriesHeader] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)
    notes: list[tuple[Path, str]] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def extend(self, more: Probed) -> None:
        """Append all lists of another result, except `others`."""
        self.headers.extend(more.headers)
        self.unreadable.extend(more.unreadable)
        self.passed.extend(more.passed)
        self.notes.extend(more.notes)


Probe = Callable[[Iterable[Path]], Probed]
"""`probe(files)` describes the volumes in all files of an archive, given once, folder by folder in order."""
