from __future__ import annotations

import gzip
import hashlib
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import nibabel
import numpy as np
import phantom_dicom as phantom
import pydicom
import pytest
from paths import SHARED
from phantom_dicom import AXIAL, CORONAL, OBLIQUE, SAGITTAL, classic, enhanced, mosaic, save, save_series
from pydicom.data import get_testdata_file
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from rephase.errors import VolumeError
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom import reader
from rephase.readers.volume import Volume

MAGNITUDES = SHARED / "magnitude"

NICOM = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"


def row(path: Path, **columns) -> ManifestRow:
    return ManifestRow(line=2, volume_id="v", path=str(path), **columns)


def read(path: Path, **columns) -> Volume:
    """Read, and hold the header-only functions to the same answer."""
    volume = reader.read(row(path, **columns))[0]
    assert reader.describe(row(path, **columns)).shape == volume.magnitude.shape
    assert reader.digest(row(path, **columns)) == volume.source_sha256
    assert volume.magnitude.dtype == np.float32
    return volume


def expected_values(volume: Volume) -> np.ndarray:
    """Return the closed form of the phantom at the voxel positions of the volume's affine."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.magnitude.shape), indexing="ij"), axis=-1)
    affine = np.array(volume.affine)
    return phantom.value_at(index @ affine[:3, :3].T + affine[:3, 3])


def refused(path: Path, reason: str, *words: str, limit_bytes: int | None = None, **columns) -> None:
    with pytest.raises(VolumeError) as caught:
        reader.read(row(path, **columns), limit_bytes)[0]
    message = str(caught.value)
    assert caught.value.reason == reason, message
    assert "\n" not in message
    assert all(word in message for word in (path.name, *words)), message


# Geometry


@pytest.mark.parametrize("encode", ["ROW", "COL", None])
@pytest.mark.parametrize(
    ("cosines", "letters"), [(AXIAL, "SPL"), (SAGITTAL, "RIP"), (CORONAL, "PIL"), (OBLIQUE, "SPL")]
)
def test_slices_in_any_order_match_the_affine(tmp_path, cosines, letters, encode):
    slices = [classic(k, cosines, InPlanePhaseEncodingDirection=encode) for k in (3, 0, 4, 1, 2)]
    volume = read(save_series(tmp_path, slices))
    np.testing.assert_allclose(volume.magnitude, expected_values(volume), atol=0.51)
    transposed = encode == "COL"
    assert volume.magnitude.shape == ((5, 8, 6) if transposed else (5, 6, 8))
    assert volume.spacing_mm == pytest.approx((4, 1, 2) if transposed else (4, 2, 1))
    assert volume.orientation == (letters[0] + letters[:0:-1] if transposed else letters)
    assert volume.transposed is transposed
    assert volume.phase_encode == {"ROW": "row", "COL": "column", None: "assumed"}[encode]


def test_pixels_are_not_flipped_in_plane(tmp_path):
    slices = [classic(k) for k in range(3)]
    volume = read(save_series(tmp_path, slices))
    np.testing.assert_array_equal(volume.magnitude[1], slices[1].pixel_array)


def test_gzipped_and_plain_files_are_one_series(tmp_path):
    for k in range(4):
        save(classic(k), tmp_path / (f"{k}.dcm.gz" if k % 2 else f"{9 - k}.dcm"))
    (tmp_path / "readme.txt").write_text("not an image")
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.magnitude, expected_values(volume))


def test_one_slice_takes_its_thickness(tmp_path):
    volume = read(save(classic(2), tmp_path / "one"))
    assert volume.magnitude.shape == (1, 6, 8)
    assert volume.spacing_mm == (3.0, 2.0, 1.0)
    np.testing.assert_array_equal(volume.magnitude, expected_values(volume))


def test_file_without_preamble(tmp_path):
    dataset = classic(0)
    del dataset.file_meta
    path = tmp_path / "old.dcm"
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"
    volume = read(path)
    np.testing.assert_array_equal(volume.magnitude, expected_values(volume))


def test_remote_folder(tmp_path):
    filesystem = fsspec.filesystem("memory")
    for k in range(3):
        path = save(classic(k), tmp_path / f"{k}.dcm.gz")
        filesystem.pipe_file(f"/archive/series/{k}.dcm.gz", path.read_bytes())
    remote = ManifestRow(line=2, volume_id="v", path="memory://archive/series")
    volume = reader.read(remote)[0]
    np.testing.assert_array_equal(volume.magnitude, expected_values(volume))
    assert reader.digest(remote) == volume.source_sha256 == reader.read(row(tmp_path))[0].source_sha256
    with pytest.raises(VolumeError, match="memory://archive/none: does not exist"):
        reader.read(ManifestRow(line=2, volume_id="v", path="memory://archive/none"))[0]


# Values


def test_every_file_has_its_own_rescale(tmp_path):
    slices = [classic(k, RescaleSlope=1 + k / 4, RescaleIntercept=-k) for k in range(3)]
    volume = read(save_series(tmp_path, slices))
    for k, dataset in enumerate(slices):
        np.testing.assert_array_equal(volume.magnitude[k], dataset.pixel_array * (1 + k / 4) - k)


def test_signed_pixels(tmp_path):
    stored = np.arange(-24, 24).reshape(6, 8)
    dataset = classic(0, PixelRepresentation=1)
    phantom.set_pixels(dataset, stored)
    np.testing.assert_array_equal(read(save(dataset, tmp_path / "a.dcm")).magnitude[0], stored)


@pytest.mark.parametrize("signed", [0, 1])
def test_bits_above_those_stored_do_not_count(tmp_path, signed):
    stored = np.arange(-24, 24).reshape(6, 8) if signed else np.arange(48).reshape(6, 8)
    dirty = (stored & 0x0FFF) | (np.arange(48).reshape(6, 8) % 16) << 12
    dataset = classic(0, BitsStored=12, HighBit=11)
    phantom.set_pixels(dataset, dirty)
    dataset.PixelRepresentation = signed
    np.testing.assert_array_equal(read(save(dataset, tmp_path / "a.dcm")).magnitude[0], stored)


def test_padding_becomes_zero_and_is_counted(tmp_path):
    stored = np.full((6, 8), 100)
    stored[0, :3] = -2000
    dataset = classic(0, PixelRepresentation=1, RescaleIntercept=5)
    phantom.set_pixels(dataset, stored)
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)  # as many exports write a signed value
    volume = read(save(dataset, tmp_path / "a.dcm"))
    assert volume.acquisition["padding_pixels"] == 3
    np.testing.assert_array_equal(volume.magnitude[0], np.where(stored == -2000, 0, 105))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless])
def test_transfer_syntaxes_that_pydicom_writes(tmp_path, syntax):
    dataset = classic(0)
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    volume = read(save(dataset, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(volume.magnitude, expected_values(volume))
    assert volume.acquisition["transfer_syntax"] == syntax.keyword


@pytest.mark.parametrize("name", ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"])
def test_real_slice_in_other_encodings(name):
    plain = pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array
    volume = read(Path(get_testdata_file(f"MR_small_{name}.dcm")))
    np.testing.assert_array_equal(volume.magnitude[0], plain)
    assert volume.contrast == "T2"
    assert volume.te_ms == 240


def test_real_reformatted_slice_may_be_named_by_hand():
    path = Path(get_testdata_file("examples_overlay.dcm"))
    volume = read(path)
    np.testing.assert_array_equal(volume.magnitude[0], pydicom.dcmread(path).pixel_array.T)
    assert volume.transposed
    assert volume.acquisition["acquired_matrix"] == [256, 134]
    assert volume.acquisition["image_type"][0] == "DERIVED"


# Echoes and time points


def test_echoes_are_named_by_the_header(tmp_path):
    slices = [classic(k, EchoTime=te, EchoNumbers=number) for k in range(3) for te, number in ((5, 2), (9, 1), (7, 3))]
    save_series(tmp_path, slices)
    assert [read(tmp_path, echo=echo).te_ms for echo in (1, 2, 3)] == [9, 5, 7]
    refused(tmp_path, "ambiguous", "1 (TE 9 ms)", "2 (TE 5 ms)", "column echo")
    refused(tmp_path, "mismatch", "no echo 4", echo=4)


def test_echoes_without_numbers_go_by_time(tmp_path):
    save_series(tmp_path, [classic(k, EchoTime=te, EchoNumbers=1) for k in range(3) for te in (9, 5)])
    assert [read(tmp_path, echo=echo).te_ms for echo in (1, 2)] == [5, 9]
    refused(tmp_path, "ambiguous", "1 (TE 5 ms)", "2 (TE 9 ms)", "column echo")
    refused(tmp_path, "mismatch", "no echo 3", echo=3)


def test_echo_times_that_only_vary_between_slices_are_one_volume(tmp_path):
    save_series(tmp_path, [classic(k, EchoTime=5 + k % 2) for k in range(4)])
    assert read(tmp_path).magnitude.shape == (4, 6, 8)


@pytest.mark.parametrize("tag", ["TemporalPositionIdentifier", "AcquisitionNumber", "InversionTime", "AcquisitionTime"])
def test_time_points(tmp_path, tag):
    slices = []
    for t in (2, 0, 1):
        slices += [classic(k, stored=np.full((6, 8), 10 * t), **{tag: str(101010 + t)}) for k in range(3)]
    save_series(tmp_path, slices)
    for frame in range(3):
        assert np.all(read(tmp_path, frame=frame).magnitude == 10 * frame)
    refused(tmp_path, "ambiguous", "holds 3 frame: 0 to 2", "column frame")
    refused(tmp_path, "mismatch", "no frame 3", frame=3)


def test_a_last_time_point_that_was_cut_short_harms_no_other(tmp_path):
    slices = [classic(k, TemporalPositionIdentifier=t) for t in (1, 2) for k in range(4)]
    save_series(tmp_path, slices[:6] + slices[7:])
    assert read(tmp_path, frame=0).magnitude.shape == (4, 6, 8)
    refused(tmp_path, "incomplete", "time point 2 of 2", "3 of 4 slices", frame=1)
    assert reader.digest(row(tmp_path)) == read(tmp_path).source_sha256


# Enhanced objects


def test_only_magnitude_frames_are_taken_and_sorted(tmp_path):
    phase = {"type": "P", "component": "PHASE", "add": 500, "unit": "mrad"}
    frames = [{"index": k, "te": te, **what} for what in ({}, phase) for te in (2.3, 4.6) for k in (2, 0, 1)]
    for frame in frames:
        frame["add"] = frame.get("add", 0) + (100 if frame["te"] == 4.6 else 0)
    path = save(enhanced(frames), tmp_path / "mixed.dcm.gz")
    for echo, te_ms in ((1, 2.3), (2, 4.6)):
        volume = read(path, echo=echo)
        np.testing.assert_array_equal(volume.magnitude, expected_values(volume) + (100 if echo == 2 else 0))
        assert volume.te_ms == te_ms
        assert volume.contrast == "T1"
        assert volume.acquisition["acquired_matrix"] == [6, 5]
        assert volume.acquisition["percent_sampling"] == 80
    refused(path, "ambiguous", "TE 2.3 ms", "TE 4.6 ms")


def test_field_map_frames_are_left_out(tmp_path):
    field_map = {"type": "FIELD_MAP", "component": "REAL", "te": 0, "unit": "Hz", "slope": 0.25, "intercept": -500}
    frames = [{"index": k, "slope": 0.5} for k in range(3)] + [{"index": k, **field_map} for k in range(3)]
    volume = read(save(enhanced(frames), tmp_path / "b0.dcm"))
    np.testing.assert_array_equal(volume.magnitude, expected_values(volume) / 2)


def test_time_points_of_an_enhanced_object(tmp_path):
    frames = [{"index": k, "time": t, "add": 100 * t} for k in range(3) for t in (3, 1, 2)]
    path = save(enhanced(frames), tmp_path / "dynamic.dcm")
    for frame in range(3):
        volume = read(path, frame=frame)
        np.testing.assert_array_equal(volume.magnitude, expected_values(volume) + 100 * (frame + 1))


def test_enhanced_object_with_a_wrong_number_of_frames(tmp_path):
    dataset = enhanced([{"index": k} for k in range(3)], NumberOfFrames=4)
    refused(save(dataset, tmp_path / "a.dcm"), "unsupported", "3 frame headers for 4 frames")


def test_multiframe_without_functional_groups(tmp_path):
    refused(save(classic(0, NumberOfFrames=2), tmp_path / "a.dcm"), "unsupported", "functional groups")


# Mosaics


@pytest.mark.parametrize("cosines", [AXIAL, OBLIQUE, CORONAL])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_mosaic_tiles_match_the_affine(tmp_path, cosines, sign):
    volume = read(save(mosaic(7, sign, cosines), tmp_path / "m.dcm"))
    assert volume.magnitude.shape == (7, 6, 8)
    np.testing.assert_allclose(volume.magnitude, expected_values(volume), atol=0.51)
    assert volume.acquisition["mosaic"] is True


def test_mosaic_agrees_with_nibabel():
    path = NICOM / "siemens_dwi_0.dcm.gz"
    with gzip.open(path) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom.dicomwrappers import wrapper_from_data

        wrapper = wrapper_from_data(pydicom.dcmread(stream))
        theirs = wrapper.affine  # (row, column, slice) of the untransposed picture, LPS
    volume = read(path)
    assert volume.magnitude.shape == (48, 128, 128)
    assert volume.contrast == "DWI"
    ours = np.array(volume.affine)  # transposed: height runs along columns
    np.testing.assert_allclose(ours[:, [2, 1, 0, 3]], theirs, atol=1e-3)


def test_mosaic_of_a_changed_size_is_refused():
    refused(NICOM / "0.dcm", "unsupported", "48 slices", "256x256")


def test_mosaic_without_its_private_header(tmp_path):
    dataset = mosaic(7)
    dataset.remove_private_tags()
    refused(save(dataset, tmp_path / "m.dcm"), "unsupported", "mosaic", "private")


def test_time_series_of_mosaics(tmp_path):
    for t in range(3):
        save(mosaic(4, AcquisitionNumber=t + 1, EchoTime=30 + t / 1e6), tmp_path / f"{t}.dcm")
    assert read(tmp_path, frame=2).magnitude.shape == (4, 6, 8)
    refused(tmp_path, "ambiguous", "holds 3 frame")


# Refusals


def test_several_series_must_be_named(tmp_path):
    save_series(tmp_path, [classic(k) for k in range(3)])
    save_series(tmp_path, [classic(k, SeriesInstanceUID=phantom.SERIES + ".2", EchoTime=9) for k in range(3)], "other")
    refused(tmp_path, "ambiguous", "holds 2 series", "column series")
    assert read(tmp_path, series=phantom.SERIES + ".2").te_ms == 9
    refused(tmp_path, "mismatch", "no series", "it holds 3 magnitude, 3 magnitude", series="1.2.3")
    refused(tmp_path / "im000.dcm", "mismatch", "it holds 1 magnitude", series="1.2.3")


def test_series_of_another_kind_in_the_folder_does_not_disturb_a_named_one(tmp_path):
    save_series(tmp_path, [classic(k) for k in range(3)])
    save(classic(0, Modality="CT", SeriesInstanceUID="1.2.4"), tmp_path / "ct.dcm")
    save(classic(0, PhotometricInterpretation="RGB", SeriesInstanceUID="1.2.5"), tmp_path / "picture.dcm")
    (tmp_path / "broken.dcm").write_text("<html>404</html>")
    assert read(tmp_path, series=phantom.SERIES).magnitude.shape == (3, 6, 8)
    refused(tmp_path / "broken.dcm", "unreadable", "text")
    with pytest.raises(VolumeError, match=r"broken\.dcm: holds text"):
        reader.read(row(tmp_path))[0]


def test_missing_slices(tmp_path):
    save_series(tmp_path, [classic(k) for k in (0, 1, 4, 5, 7)])
    refused(tmp_path, "incomplete", "3 of 8 slices missing", "4.00 to 12.00 mm apart")


def test_uneven_slices(tmp_path):
    save_series(tmp_path, [classic(k) for k in (0, 1, 2.3, 3.3)])
    refused(tmp_path, "incomplete", "4.00 to 5.20 mm apart")


def test_slices_off_a_straight_line(tmp_path):
    slices = [classic(k) for k in range(4)]
    slices[2].ImagePositionPatient[0] += 10
    refused(save_series(tmp_path, slices), "unsupported", "straight")


def test_missing_end_slices_that_the_header_counts(tmp_path):
    def counted(k: int) -> pydicom.Dataset:
        dataset = classic(k)
        dataset.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x18, "SL", 4)
        return dataset

    save_series(tmp_path, [counted(k) for k in range(3)])
    refused(tmp_path, "incomplete", "3 slices", "4")
    assert read(tmp_path / "im007.dcm").magnitude.shape == (1, 6, 8)


@pytest.mark.parametrize(
    "other",
    [
        lambda: classic(5, stored=np.ones((8, 8))),
        lambda: classic(5, PixelSpacing=[2.5, 1]),
        lambda: classic(5, CORONAL),
    ],
)
def test_another_matrix_spacing_or_orientation_is_another_block(tmp_path, other):
    save_series(tmp_path, [classic(0), classic(1), other()])
    refused(tmp_path, "ambiguous", "block1, block2", "column part")
    refused(tmp_path, "mismatch", "no part block3", part="block3")
    assert read(tmp_path, part="block1").magnitude.shape == (2, 6, 8)
    assert read(tmp_path, part="block2").magnitude.shape[0] == 1


def test_a_copy_is_left_out_and_an_image_without_any_difference_is_not(tmp_path):
    slices = [classic(k) for k in range(3)]
    save_series(tmp_path, slices)
    save(slices[1], tmp_path / "copy.dcm")
    assert read(tmp_path).magnitude.shape == (3, 6, 8)
    (tmp_path / "copy.dcm").unlink()
    save(classic(1, stored=np.ones((6, 8))), tmp_path / "copy.dcm")
    refused(tmp_path, "incomplete", "copy.dcm", "im007.dcm")


def test_a_time_point_that_lacks_a_slice_is_left_out(tmp_path):
    slices = [classic(k, AcquisitionNumber=t, stored=np.full((6, 8), t)) for t in (1, 2, 3) for k in range(4)]
    del slices[6]
    save_series(tmp_path, slices)
    assert [read(tmp_path, frame=frame).magnitude.mean() for frame in range(2)] == [1, 3]


def test_time_points_that_no_header_tells_apart_are_refused_where_one_lacks_a_slice(tmp_path):
    same = {"AcquisitionNumber": 1, "AcquisitionTime": None}
    slices = [
        classic(k, **same, stored=np.full((6, 8), t), InstanceNumber=3 * k + t) for k in range(4) for t in range(3)
    ]
    save_series(tmp_path, slices)
    assert [read(tmp_path, frame=frame).magnitude.mean() for frame in range(3)] == [0, 1, 2]
    (tmp_path / "im035.dcm").unlink()
    refused(tmp_path, "incomplete", "2 to 3 images at its 4 slice positions")


@pytest.mark.parametrize(
    ("elements", "word"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "phase"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"]}, "phase"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "R_FFE", "R", "FFE"]}, "real"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "B0 MAP", "B0", "UNSPECIFIED"]}, "fieldmap"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"]}, "ADC"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "T2 MAP", "T2", "UNSPECIFIED"]}, "T2 MAP"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "M"]}, "localizer"),
        ({"SeriesDescription": "3-plane localizer"}, "localizer"),
        ({"ComplexImageComponent": "PHASE"}, "phase"),
        ({"RescaleType": "Hz"}, "fieldmap"),
    ],
)
def test_what_is_no_magnitude(tmp_path, elements, word):
    save_series(tmp_path, [classic(k, **elements) for k in range(3)])
    refused(tmp_path, "not_magnitude", word)


def test_ge_phase_is_recognised_by_its_private_element(tmp_path):
    dataset = classic(0, ImageType=["ORIGINAL", "PRIMARY", "OTHER"], Manufacturer="GE MEDICAL SYSTEMS")
    block = dataset.private_block(0x43, "GEMS_PARM_01", create=True)
    block.add_new(0x2F, "SS", 0)
    assert read(save(dataset, tmp_path / "m.dcm")).acquisition["vendor"] == "ge"
    block[0x2F].value = 1
    refused(save(dataset, tmp_path / "p.dcm"), "not_magnitude", "phase")


@pytest.mark.parametrize(
    ("elements", "reason", "word"),
    [
        ({"Modality": "CT"}, "unsupported", "modality"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "unsupported", "PALETTE COLOR"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "unsupported", "RGB with 3 samples"),
        ({"ImagePositionPatient": None}, "unsupported", "ImagePositionPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 2, 0]}, "unreadable", "unit vectors"),
        ({"PixelSpacing": [0, 1]}, "unreadable", "PixelSpacing"),
        ({"RescaleSlope": 0}, "unreadable", "RescaleSlope"),
        ({"PixelData": None}, "unreadable", "no pixel data"),
        ({"PixelData": b"\0" * 90}, "unreadable", "90 of 96"),
    ],
)
def test_files_that_cannot_be_a_slice(tmp_path, elements, reason, word):
    refused(save(classic(0, **elements), tmp_path / "a.dcm"), reason, word)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.96])
@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm"])
def test_truncated_files(tmp_path, name, share):
    content = Path(get_testdata_file(name)).read_bytes()
    path = tmp_path / "cut.dcm"
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "unreadable")
    path = tmp_path / "cut.dcm.gz"
    packed = gzip.compress(content)
    path.write_bytes(packed[: int(share * len(packed))])
    refused(path, "unreadable")


def test_real_truncated_file():
    refused(Path(get_testdata_file("MR_truncated.dcm")), "unreadable", "8130 of 8192")


def test_files_that_are_no_dicom(tmp_path):
    for name, content, word in (
        ("text.dcm", b"a plain text\n" * 40, "text"),
        ("empty.dcm", b"", "empty"),
        ("other.dcm", bytes(range(256)) * 8, "not DICOM"),
        ("broken.dcm.gz", b"\x1f\x8b" + b"\0" * 400, "broken.dcm.gz"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "unreadable", word)
    refused(tmp_path / "absent.dcm", "missing")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "unreadable")


def test_deflated_files_are_not_inflated():
    refused(Path(get_testdata_file("image_dfl.dcm")), "unsupported", "deflated")


def test_size_is_checked_from_the_header(tmp_path):
    save_series(tmp_path / "s", [classic(k) for k in range(3)])
    assert reader.read(row(tmp_path / "s"), 1 << 20)[0].magnitude.shape == (3, 6, 8)
    refused(tmp_path / "s", "too_large", limit_bytes=3 * 6 * 8 * 4 - 1)


def test_gzip_bomb_is_bounded(tmp_path):
    dataset = classic(0)
    dataset.PixelData = dataset.PixelData + b"\0" * (32 << 20)
    path = save(dataset, tmp_path / "bomb.dcm.gz")
    assert path.stat().st_size < 1 << 17
    refused(path, "too_large", limit_bytes=1 << 20)


def test_slice_axis_of_a_manifest_is_not_ignored(tmp_path):
    refused(save(classic(0), tmp_path / "a.dcm"), "unsupported", "slice_axis 2", slice_axis=2)


# Facts


def test_manifest_overrides_the_header(tmp_path):
    path = save(classic(0, BodyPartExamined="KNEE", ScanningSequence="GR"), tmp_path / "a.dcm")
    volume = read(path)
    assert (volume.te_ms, volume.field_t, volume.contrast, volume.anatomy) == (20, 3, "GRE", "knee")
    volume = read(path, te_ms=7.5, field_t=1.5, contrast="SWI", anatomy="wrist")
    assert (volume.te_ms, volume.field_t, volume.contrast, volume.anatomy) == (7.5, 1.5, "SWI", "wrist")


def test_no_identity_is_kept(tmp_path):
    named = {"BodyPartExamined": "DOE JANE", "ProtocolName": "Doe", "OperatorsName": "Doe", "SeriesDescription": "Doe"}
    shown = repr(read(save_series(tmp_path, [classic(k, **named) for k in range(2)])).__dict__)
    for secret in ("Doe", "DOE", "4711", "1970", "2020", "Elsewhere", "SN99", "1.2.826", "101112", str(tmp_path)):
        assert secret not in shown


def test_hash_is_that_of_the_files(tmp_path):
    path = save(classic(0), tmp_path / "a.dcm.gz")
    assert read(path).source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    save_series(tmp_path / "s", [classic(k) for k in (1, 0)])
    files = [tmp_path / "s" / name for name in ("im007.dcm", "im000.dcm")]  # slice 0, slice 1
    digests = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)
    assert read(tmp_path / "s").source_sha256 == hashlib.sha256(digests).hexdigest()


def test_threads_leave_the_warning_filters_alone(tmp_path):
    save_series(tmp_path, [classic(k) for k in range(3)])
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        volumes = list(pool.map(lambda _: reader.read(row(tmp_path))[0], range(12)))
    assert warnings.filters == before
    assert len({volume.source_sha256 for volume in volumes}) == 1


def test_odd_headers_cause_no_warning(tmp_path):
    dataset = classic(0)
    dataset.file_meta.ImplementationVersionName = "X"
    path = save(dataset, tmp_path / "a.dcm")
    content = path.read_bytes().replace(b"101112", b"noon??")  # an AcquisitionTime that is no time
    path.write_bytes(content)
    assert read(path).magnitude.shape == (1, 6, 8)


# Development data


@pytest.mark.parametrize(
    ("name", "columns", "shape", "orientation"),
    [
        ("philips_mprage_classic", {}, (170, 256, 256), "RIP"),
        ("siemens_xa30_enhanced", {}, (96, 128, 128), "RIP"),
        ("traps/philips_enhanced_magnitude_and_fieldmap_hz_frames.dcm", {}, (32, 64, 64), "SPL"),
        ("traps/philips_enhanced_magnitude_and_phase_frames.dcm.gz", {"echo": 1}, (53, 80, 80), "SLP"),
        ("traps/philips_enhanced_magnitude_and_phase_frames.dcm.gz", {"echo": 2}, (53, 80, 80), "SLP"),
    ],
)
@pytest.mark.shared_data
@pytest.mark.skipif(not MAGNITUDES.is_dir(), reason="no development data")
def test_real_volumes(name, columns, shape, orientation):
    volume = reader.read(row(MAGNITUDES / name, **columns))[0]
    assert volume.magnitude.shape == shape
    assert volume.orientation == orientation
    assert volume.magnitude.min() >= 0
    assert volume.te_ms is not None
    assert volume.field_t == 3


@pytest.mark.shared_data
@pytest.mark.skipif(not MAGNITUDES.is_dir(), reason="no development data")
def test_nine_transfer_syntaxes_hold_one_image():
    volumes = [read(path) for path in sorted((MAGNITUDES / "siemens_mosaic_transfer_syntaxes").glob("*.dcm"))]
    assert len(volumes) == 9
    assert len({volume.acquisition["transfer_syntax"] for volume in volumes}) == 7
    for volume in volumes:
        assert volume.magnitude.shape == (35, 64, 64)
        np.testing.assert_array_equal(volume.magnitude, volumes[0].magnitude)
        assert volume.affine == volumes[0].affine
