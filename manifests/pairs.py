"""From a table of magnitude/phase pairs to a training manifest: `python -m rephase.manifests.pairs TABLE -o MANIFEST`.

The table is a CSV with the columns `volume_id`, `magnitude`, `phase` and `session`, and any of `split`, `anatomy`,
`contrast`, `te_ms`, `field_T`, `licence`. The session becomes the `subject_id`: volumes of one session are never split
between training and judging.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path

from rephase.manifests.record import CONTRASTS

COLUMNS = (
    "volume_id", "path", "phase", "subject_id", "split", "anatomy", "contrast", "te_ms", "field_t", "licence"
)  # fmt: skip
_REQUIRED = ("volume_id", "magnitude", "phase", "session")


def convert(table: Path, manifest: Path) -> int:
    """Write the manifest; paths become relative to it. Gives the number of rows.

    Raises
    ------
    ValueError
        The table lacks a column, or is no text.
    """
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = sorted(set(_REQUIRED) - set(reader.fieldnames or ()))
        if missing:
            raise ValueError(f"no column {', '.join(missing)}; expected {', '.join(_REQUIRED)}")
        rows = [_row(row, table.parent, manifest.parent) for row in reader]
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def _row(row: dict[str, str], source: Path, target: Path) -> dict[str, str]:
    def path(name: str) -> str:
        return os.path.relpath((source / name).resolve(), target.resolve())

    contrast = row.get("contrast", "")
    return {
        "volume_id": row["volume_id"],
        "path": path(row["magnitude"]),
        "phase": path(row["phase"]),
        "subject_id": row["session"],
        "split": row.get("split", ""),
        "anatomy": row.get("anatomy", ""),
        "contrast": contrast if contrast in CONTRASTS else "other",
        "te_ms": row.get("te_ms", ""),
        # a field strength that its source doubts ("7?") is not known
        "field_t": "" if "?" in row.get("field_T", "") else row.get("field_T", ""),
        "licence": row.get("licence", ""),
    }


def main(arguments: list[str] | None = None) -> int:
    """Convert as the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rephase.manifests.pairs", description=__doc__)
    parser.add_argument("table", type=Path, help="CSV of pairs")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="MANIFEST", help="where to write")
    options = parser.parse_args(arguments)
    try:
        count = convert(options.table, options.output)
    except (OSError, ValueError) as error:
        print(f"{options.table}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"{count} rows: {options.output}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
