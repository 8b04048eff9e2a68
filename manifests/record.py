"""One validated manifest row, and the vocabularies of its columns."""

from __future__ import annotations

from dataclasses import dataclass, field

from rephase.facts import VolumeFacts, facts_where

REQUIRED_COLUMNS = ("volume_id", "path")
OPTIONAL_COLUMNS = (
    "format", "subject_id", *facts_where(in_manifest=True), "slice_axis", "series", "part", "echo", "frame", "dataset",
    "axes", "spacing_mm", "phase", "kspace", "segmentation", "replicas", "num_slices", "height", "width", "source",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ManifestRow(VolumeFacts):
    """One requested volume.

    `line` is the line in the manifest. `path`, `phase`, `kspace` and `segmentation` are absolute paths, or URLs for
    fsspec. `axes` are the names of an array's axes, separated by blanks; `spacing_mm` is along (slice, height, width).
    `frame` is the time point from 0, `echo` the echo number of the header, `slice_axis` 0, 1 or 2 of the stored
    array. `extra` contains the columns of `--keep-columns`, as (name, value).
    """

    line: int
    volume_id: str
    path: str = field(repr=False)
    format: str = "auto"
    subject_id: str | None = None
    slice_axis: int | None = None
    series: str | None = None
    part: str | None = None
    echo: int | None = None
    frame: int | None = None
    dataset: str | None = None
    axes: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    phase: str | None = field(default=None, repr=False)
    kspace: str | None = field(default=None, repr=False)
    segmentation: str | None = field(default=None, repr=False)
    replicas: int | None = None
    num_slices: int | None = None
    height: int | None = None
    width: int | None = None
    source: str | None = None
    extra: tuple[tuple[str, str], ...] = ()
