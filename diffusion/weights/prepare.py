"""Write the two manifests that the shipped weights are trained on: `python diffusion/weights/prepare.py DATA OUT`.

`pairs.csv` has permissively licensed volumes with real phase, `magnitudes.csv` magnitudes for simulated phase. All files
are checked against the hashes below. `DATA` holds them in folders named as in the tables; volumes in the nibabel package
are added. The phase of the Philips head at echo time 0, as of a spin echo, is extrapolated from its two gradient echoes.

Sources (commits as of the hashes):

- `brain/philips_*`, `philips_mprage_classic`: neurolabusc/dcm_qa_philips_enh, BSD-2-Clause
- `siemens_xa30_enhanced`: neurolabusc/dcm_qa_xa30, BSD-2-Clause
- `siemens_mosaic_transfer_syntaxes`: neurolabusc/dcm_qa_ts, BSD-2-Clause
- `ulf`: bispmri/Ultra-low-field-MRI-Scanner, CC0-1.0
- `knee`: LarsonLab/MRI-education-resources, MIT
- `nifti_spine`: spinalcordtoolbox/sct_testing_data, MIT
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

PAIRS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("brain/philips_brain_fieldmap_e1", {"sequence": "gradient-echo", "te_ms": 2.3, "field_t": 3, "subject_id": "philips"}),
    ("brain/philips_brain_fieldmap_e2", {"sequence": "gradient-echo", "te_ms": 4.6, "field_t": 3, "subject_id": "philips"}),
    ("ulf/ulf_gre_cor", {"sequence": "gradient-echo", "field_t": 0.055, "subject_id": "volunteer"}),
    ("ulf/ulf_gre_sag", {"sequence": "gradient-echo", "field_t": 0.055, "subject_id": "volunteer"}),
    ("ulf/ulf_6a_gre", {"sequence": "gradient-echo", "field_t": 0.055, "subject_id": "6a"}),
    ("ulf/ulf_fse_cor", {"sequence": "spin-echo", "field_t": 0.055, "subject_id": "volunteer-se"}),
    ("ulf/ulf_6a_fse", {"sequence": "spin-echo", "field_t": 0.055, "subject_id": "6a-se"}),
    ("ulf/ulf_6a_flair", {"sequence": "spin-echo", "field_t": 0.055, "subject_id": "6a-se"}),
    ("knee/larson_knee_fatsat", {"sequence": "spin-echo", "field_t": 3, "subject_id": "larson"}),
)  # fmt: skip
"""Volumes with phase: name without `_mag.nii.gz` and `_phase.nii.gz`, columns. Families are sessions of their own."""
MAGNITUDES = (
    "philips_mprage_classic",
    "siemens_xa30_enhanced",
    "siemens_mosaic_transfer_syntaxes/1.dcm",
    "nifti_spine/t2.nii.gz",
    "nifti_spine/t2s_uncropped.nii.gz",
)
PACKAGED = (("nibabel", "tests/data/example4d.nii.gz"), ("nibabel", "tests/data/functional.nii"))
_SMOOTH_MM = 6.0


def main(data: Path, out: Path) -> None:
    """Check the files in `data` and write the manifests to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, columns in PAIRS:
        paths = [data / "complex" / f"{name}_{part}.nii.gz" for part in ("mag", "phase")]
        rows.append({"volume_id": Path(name).name, "path": paths[0], "phase": paths[1], **columns})
    rows.append(_extrapolated(rows[0], rows[1], out))
    digest = hashlib.sha256()
    for row in rows:
        for path in (row["path"], row["phase"]):
            digest.update(Path(path).read_bytes())
    columns = ["volume_id", "path", "phase", "subject_id", "split", "sequence", "te_ms", "field_t", "licence"]
    licences = {"brain": "BSD-2-Clause", "ulf": "CC0-1.0", "knee": "MIT", out.name: "BSD-2-Clause"}
    for row in rows:
        row |= {"split": "train", "licence": licences[Path(row["path"]).parent.name]}
    _write(out / "pairs.csv", columns, rows)
    others = [data / "magnitude" / name for name in MAGNITUDES]
    for package, name in PACKAGED:
        found = importlib.util.find_spec(package)
        assert found is not None and found.origin is not None  # noqa: S101
        others.append(Path(found.origin).parent / name)
    _write(
        out / "magnitudes.csv",
        ["volume_id", "path", "frame"],
        [
            {"volume_id": f"m{number}", "path": path, "frame": 0 if "functional" in path.name or "4d" in path.name else ""}
            for number, path in enumerate(others)
        ],
    )


def _extrapolated(first: dict[str, Any], second: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write the phase at echo time 0, twice that of the first echo minus that of the second, smoothed."""
    image = nibabel.load(first["path"])
    one, two = (_complex(row) for row in (first, second))
    product = one * one * two.conj()
    product = product / np.maximum(np.abs(product), 1e-9) * np.abs(one) ** 2
    sizes = [_SMOOTH_MM / float(step) for step in image.header.get_zooms()[:3]]
    angle = np.angle(_blur(product, sizes))
    path = out / "philips_refocused_phase.nii.gz"
    nibabel.save(nibabel.Nifti1Image(angle.astype(np.float32), image.affine), path)
    return {**first, "volume_id": "philips_refocused", "phase": path, "path": first["path"], "sequence": "spin-echo",
            "te_ms": "", "subject_id": "philips-se"}  # fmt: skip


def _complex(row: dict[str, Any]) -> NDArray[np.complex64]:
    magnitude, phase = (np.asarray(nibabel.load(row[part]).get_fdata(), np.float32) for part in ("path", "phase"))
    return (magnitude * np.exp(1j * phase)).astype(np.complex64)


def _blur(image: NDArray[np.complex64], deviations: list[float]) -> NDArray[np.complex64]:
    """Convolve with a Gaussian of deviations in pixels, in k-space."""
    kspace = np.fft.fftn(image)
    for axis, deviation in enumerate(deviations):
        frequency = np.fft.fftfreq(image.shape[axis]).reshape([-1 if i == axis else 1 for i in range(3)])
        kspace = kspace * np.exp(-2.0 * (np.pi * deviation * frequency) ** 2)
    return np.fft.ifftn(kspace)


def _write(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: row.get(name, "") for name in columns} for row in rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
