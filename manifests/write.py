"""Write the volumes found by a scan as a manifest CSV."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from rephase.facts import facts_where
from rephase.files import replacing
from rephase.manifests.record import REQUIRED_COLUMNS
from rephase.manifests.scan import ScannedVolume, ScanResult

_COLUMNS = (
    "volume_id", "path", "format", "series", "part", "echo", "frame", "dataset", "phase", "kspace", "segmentation",
    "subject_id", *facts_where(in_manifest=True), "slice_axis", "num_slices", "height", "width",
)  # fmt: skip


def write_manifest(result: ScanResult, path: str | os.PathLike[str]) -> int:
    """Write one row per volume, replacing the file atomically.

    Paths are relative to the manifest's folder if the source is below it or below its parent, else absolute.
    Columns without any value are omitted.

    Parameters
    ----------
    result
        Volumes from `scan_folder`.
    path
        Path of the CSV file to write.

    Returns
    -------
    num_rows
        Number of rows written.
    """
    target = Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow links
    rows = [_cells(volume, target.parent) for volume in result.volumes]
    columns = [name for name in _COLUMNS if name in REQUIRED_COLUMNS or any(row[name] for row in rows)]
    with replacing(target) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        # `read_manifest` drops blanks before a field, unless it is quoted
        blank = any(cell.startswith(" ") for row in rows for cell in row.values())
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if blank else csv.QUOTE_MINIMAL)
        writer.writerow(columns)
        writer.writerows([row[name] for name in columns] for row in rows)
    return len(rows)


def _cells(volume: ScannedVolume, folder: Path) -> dict[str, str]:
    cells = {name: getattr(volume if hasattr(volume, name) else volume.header, name) for name in _COLUMNS}
    return {name: _text(value, folder) for name, value in cells.items()}


def _text(value: object, folder: Path) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(_text(number, folder) for number in value)
    if isinstance(value, Path):
        return _location(value, folder)
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _location(path: Path, folder: Path) -> str:
    """Return a path that remains valid when the manifest is moved together with its sources."""
    source = Path(os.path.abspath(path))  # noqa: PTH100 - without following links
    if source.is_relative_to(folder):
        return source.relative_to(folder).as_posix()
    if folder.parent != folder.parent.parent and source.is_relative_to(folder.parent):
        return f"../{source.relative_to(folder.parent).as_posix()}"
    return str(source)
