"""Write the volumes that a scan found as a manifest CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from rephase.files import replacing
from rephase.manifests.record import REQUIRED_COLUMNS
from rephase.manifests.scan import ScannedVolume, ScanResult

_COLUMNS = (
    "volume_id", "path", "format", "series", "echo", "frame", "dataset", "phase", "kspace", "subject_id", "anatomy",
    "contrast", "field_t", "te_ms", "slice_axis", "num_slices", "height", "width",
)  # fmt: skip


def write_manifest(result: ScanResult, path: str | os.PathLike[str]) -> int:
    """Write a row per volume.

    Paths are relative to the manifest's folder where the source lies below it or below its parent, else absolute.
    Columns without any value are left out. The file is replaced in one step, so no reader sees half of it.

    Parameters
    ----------
    result
        Of `scan_folder`.
    path
        Of the CSV file to write.

    Returns
    -------
    num_rows
        That were written.
    """
    target = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow links
    rows = [_cells(volume, target.parent) for volume in result.volumes]
    columns = [name for name in _COLUMNS if name in REQUIRED_COLUMNS or any(row[name] for row in rows)]
    with replacing(target) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        # readers of manifests drop blanks in front of a field, but not those between quotes
        blank = any(cell.startswith(" ") for row in rows for cell in row.values())
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if blank else csv.QUOTE_MINIMAL)
        writer.writerow(columns)
        writer.writerows([row[name] for name in columns] for row in rows)
    return len(rows)


def _cells(volume: ScannedVolume, folder: Path) -> dict[str, str]:
    header = volume.header
    return dict(
        _texts(
            {
                "volume_id": volume.volume_id,
                "path": _location(header.path, folder),
                "format": header.format,
                "series": header.series,
                "echo": header.echo,
                "frame": header.frame,
                "dataset": header.dataset,
                "phase": None if volume.phase is None else _location(volume.phase, folder),
                "kspace": None if volume.kspace is None else _location(volume.kspace, folder),
                "subject_id": volume.subject_id,
                "anatomy": header.anatomy,
                "contrast": header.contrast,
                "field_t": header.field_t,
                "te_ms": header.te_ms,
                "slice_axis": header.slice_axis,
                "num_slices": header.num_slices,
                "height": header.height,
                "width": header.width,
            }.items()
        )
    )


def _texts(cells: Iterable[tuple[str, str | int | float | None]]) -> Iterable[tuple[str, str]]:
    for name, value in cells:
        yield name, "" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


def _location(path: Path, folder: Path) -> str:
    """Write a path so that the manifest may move together with its sources."""
    source = Path(os.path.abspath(path))  # noqa: PTH100 - without following links
    if source.is_relative_to(folder):
        return source.relative_to(folder).as_posix()
    if folder.parent != folder.parent.parent and source.is_relative_to(folder.parent):
        return f"../{source.relative_to(folder.parent).as_posix()}"
    return str(source)
