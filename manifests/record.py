"""One validated manifest row, and the vocabularies of its columns."""

from __future__ import annotations

from dataclasses import dataclass

CONTRASTS = ("T1", "T2", "T2star", "PD", "FLAIR", "DWI", "BOLD", "MRA", "SWI", "GRE", "SE", "IR", "ASL", "other")
SPLITS = ("train", "val", "test")

REQUIRED_COLUMNS = ("volume_id", "path")
OPTIONAL_COLUMNS = (
    "format", "subject_id", "split", "anatomy", "contrast", "field_t", "te_ms", "slice_axis", "series", "echo", "frame",
    "dataset", "phase", "kspace", "segmentation", "replicas", "num_slices", "height", "width", "licence", "source",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One requested volume.

    `line` is the line in the manifest. `path`, `phase`, `kspace` and `segmentation` are absolute paths, or URLs for
    fsspec. `frame` is the time point from 0, `echo` the echo number of the header, `slice_axis` 0, 1 or 2 of the stored
    array. `extra` holds the columns of `--keep-columns`, as (name, value).
    """

    line: int
    volume_id: str
    path: str
    format: str = "auto"
    subject_id: str | None = None
    split: str | None = None
    anatomy: str | None = None
    contrast: str | None = None
    field_t: float | None = None
    te_ms: float | None = None
    slice_axis: int | None = None
    series: str | None = None
    echo: int | None = None
    frame: int | None = None
    dataset: str | None = None
    phase: str | None = None
    kspace: str | None = None
    segmentation: str | None = None
    replicas: int | None = None
    num_slices: int | None = None
    height: int | None = None
    width: int | None = None
    licence: str | None = None
    source: str | None = None
    extra: tuple[tuple[str, str], ...] = ()
