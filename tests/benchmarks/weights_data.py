"""Write the manifests that the Apache-2.0 weights are trained on: `python -m tests.benchmarks.weights_data DATA OUT`.

`pairs.csv` has permissively licensed volumes with real phase, `magnitudes.csv` magnitudes for simulated phase. `DATA`
holds the files in folders named as in `FILES`, whose hashes are checked; volumes of the nibabel package are added. The
phase of the Philips head at echo time 0, that of a spin echo, is extrapolated from its two gradient echoes.

Sources: neurolabusc/dcm_qa_philips_enh, dcm_qa_xa30 and dcm_qa_ts (BSD-2-Clause; `brain`, `philips_mprage_classic`,
`siemens_xa30_enhanced`, `siemens_mosaic_transfer_syntaxes`), bispmri/Ultra-low-field-MRI-Scanner (CC0-1.0; `ulf`),
LarsonLab/MRI-education-resources (MIT; `knee`), spinalcordtoolbox/sct_testing_data (MIT; `nifti_spine`).
"""

from __future__ import annotations

import csv
import hashlib
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

GRADIENT, SPIN = "gradient-echo", "spin-echo"
PAIRS: tuple[tuple[str, str, float | None, float, str, str], ...] = (
    ("brain/philips_brain_fieldmap_e1", GRADIENT, 2.3, 3.0, "philips", "BSD-2-Clause"),
    ("brain/philips_brain_fieldmap_e2", GRADIENT, 4.6, 3.0, "philips", "BSD-2-Clause"),
    ("ulf/ulf_gre_cor", GRADIENT, None, 0.055, "volunteer", "CC0-1.0"),
    ("ulf/ulf_gre_sag", GRADIENT, None, 0.055, "volunteer", "CC0-1.0"),
    ("ulf/ulf_6a_gre", GRADIENT, None, 0.055, "6a", "CC0-1.0"),
    ("ulf/ulf_fse_cor", SPIN, None, 0.055, "volunteer-spin-echo", "CC0-1.0"),
    ("ulf/ulf_6a_fse", SPIN, None, 0.055, "6a-spin-echo", "CC0-1.0"),
    ("ulf/ulf_6a_flair", SPIN, None, 0.055, "6a-spin-echo", "CC0-1.0"),
    ("knee/larson_knee_fatsat", SPIN, None, 3.0, "larson", "MIT"),
)
"""Name without `_mag.nii.gz` and `_phase.nii.gz`; family, TE (ms), field strength (T), session, licence.

Families are sessions of their own, since training samples sessions."""
MAGNITUDES = (
    "philips_mprage_classic",
    "siemens_xa30_enhanced",
    "siemens_mosaic_transfer_syntaxes/1.dcm",
    "nifti_spine/t2.nii.gz",
    "nifti_spine/t2s_uncropped.nii.gz",
)
PACKAGED = ("example4d.nii.gz", "functional.nii")
_SMOOTH_MM = 6.0
HASHES = {
    "complex/brain/philips_brain_fieldmap_e1_mag.nii.gz": "b6ab8d082e5e740c",
    "complex/brain/philips_brain_fieldmap_e1_phase.nii.gz": "7901dfbd742b74bf",
    "complex/brain/philips_brain_fieldmap_e2_mag.nii.gz": "b2f5087ccd1e5908",
    "complex/brain/philips_brain_fieldmap_e2_phase.nii.gz": "ac6c593e13549cf5",
    "complex/ulf/ulf_gre_cor_mag.nii.gz": "6420de9a12bb2625",
    "complex/ulf/ulf_gre_cor_phase.nii.gz": "7b4ae3931244058b",
    "complex/ulf/ulf_gre_sag_mag.nii.gz": "5c1d236c1a87cec3",
    "complex/ulf/ulf_gre_sag_phase.nii.gz": "f85cc1577e6df6f4",
    "complex/ulf/ulf_6a_gre_mag.nii.gz": "245b32e01a6a9e10",
    "complex/ulf/ulf_6a_gre_phase.nii.gz": "32a6c8aa502de311",
    "complex/ulf/ulf_fse_cor_mag.nii.gz": "7ff66bda9484fe86",
    "complex/ulf/ulf_fse_cor_phase.nii.gz": "8a55ed7ad481d224",
    "complex/ulf/ulf_6a_fse_mag.nii.gz": "df95f818528d8db5",
    "complex/ulf/ulf_6a_fse_phase.nii.gz": "34dce1040159ed4b",
    "complex/ulf/ulf_6a_flair_mag.nii.gz": "d79ee1d25b0061d1",
    "complex/ulf/ulf_6a_flair_phase.nii.gz": "22d766deb731a8ae",
    "complex/knee/larson_knee_fatsat_mag.nii.gz": "7cdc4977175e26af",
    "complex/knee/larson_knee_fatsat_phase.nii.gz": "7ce330564488b3db",
    "magnitude/philips_mprage_classic": "9dc751e91191e067",
    "magnitude/siemens_xa30_enhanced": "0b25b37cd6b3ec25",
    "magnitude/siemens_mosaic_transfer_syntaxes/1.dcm": "76a6b67c8fac186c",
    "magnitude/nifti_spine/t2.nii.gz": "8a70ae4e77f4f4b3",
    "magnitude/nifti_spine/t2s_uncropped.nii.gz": "b5f408c3614d84eb",
}
"""First 16 digits of the SHA-256 of the joined SHA-256 of the files, in the order of their names."""


def main(data: Path, out: Path) -> None:
    """Check the files in `data` and write the manifests to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, sequence, te_ms, field_t, session, licence in PAIRS:
        magnitude, phase = (_checked(data, f"complex/{name}_{part}.nii.gz") for part in ("mag", "phase"))
        rows.append(
            {
                "volume_id": Path(name).name,
                "path": magnitude,
                "phase": phase,
                "subject_id": session,
                "split": "train",
                "sequence": sequence,
                "anatomy": "knee" if name.startswith("knee") else "brain",
                "te_ms": te_ms or "",
                "field_t": field_t,
                "licence": licence,
            }
        )
    rows.append(_extrapolated(rows[0], rows[1], out))
    _write(out / "pairs.csv", rows)
    others = [{"path": _checked(data, f"magnitude/{name}"), "frame": ""} for name in MAGNITUDES]
    package = Path(nibabel.__file__).parent
    others += [{"path": package / "tests" / "data" / name, "frame": 0} for name in PACKAGED]
    _write(out / "magnitudes.csv", [{"volume_id": f"m{number}", **one} for number, one in enumerate(others)])


def _checked(data: Path, name: str) -> Path:
    """Return the path of a file or folder whose hash is that of `HASHES`."""
    path = data / name
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    digests = [hashlib.sha256(one.read_bytes()).hexdigest() for one in files] if path.exists() else []
    found = hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
    if found != HASHES[name]:
        raise SystemExit(f"{path}: hash {found if digests else 'of nothing'}; expected {HASHES[name]}; get it anew")
    return path


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
    changed = {
        "volume_id": "philips_refocused",
        "phase": path,
        "sequence": SPIN,
        "te_ms": "",
        "subject_id": "philips-se",
    }
    return {**first, **changed}


def _complex(row: dict[str, Any]) -> NDArray[np.complex64]:
    magnitude, phase = (np.asarray(nibabel.load(row[part]).get_fdata(), np.float32) for part in ("path", "phase"))
    image: NDArray[np.complex64] = (magnitude * np.exp(1j * phase)).astype(np.complex64)
    return image


def _blur(image: NDArray[np.complex64], deviations: list[float]) -> NDArray[np.complex64]:
    """Convolve with a Gaussian of deviations in pixels, in k-space."""
    kspace = np.fft.fftn(image)
    for axis, deviation in enumerate(deviations):
        frequency = np.fft.fftfreq(image.shape[axis]).reshape([-1 if i == axis else 1 for i in range(3)])
        kspace = kspace * np.exp(-2.0 * (np.pi * deviation * frequency) ** 2)
    return np.fft.ifftn(kspace).astype(np.complex64)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
