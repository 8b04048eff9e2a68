"""Write the manifest that generated phase is judged on: `python -m tests.benchmarks.judging_data DATA OUT.csv`.

`DATA` holds `complex.csv` and the files that it names: magnitude and phase of real scans. The column `split` says what
was done with the rows: `train`, the ranges of the physics were set on them; `val`, nothing was, so that choices are
checked on them. The network `permissive` was trained on none of them but three of the spin echoes, for which it is not
used.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

ROWS = {
    "train": (
        "ukat_b0_philips_01_e1", "ukat_b0_philips_01_e2", "ukat_b0_philips_04_e1", "ukat_b0_philips_04_e2",
        "ukat_b0_philips_12_e2", "ukat_b0_siemens_01_e1", "ukat_b0_siemens_01_e2", "ukat_b0_siemens_02_e1",
        "ukat_b0_siemens_02_e2", "ukat_b0old_siemens_1_e1", "ukat_b0old_philips_2_e2", "ukat_b0_ge3d_e01",
        "ukat_b0_ge3d_e02", "ukat_r2star_ge_fatsat_e01", "ukat_r2star_ge_fatsat_e02", "ukat_r2star_ge_fatsat_e04",
        "romeo_brain_crop_e1", "romeo_brain_crop_e2", "romeo_brain_crop_e3",
        "ulf_fse_cor", "ulf_6a_fse", "ulf_6a_flair", "ulf_6b_fse", "ulf_6b_flair", "larson_knee_fatsat",
    ),
    "val": (
        "ukat_b0_ge_01_e1", "ukat_b0_ge_01_e2", "ukat_b0_siemens_04_e1", "ukat_b0_siemens_04_e2",
        "ukat_b0_siemens_05_e1", "ukat_b0_siemens_05_e2", "ukat_r2star_philips_e1", "ukat_r2star_philips_e3",
        "ukat_r2star_siemens_e1", "ukat_r2star_siemens_e3", "ulf_6b_gre",
    ),
}  # fmt: skip
"""Volumes of `complex.csv` by what was done with them; the spin echoes set the size of the phase `spin-echo`."""


def main(data: Path, out: Path) -> None:
    """Write the manifest."""
    with (data / "complex.csv").open(encoding="utf-8", newline="") as file:
        known = {row["volume_id"]: row for row in csv.DictReader(file)}
    rows = []
    for split, names in ROWS.items():
        for name in names:
            row = known[name]
            rows.append(
                {
                    "volume_id": name,
                    "path": data / row["magnitude"],
                    "phase": data / row["phase"],
                    "subject_id": row["session"],
                    "split": split,
                    "sequence": row["sequence"],
                    "te_ms": row["te_ms"],
                    "field_t": row["field_T"].rstrip("?"),
                    "anatomy": row["anatomy"],
                    "licence": row["licence"],
                }
            )
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
