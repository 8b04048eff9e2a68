"""What a reader's probe tells of a volume that it found, before any pixel is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal[
    "magnitude", "phase", "real", "imaginary", "fieldmap", "derived", "localizer", "non_mr", "kspace", "unsupported"
]


@dataclass(frozen=True)
class SeriesHeader:
    """One candidate for a manifest row: a series, echo or time point.

    `path`, `format`, `series`, `echo`, `frame`, `dataset` are what a manifest row must hold so that the reader finds
    this volume again; they stay None where the file holds only one. `subject_key` and `series_key` are raw identifying
    strings: only salted hashes of them may leave the scanner. Volumes with an equal `pair_key` and different `kind` are
    the magnitude and phase of one acquisition. Sizes are in the corpus's axes.
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
    series: str | None = None
    echo: int | None = None
    frame: int | None = None
    dataset: str | None = None
    slice_axis: int | None = None
    te_ms: float | None = None
    field_t: float | None = None
    contrast: str | None = None
    anatomy: str | None = None
    spacing_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Probed:
    """What one folder's files turned out to be: volumes, and files that could not be understood with the reason."""

    headers: list[SeriesHeader] = field(default_factory=list)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)


Probe = Callable[[Path, Sequence[Path]], Probed]
"""`probe(folder, files)`: describe the volumes in these files of one folder; files that are no images are ignored."""
