import gzip
import hashlib
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_oracle import assert_equals_nibabel
from paths import SHARED

from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.readers.kinds import kind_of_name, kind_of_values
from rephase.readers.nifti.read import probe
from rephase.readers.registry import describe_row, describe_volume, hash_source, read_volume
from rephase.readers.registry import probe as probe_all

NIBABEL_DATA = Path(nib.__file__).parent / "tests" / "data"
SHAPE = (6, 7, 4)
LPS_AFFINE = np.diag([-2.0, -2.0, 5.0, 1.0])  # RAS: first axis to left, second to posterior, third to superior


def row_of(path, **columns):
    return ManifestRow(line=2, volume_id="v", path=str(path), **columns)


def phantom(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def write(path, array, affine=LPS_AFFINE, **header):
    image = nib.Nifti1Image(array, affine)
    for name, value in header.items():
        getattr(image.header, f"set_{name}")(*value)
    image.to_filename(path)
    return path


def problem_of(row, function=read_volume, **arguments):
    with pytest.raises(VolumeError) as caught:
        function(row, **arguments)
    assert "\n" not in str(caught.value)
    return caught.value.reason, str(caught.value)


@pytest.mark.parametrize("name", ["m.nii", "m.nii.gz", "noname"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_values_geometry_and_digest(tmp_path, name, kind):
    array = phantom()
    path = tmp_path / name
    kind(array, LPS_AFFINE).to_filename(tmp_path / "m.nii")
    (tmp_path / "m.nii").rename(path) if name != "m.nii.gz" else path.write_bytes(
        gzip.compress((tmp_path / "m.nii").read_bytes())
    )
    row = row_of(path)
    volume = read_volume(row)
    np.testing.assert_array_equal(volume.magnitude, array.transpose(2, 1, 0))
    assert volume.magnitude.dtype == np.float32
    assert volume.magnitude.flags.c_contiguous
    assert (volume.orientation, volume.spacing_mm) == ("SPL", (5.0, 2.0, 2.0))
    assert np.array(volume.affine)[:3, :3].tolist() == [[0, 0, 2], [0, 2, 0], [5, 0, 0]]
    assert (volume.phase_encode, volume.transposed) == ("assumed", False)
    assert volume.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == hash_source(row)
    assert describe_row(row) == volume.magnitude.shape


def test_slope_and_intercept_in_double_precision(tmp_path):
    array = phantom()
    image = nib.Nifti1Image(array, LPS_AFFINE)
    image.header.set_slope_inter(0.1, 3.0)
    path = tmp_path / "m.nii"
    image.to_filename(path)
    proxy = nib.load(path).dataobj
    assert (proxy.slope, proxy.inter) == (pytest.approx(0.1), 3.0)
    expected = (proxy.get_unscaled().astype(np.float64) * proxy.slope + proxy.inter).astype(np.float32)
    np.testing.assert_array_equal(read_volume(row_of(path)).magnitude, expected.transpose(2, 1, 0))


def test_big_endian(tmp_path):
    image = nib.Nifti1Image(phantom().astype(">i2"), LPS_AFFINE)
    path = tmp_path / "m.nii"
    image.as_reoriented(np.array([[0, 1], [1, 1], [2, 1]])).to_filename(path)
    np.testing.assert_array_equal(read_volume(row_of(path)).magnitude, phantom().transpose(2, 1, 0))


def test_a_file_is_read_without_a_row(tmp_path):
    array = phantom((*SHAPE, 2))
    path = write(tmp_path / "m.nii.gz", array)
    labels = write(tmp_path / "labels.nii", np.ones(SHAPE, np.uint8))
    volume = read_volume(path, frame=1, segmentation=str(labels), te_ms=4.6)
    expected = read_volume(row_of(path, frame=1, segmentation=str(labels), te_ms=4.6))
    np.testing.assert_array_equal(volume.magnitude, array[..., 1].transpose(2, 1, 0))
    assert (volume.source_sha256, volume.te_ms, volume.segmentation.min()) == (expected.source_sha256, 4.6, 1)
    assert np.array_equal(read_volume(row_of(path), frame=1).magnitude, volume.magnitude)
    with pytest.raises(VolumeError, match="tiff"):
        read_volume(path, format="tiff")


def test_frames(tmp_path):
    array = phantom((*SHAPE, 3))
    path = write(tmp_path / "m.nii.gz", array)
    reason, message = problem_of(row_of(path))
    assert reason == "ambiguous"
    assert "3 frames" in message
    for frame in range(3):
        volume = read_volume(row_of(path, frame=frame))
        np.testing.assert_array_equal(volume.magnitude, array[..., frame].transpose(2, 1, 0))
    assert problem_of(row_of(path, frame=3))[0] == "mismatch"
    assert problem_of(row_of(path), describe_row)[0] == "ambiguous"
    one = write(tmp_path / "one.nii", array[..., :1])
    np.testing.assert_array_equal(read_volume(row_of(one)).magnitude, array[..., 0].transpose(2, 1, 0))


def test_two_dimensions_are_one_slice(tmp_path):
    path = write(tmp_path / "m.nii", phantom((6, 7)))
    np.testing.assert_array_equal(read_volume(row_of(path)).magnitude, phantom((6, 7)).T[np.newaxis])


def test_slices_and_phase_encoding_of_the_header(tmp_path):
    array = phantom()
    by_header = read_volume(row_of(write(tmp_path / "a.nii", array, dim_info=(0, 1, 2))))
    assert (by_header.transposed, by_header.phase_encode, by_header.orientation) == (True, "column", "SLP")
    np.testing.assert_array_equal(by_header.magnitude, array.transpose(2, 0, 1))
    coronal = write(tmp_path / "b.nii", array, dim_info=(2, 0, 1))
    volume = read_volume(row_of(coronal))
    assert (volume.orientation, volume.phase_encode) == ("PIL", "row")
    np.testing.assert_array_equal(volume.magnitude, array[:, :, ::-1].transpose(1, 2, 0))
    by_hand = read_volume(row_of(coronal, slice_axis=0))
    assert (by_hand.orientation, by_hand.phase_encode) == ("RIP", "assumed")


def test_without_sform_and_qform_the_assumption_is_recorded(tmp_path):
    image = nib.Nifti1Image(phantom(), None)
    image.header.set_zooms((2.0, 3.0, 4.0))
    image.header["sform_code"] = image.header["qform_code"] = 0
    path = tmp_path / "m.nii"
    image.to_filename(path)
    volume = read_volume(row_of(path))
    assert volume.spacing_mm == (4.0, 3.0, 2.0)
    assert volume.acquisition["orientation"].startswith("assumed")
    # nibabel takes the axes as left, anterior, superior, so the second one is flipped for display
    np.testing.assert_array_equal(volume.magnitude, phantom()[:, ::-1].transpose(2, 1, 0))
    assert_equals_nibabel(path, volume)
    assert any("neither sform nor qform" in note for note in describe_volume(row_of(path)).notes)
    assert "orientation" not in read_volume(row_of(write(tmp_path / "n.nii", phantom()))).acquisition


def test_broken_files_are_unreadable(tmp_path):
    good = write(tmp_path / "good.nii", phantom((20, 20, 20))).read_bytes()
    packed = gzip.compress(good)
    flipped = bytearray(packed)
    flipped[-7] ^= 1  # a bit of the checksum
    bomb = nib.Nifti1Image(np.zeros((1, 1, 1), np.int16), LPS_AFFINE).header.copy()
    bomb.set_data_shape((30000, 30000, 30000))
    bomb["vox_offset"] = 352
    cases = {
        "text.nii.gz": b"volume_id,path\n",
        "text.nii": b"hello" * 200,
        "empty.nii": b"",
        "short.nii": good[:-100],
        "short.nii.gz": packed[:-100],
        "head.nii": good[:200],
        "unpacked.nii.gz": good,
        "checksum.nii.gz": bytes(flipped),
        "garbage.nii.gz": packed[:30] + bytes(100) + packed[130:],
        "bomb.nii": bomb.binaryblock + bytes(1000),
        "bomb.nii.gz": gzip.compress(bomb.binaryblock + bytes(1000)),
        "text.gz.nii": b"\x1f\x8b but no gzip at all",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        reason, message = problem_of(row_of(tmp_path / name))
        assert reason == "unreadable", name
        assert name in message
        assert name[:4] != "bomb" or "54000000000352" in message
        seen_by_scan = name not in ("short.nii.gz", "checksum.nii.gz", "garbage.nii.gz")
        assert probe([tmp_path / name]).unreadable or not seen_by_scan


def test_missing_and_unsupported(tmp_path):
    assert problem_of(row_of(tmp_path / "none.nii"))[0] == "missing"
    colour = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    assert problem_of(row_of(write(tmp_path / "rgb.nii", colour)))[0] == "unsupported"
    nib.AnalyzeImage(phantom(), LPS_AFFINE).to_filename(tmp_path / "old.hdr")
    assert "Analyze 7.5" in problem_of(row_of(tmp_path / "old.hdr"))[1]


def test_a_limit_of_memory_is_kept_before_reading(tmp_path):
    path = write(tmp_path / "m.nii", phantom((50, 50, 50)))
    assert problem_of(row_of(path), limit_bytes=1_000_000)[0] == "too_large"
    assert read_volume(row_of(path), limit_bytes=2_000_000).magnitude.shape == (50, 50, 50)


def test_implausibly_large_planes_are_not_read(tmp_path):
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.int16), LPS_AFFINE).header.copy()
    header.set_data_shape((20000, 20000, 1))
    header["vox_offset"] = 352
    path = tmp_path / "wide.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(20_000_000), compresslevel=1))
    with path.open("ab") as file:
        file.write(bytes(1_000_000))
    assert problem_of(row_of(path))[0] == "unsupported"


def test_sizes_of_the_manifest_must_be_right(tmp_path):
    path = write(tmp_path / "m.nii", phantom())
    assert read_volume(row_of(path, num_slices=4, height=7, width=6)).magnitude.shape == (4, 7, 6)
    reason, message = problem_of(row_of(path, num_slices=4, height=6))
    assert reason == "mismatch"
    assert "4 slices of 7 x 6" in message


def angles(shape=(16, 17, 5), seed=1):
    return np.random.default_rng(seed).uniform(-math.pi, math.pi, shape)


def signal(shape=(16, 17, 5), seed=2):
    return np.random.default_rng(seed).rayleigh(100, shape)


@pytest.mark.parametrize(
    ("stored", "scale"),
    [
        (lambda p: p.astype(np.float32), "radians"),
        (lambda p: (p % (2 * math.pi)).astype(np.float32), "2 pi"),
        (lambda p: np.rint(p / math.pi * 4096).astype(np.int16), "4096"),
        (lambda p: np.rint(p / math.pi * 2048 + 2048).clip(0, 4095).astype(np.uint16), "4095"),
        (lambda p: np.rint(p * 1000).astype(np.int16), "milliradians"),
    ],
)
def test_phase_beside_a_magnitude_and_phase_given_as_magnitude(tmp_path, stored, scale):
    phase = angles()
    # Exact ends of the range, so that every unit can be told.
    phase[0, 0, 0], phase[1, 0, 0] = math.pi, -math.pi + 1e-4
    magnitude = write(tmp_path / "a.nii", signal().astype(np.float32))
    other = write(tmp_path / "b.nii.gz", stored(phase))
    volume = read_volume(row_of(magnitude, phase=str(other)))
    assert scale in volume.acquisition["phase_scaling"]
    difference = np.angle(np.exp(1j * (volume.phase - phase.transpose(2, 1, 0))))
    assert np.abs(difference).max() < 2e-3
    assert volume.phase.dtype == np.float32
    assert volume.phase.max() <= np.float32(math.pi)
    assert volume.phase.min() > -np.float32(math.pi)
    both = hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in (magnitude, other))).hexdigest()
    assert volume.source_sha256 == both == hash_source(row_of(magnitude, phase=str(other)))
    assert problem_of(row_of(other))[0] == "not_magnitude"
    assert [header.kind for header in probe([other]).headers] == ["phase"]


def test_phase_is_recognised_before_a_frame_is_required(tmp_path):
    path = write(tmp_path / "x.nii.gz", np.rint(angles((16, 16, 1, 3)) / math.pi * 4095).astype(np.int16))
    assert problem_of(row_of(path))[0] == "not_magnitude"


def test_magnitudes_that_look_a_little_like_phase_stay_magnitudes():
    rng = np.random.default_rng(3)
    noise = rng.rayleigh(30, (6, 64, 64))
    twelve_bits = np.minimum(noise * 100, 4095)
    box = np.zeros((6, 64, 64))
    box[:, ::2, ::2] = 4095.0  # sharp edges everywhere
    ringing = noise - 5
    masked = np.where(rng.random((6, 64, 64)) < 0.5, 0, 4000 + noise)
    for image in (noise, twelve_bits, box, ringing, masked, np.zeros((2, 4, 4)), np.full((1, 1, 1), math.tau)):
        assert kind_of_values(image) is None
    assert kind_of_values(rng.normal(0, 300, (6, 64, 64)))[0] == "real"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sub-01_part-phase_T2w.nii.gz", "phase"), ("sub-01_part-mag_T2w.nii.gz", "magnitude"),
        ("gre_e2_ph.nii", "phase"),
        ("a_phase.nii.gz", "phase"), ("sub-1_phasediff.nii", "fieldmap"), ("x_imaginary.nii", "imaginary"),
        ("sub-1_desc-brain_mask.nii.gz", "label map"), ("e1_fieldmaphz.nii", "fieldmap"), ("a_mag.nii", "magnitude"),
        ("phase_contrast_study_01.nii", None), ("ph_12.nii", None), ("t2.nii.gz", None), ("mask_of_zorro.nii", None),
        ("phantom.nii", None),
    ],
)  # fmt: skip
def test_kinds_by_file_names(name, kind):
    assert kind_of_name(Path("folder_phase") / name) == kind


def test_sidecars_tell_kind_echo_time_and_field(tmp_path):
    write(tmp_path / "x.nii.gz", signal().astype(np.float32))
    sidecar = {"EchoTime": 0.00492, "MagneticFieldStrength": 2.89, "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}
    (tmp_path / "x.json").write_text(json.dumps(sidecar))
    (header,) = probe([tmp_path / "x.nii.gz"]).headers
    assert (header.kind, header.te_ms, header.field_t) == ("magnitude", 4.92, 2.89)
    (tmp_path / "x.json").write_text(json.dumps(sidecar | {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}))
    assert probe([tmp_path / "x.nii.gz"]).headers[0].kind == "phase"
    assert problem_of(row_of(tmp_path / "x.nii.gz"))[0] == "not_magnitude"
    (tmp_path / "x.json").write_text("{ broken")
    assert read_volume(row_of(tmp_path / "x.nii.gz")).te_ms is None


def test_complex_files(tmp_path):
    image = (signal() * np.exp(1j * angles())).astype(np.complex64)
    path = write(tmp_path / "c.nii.gz", image)
    plain = read_volume(row_of(path))
    np.testing.assert_allclose(plain.magnitude, np.abs(image).transpose(2, 1, 0), rtol=1e-6)
    assert plain.phase is None
    volume = read_volume(row_of(path, phase=str(path)))
    np.testing.assert_allclose(
        volume.magnitude * np.exp(1j * volume.phase), image.transpose(2, 1, 0), rtol=1e-5, atol=1e-4
    )
    assert volume.source_sha256 == plain.source_sha256 == hash_source(row_of(path, phase=str(path)))
    assert [header.kind for header in probe([path]).headers] == ["magnitude", "phase"]
    real = write(tmp_path / "r.nii", signal().astype(np.float32))
    assert problem_of(row_of(real, phase=str(real)))[0] == "mismatch"


def test_segmentation_follows_its_own_affine(tmp_path):
    array = phantom()
    labels = (array > 500).astype(np.uint8) * 3
    magnitude = write(tmp_path / "m.nii", array)
    flipped = LPS_AFFINE @ np.array([[0, -1, 0, 5], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    same = write(tmp_path / "s.nii", labels)
    turned = write(tmp_path / "t.nii.gz", np.ascontiguousarray(labels[::-1].transpose(1, 0, 2)), flipped)
    for path in (same, turned):
        volume = read_volume(row_of(magnitude, segmentation=str(path)))
        assert volume.segmentation.dtype == np.uint8
        np.testing.assert_array_equal(volume.segmentation, labels.transpose(2, 1, 0))
    np.save(tmp_path / "s.npy", labels)
    volume = read_volume(row_of(magnitude, segmentation=str(tmp_path / "s.npy")))
    np.testing.assert_array_equal(volume.segmentation, labels.transpose(2, 1, 0))
    for bad, reason in (
        (write(tmp_path / "small.nii", labels[1:]), "mismatch"),
        (write(tmp_path / "half.nii", labels * 0.5), "unsupported"),
        (tmp_path / "gone.nii", "missing"),
    ):
        assert problem_of(row_of(magnitude, segmentation=str(bad)))[0] == reason


def magnitudes_of(folder):
    """Rows of every NIfTI image below a folder, two frames of each at most."""
    headers = [header for header in probe_all(sorted(folder.rglob("*.nii*"))).headers if header.kind == "magnitude"]
    return [header for header in headers if header.frame in (None, 0, 7)]


@pytest.mark.parametrize("folder", [NIBABEL_DATA, SHARED / "complex", SHARED / "magnitude"], ids=lambda path: path.name)
def test_every_real_file_is_read_as_nibabel_does(folder):
    if not folder.exists():
        pytest.skip("needs the development data")
    headers = magnitudes_of(folder)
    assert len(headers) >= 2
    for header in headers:
        volume = read_volume(header.path, frame=header.frame, slice_axis=header.slice_axis)
        assert volume.magnitude.shape == (header.num_slices, header.height, header.width)
        assert_equals_nibabel(header.path, volume, header.frame or 0)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the development data")
def test_development_data():
    trap = SHARED / "magnitude" / "traps" / "spine_phase_without_magnitude.nii.gz"
    for frame in (None, 0, 2):
        reason, message = problem_of(row_of(trap, frame=frame))
        assert (reason, "phase image" in message) == ("not_magnitude", True)
    assert {header.kind for header in probe([trap]).headers} == {"phase"}
    assert describe_row(row_of(SHARED / "magnitude" / "nifti_spine" / "t2.nii.gz")) == (52, 55, 60)
    assert describe_row(row_of(SHARED / "magnitude" / "nifti_spine" / "t2s_uncropped.nii.gz")) == (11, 320, 320)
    magnitude = SHARED / "complex" / "brain" / "philips_brain_fieldmap_e1_mag.nii.gz"
    phase = Path(str(magnitude).replace("_mag", "_phase"))
    volume = read_volume(row_of(magnitude, phase=str(phase)))
    expected = nib.load(phase).get_fdata()[::-1, ::-1].transpose(2, 1, 0)
    assert np.abs(volume.phase - expected).max() < 1e-6
