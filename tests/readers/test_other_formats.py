"""Images of FreeSurfer, MINC, PAR/REC and NRRD, compared with nibabel and pynrrd."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
from volumes import phantom

from rephase.cli import main
from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.manifests.scan import scan_folder
from rephase.readers.registry import describe_volume, hash_source, probe, read_volume

WHEEL = Path(nib.__file__).parent / "tests" / "data"
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
IMAGE = np.rint(phantom((24, 20, 12)) * (200 / phantom((24, 20, 12)).max()))
AFFINE = np.array([[-1.5, 0.1, 0, 20], [0.1, 1.5, 0.2, -30], [0, -0.2, 3, 5], [0, 0, 0, 1.0]])


def check(path, values, affine, **columns):
    """Read a file, and compare every voxel at its place with values and an affine to RAS."""
    row = ManifestRow(2, "v", str(path), **columns)
    volume = read_volume(row)
    assert describe_volume(row).shape == volume.magnitude.shape
    assert hash_source(row) == volume.source_sha256
    step = np.linalg.inv(RAS_TO_LPS @ affine) @ np.array(volume.affine)
    grid = np.indices(volume.magnitude.shape).reshape(3, -1)
    at = step[:3, :3] @ grid + step[:3, 3:]
    np.testing.assert_allclose(at, np.rint(at), atol=1e-3)
    np.testing.assert_allclose(volume.magnitude.ravel(), values[tuple(np.rint(at).astype(int))], rtol=1e-6)
    return volume


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("name", ["x.mgz", "x.mgh"])
def test_freesurfer(tmp_path, name, dtype):
    image = nib.MGHImage(IMAGE.astype(dtype), AFFINE)
    image.header["te"] = 3.5
    nib.save(image, tmp_path / name)
    assert check(tmp_path / name, image.get_fdata(), AFFINE).te_ms == 3.5


def test_time_points_of_freesurfer(tmp_path):
    values = np.stack([IMAGE * k for k in (1, 2)], -1).astype(np.float32)
    nib.save(nib.MGHImage(values, AFFINE), tmp_path / "x.mgz")
    check(tmp_path / "x.mgz", values[..., 1], AFFINE, frame=1)
    with pytest.raises(VolumeError, match="2 frames"):
        read_volume(tmp_path / "x.mgz")


@pytest.mark.parametrize("name", ["small.mnc", "tiny.mnc"])
def test_minc(name):
    image = nib.load(WHEEL / name)
    check(WHEEL / name, image.get_fdata(), image.affine)


def test_par_rec():
    path = WHEEL / "phantom_EPI_asc_CLEAR_2_1.PAR"
    image = nib.load(path)
    frames = image.get_fdata()
    image.dataobj.file_like.close()
    check(path, frames[..., 1], image.affine, frame=1)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize("name", ["x.nrrd", "x.nhdr"])
@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior"])
def test_nrrd(tmp_path, name, encoding, space):
    values = IMAGE.astype(np.int16)
    affine = AFFINE if space.startswith("right") else RAS_TO_LPS @ AFFINE
    header = {"space": space, "space directions": affine[:3, :3].T, "space origin": affine[:3, 3], "encoding": encoding}
    nrrd.write(str(tmp_path / name), values, header)
    check(tmp_path / name, values, AFFINE)


def test_nrrd_without_a_space_has_a_note(tmp_path):
    values = IMAGE.astype(np.uint16)
    nrrd.write(str(tmp_path / "x.nrrd"), values, {"spacings": [2.0, 2.0, 4.0]})
    row = ManifestRow(2, "v", str(tmp_path / "x.nrrd"))
    assert read_volume(row).spacing_mm == (4, 2, 2)
    assert "neither sform nor qform" in describe_volume(row).notes[0]


def test_time_points_of_nrrd_come_first_or_last(tmp_path):
    values = np.stack([IMAGE * k for k in (1, 2)]).astype(np.float32)
    directions = np.vstack([np.full((1, 3), np.nan), AFFINE[:3, :3].T])
    header = {"space": "RAS", "kinds": ["list", "domain", "domain", "domain"], "space directions": directions}
    header |= {"space": "right-anterior-superior", "space origin": AFFINE[:3, 3]}
    nrrd.write(str(tmp_path / "x.nrrd"), values, header)
    check(tmp_path / "x.nrrd", values[1], AFFINE, frame=1)


def test_what_is_no_magnitude_or_damaged_is_refused(tmp_path):
    values = IMAGE.astype(np.float32)
    nrrd.write(str(tmp_path / "x.nrrd"), np.stack([values] * 3), {"kinds": ["vector", "domain", "domain", "domain"]})
    nrrd.write(str(tmp_path / "far.nhdr"), values, {}, detached_header=True)
    text = (tmp_path / "far.nhdr").read_text()
    (tmp_path / "far.nhdr").write_text(text.replace("data file: ", "data file: ../"))
    nib.save(nib.MGHImage(values, AFFINE), tmp_path / "cut.mgz")
    content = gzip.decompress((tmp_path / "cut.mgz").read_bytes())
    (tmp_path / "cut.mgz").write_bytes(gzip.compress(content[: len(content) // 2]))
    (tmp_path / "bomb.mgz").write_bytes(gzip.compress(content[:4] + b"\0\0\x7f\xff" * 3 + content[16:300]))
    (tmp_path / "none.mnc").write_bytes(b"CDF\x01" + bytes(200))
    (tmp_path / "none.PAR").write_text("# === DATA DESCRIPTION FILE ===\n# Research image export tool     V4.2\n")
    (tmp_path / "none.REC").write_bytes(bytes(200))
    for name, word in (("x.nrrd", "vectors"), ("far.nhdr", "beside it"), ("cut.mgz", "truncated or damaged"),
                       ("bomb.mgz", "needs"), ("none.mnc", "damaged"), ("none.PAR", "damaged")):  # fmt: skip
        with pytest.raises(VolumeError, match=word) as caught:
            read_volume(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_scan_passes_them_over_and_a_row_builds(tmp_path):
    nib.save(nib.MGHImage(IMAGE.astype(np.float32), AFFINE), tmp_path / "brain.mgz")
    (passed,) = scan_folder(tmp_path, probe).passed
    assert "is a FreeSurfer image (MGH)" in passed.why and "add its row by hand, or convert it" in passed.why
    (tmp_path / "m.csv").write_text("volume_id,path\na,brain.mgz\n")
    assert main(["build", str(tmp_path / "m.csv"), str(tmp_path / "c.zarr"), "--phase", "zero"]) == 0
