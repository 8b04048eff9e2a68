"""The facts of a volume in an image file's header, as a reader's `probe` returns them for a scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rephase.facts import VolumeFacts

Kind = Literal[
    "magnitude", "phase", "real", "imaginary", "fieldmap", "derived", "localizer", "non_mr", "kspace", "unsupported"
]


@dataclass(frozen=True)
class SeriesHeader(VolumeFacts):
    """One volume that may become a manifest row: a series, echo or time point.

    Attributes
    ----------
    path, format, series, echo, frame, dataset
        The cells of a manifest row that select this volume; None if the file has only one.
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
    echo: int | None = None
    frame: int | None = None
    dataset: str | None = None
    slice_axis: int | None = None
    spacing_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Probed:
    """The volumes in the files of one folder; and the files that cannot be read, each with the reason."""

    headers: list[SeriesHeader] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)


Probe = Callable[[Path, Sequence[Path]], Probed]
"""`probe(folder, files)` describes the volumes in these files of one folder; it ignores non-image files."""
