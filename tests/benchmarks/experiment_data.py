"""Write the manifest of `augment/RESULTS.md`: `python -m tests.benchmarks.experiment_data DATA OUT.csv`.

`DATA` holds `complex/complex.csv` with the magnitude and phase images that it names, and `raw/` with the raw k-space of
its two patients, which is used in place of their images. Sessions of `TEST` are the split `test`, all others `train`.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

TEST = {"ukat-b0-ge-01", "ukat-b0-siemens-A", "ukat-b0-siemens-C", "ukat-b0-philips-A", "ulf-patient-6b"}
LEFT_OUT = "romeo"
"""Sessions of this name: crops of a brain, too small for the experiments."""
COLUMNS = (
    "volume_id", "path", "phase", "kspace", "subject_id", "split", "anatomy", "contrast", "sequence", "te_ms",
    "field_t", "licence",
)  # fmt: skip


def line_of(data: Path, row: dict[str, str]) -> dict[str, str]:
    """Return the manifest row of a row of `complex.csv`."""
    raw = data / "raw" / f"{row['volume_id']}.h5"
    is_raw = "patient-6" in row["session"]
    return {
        "volume_id": row["volume_id"],
        "path": str(raw if is_raw else data / "complex" / row["magnitude"]),
        "phase": "" if is_raw else str(data / "complex" / row["phase"]),
        "kspace": str(raw) if is_raw else "",
        "subject_id": row["session"],
        "split": "test" if row["session"] in TEST else "train",
        "anatomy": row["anatomy"],
        "contrast": row["contrast"].split("-")[0],
        "sequence": row["sequence"],
        "te_ms": row["te_ms"].strip("?"),
        "field_t": row["field_T"].rstrip("?"),
        "licence": row["licence"],
    }


def main(data: Path, out: Path) -> None:
    """Write the manifest."""
    with (data / "complex" / "complex.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["session"].startswith(LEFT_OUT)]
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(line_of(data, row) for row in rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
