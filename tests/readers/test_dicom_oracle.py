"""Every real DICOM image at hand is what dcm2niix alone makes of it: values, order, spacing and affine."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import dcm2niix
import nibabel as nib
import numpy as np
import pydicom
import pytest
from paths import SHARED

from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom import reader

PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
NICOM = Path(nib.__file__).parent / "nicom" / "tests" / "data"
MAGNITUDES = SHARED / "magnitude"
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SOURCES = [
    *sorted(PYDICOM.glob("MR_*.dcm")),
    PYDICOM / "examples_overlay.dcm",
    *(NICOM / f"siemens_dwi_{b}.dcm.gz" for b in (0, 1000)),
    NICOM / "philips_mprage.dcm.gz",
    *sorted(MAGNITUDES.glob("*")),
]


def unpack(source, folder):
    """Copy the DICOM files of a source, unpacked, for dcm2niix."""
    folder.mkdir()
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if ".dcm" in path.name)
    for number, path in enumerate(files):
        content = path.read_bytes()
        (folder / f"{number:04d}.dcm").write_bytes(gzip.decompress(content) if path.suffix == ".gz" else content)
    return folder


def oracle(folder, out):
    """Return every volume that dcm2niix makes: values `(column, row, slice)` and affine in LPS."""
    out.mkdir()
    command = [dcm2niix.bin, "-g", "i", "-z", "n", "-b", "n", "-p", "n", "-f", "%s_%p", "-o", str(out), str(folder)]
    subprocess.run(command, check=False, capture_output=True)
    found = []
    for path in sorted(out.glob("*.nii")):
        image = nib.load(path)
        values = image.get_fdata(dtype=np.float32)
        frames = [values] if values.ndim == 3 else list(np.moveaxis(values, 3, 0))
        found += [(path.name, frame, RAS_TO_LPS @ image.affine) for frame in frames]
    return found


def is_same(volume, values, affine):
    """Whether a volume has these values at these places."""
    step = np.linalg.inv(affine) @ np.array(volume.affine)
    if not np.allclose(step, np.rint(step), atol=0.02):
        return False
    grid = np.indices(volume.magnitude.shape).reshape(3, -1)
    at = np.rint(step[:3, :3] @ grid + step[:3, 3:]).astype(int)
    if at.min() < 0 or (at.max(axis=1) >= values.shape).any() or values.size != volume.magnitude.size:
        return False
    spacing = sorted(np.linalg.norm(affine[:3, :3], axis=0))
    return np.array_equal(values[tuple(at)], volume.magnitude.ravel()) and np.allclose(
        spacing, sorted(volume.spacing_mm), rtol=1e-4
    )


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_volumes_are_those_of_dcm2niix(source, tmp_path):
    theirs = oracle(unpack(source, tmp_path / "in"), tmp_path / "out")
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if ".dcm" in path.name)
    probed = reader.probe(files)
    rows = [
        ManifestRow(2, "v", str(one.path), series=one.series, part=one.part, echo=one.echo, frame=one.frame)
        for one in probed.headers
        if one.kind == "magnitude"
    ]
    if not rows and len(files) == 1:  # derived, which a row may name by hand
        rows = [ManifestRow(2, "v", str(source))]
    ours = []
    for row in rows:
        try:
            ours.append(reader.read(row)[0])
        except VolumeError:
            assert source.name == "MR_truncated.dcm"
    magnitudes = [one for one in theirs if not any(word in one[0] for word in ("_ph", "_ROI", "fieldmap"))]
    assert len(ours) == len(magnitudes)
    for volume in ours:
        assert any(is_same(volume, values, affine) for _, values, affine in magnitudes)
