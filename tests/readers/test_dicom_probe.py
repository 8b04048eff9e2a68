from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import phantom_dicom as phantom
import pytest
from paths import SHARED
from phantom_dicom import AXIAL, CORONAL, classic, enhanced, mosaic, save, save_series
from pydicom.data import get_testdata_file

from rephase.errors import VolumeError
from rephase.manifests.header import Probed, SeriesHeader
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom import reader
from rephase.readers.dicom.index import series_id

MAGNITUDES = SHARED / "magnitude"

PHASE = ["ORIGINAL", "PRIMARY", "P", "ND"]


def probe(folder: Path) -> Probed:
    """Probe, and check that the manifest row of each magnitude header selects the same volume."""
    probed = reader.probe(sorted(path for path in folder.rglob("*") if path.is_file()))
    for header in probed.headers:
        if header.kind == "magnitude":
            cells = {name: getattr(header, name) for name in ("series", "part", "echo", "frame")}
            described = reader.describe(ManifestRow(2, "v", str(header.path), **cells))
            assert described == ((header.num_slices, header.height, header.width), header.spacing_mm, ())
    assert len({header.series_key for header in probed.headers}) == len(probed.headers)
    return probed


def only(probed: Probed) -> SeriesHeader:
    assert probed.unreadable == []
    (header,) = probed.headers
    return header


def kinds(probed: Probed) -> list[str]:
    return sorted(header.kind for header in probed.headers)


def test_slices_in_files_are_a_volume_at_the_folder(tmp_path):
    save_series(tmp_path, [classic(k, InPlanePhaseEncodingDirection="COL", ScanningSequence="GR") for k in range(5)])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b garbage")
    header = only(probe(tmp_path))
    assert (header.path, header.series, header.echo, header.frame) == (tmp_path, series_id(phantom.SERIES), None, None)
    assert (header.num_slices, header.height, header.width) == (5, 8, 6)
    assert (header.te_ms, header.field_t, header.contrast) == (20, 3, "GRE")
    assert header.spacing_mm == pytest.approx((4, 1, 2))
    assert header.subject_key == phantom.PERSON["PatientID"]


def test_one_file_is_a_volume_at_the_file(tmp_path):
    path = save(classic(0), tmp_path / "only")
    assert only(probe(tmp_path)).path == path


def test_two_series_are_named(tmp_path):
    save_series(tmp_path, [classic(k) for k in range(3)])
    save_series(tmp_path, [classic(k, SeriesInstanceUID="1.2.3", PatientID="other") for k in range(4)], "b")
    headers = probe(tmp_path).headers
    assert {(header.series, header.num_slices) for header in headers} == {
        (series_id(phantom.SERIES), 3),
        (series_id("1.2.3"), 4),
    }
    assert len({header.subject_key for header in headers}) == 2


def test_echoes_and_time_points_have_a_header_each(tmp_path):
    slices = []
    for te, number in ((5, 1), (9, 2)):
        for time in (1, 2, 3):
            slices += [classic(k, EchoTime=te, EchoNumbers=number, TemporalPositionIdentifier=time) for k in range(3)]
    save_series(tmp_path, slices)
    found = [(header.echo, header.frame, header.te_ms) for header in probe(tmp_path).headers]
    assert found == [(1, 0, 5), (1, 1, 5), (1, 2, 5), (2, 0, 9), (2, 1, 9), (2, 2, 9)]


@pytest.mark.parametrize("second", [phantom.SERIES, "1.2.3"])
def test_magnitude_and_phase_pair_in_one_series_or_two(tmp_path, second):
    for te in (5, 9):
        save_series(tmp_path, [classic(k, EchoTime=te) for k in range(3)], f"m{te}")
        slices = [classic(k, EchoTime=te, ImageType=PHASE, SeriesInstanceUID=second) for k in range(3)]
        save_series(tmp_path, slices, f"p{te}")
    headers = probe(tmp_path).headers
    assert sorted((header.kind, header.te_ms) for header in headers) == [
        ("magnitude", 5), ("magnitude", 9), ("phase", 5), ("phase", 9),
    ]  # fmt: skip
    pairs = {(header.pair_key, header.te_ms) for header in headers}
    assert len(pairs) == 2
    assert len({key for key, _ in pairs}) == 2


def test_acquisitions_at_other_times_do_not_pair(tmp_path):
    save_series(tmp_path, [classic(k) for k in range(3)])
    later = {"ImageType": PHASE, "SeriesInstanceUID": "1.2.3", "AcquisitionTime": "111213"}
    save_series(tmp_path, [classic(k, **later) for k in range(3)], "p")
    one, other = probe(tmp_path).headers
    assert one.pair_key != other.pair_key


def test_mixed_object(tmp_path):
    frames = [{"index": k, **what} for what in ({}, {"type": "P", "component": "PHASE"}) for k in range(3)]
    frames += [{"index": k, "type": "FIELD_MAP", "component": "REAL", "unit": "Hz"} for k in range(3)]
    path = save(enhanced(frames), tmp_path / "mixed.dcm.gz")
    probed = probe(tmp_path)
    assert kinds(probed) == ["fieldmap", "magnitude", "phase"]
    assert {header.path for header in probed.headers} == {path}
    assert all(header.num_slices == 3 for header in probed.headers)
    assert len({header.pair_key for header in probed.headers if header.kind != "fieldmap"}) == 1


def test_mosaics_of_a_series_are_its_time_points(tmp_path):
    for t in range(3):
        save(mosaic(4, AcquisitionNumber=t, InstanceNumber=t + 1), tmp_path / f"{t}.dcm")
    headers = probe(tmp_path).headers
    assert [(header.path, header.frame) for header in headers] == [(tmp_path, t) for t in range(3)]
    assert {(header.num_slices, header.height, header.width) for header in headers} == {(4, 6, 8)}


def test_copies_are_told_wherever_they_lie(tmp_path):
    slices = [classic(k) for k in range(3)]
    for folder in ("a", "b/again"):
        save_series(tmp_path / folder, slices)
    save(slices[0], tmp_path / "b" / "again" / "im000 (1).dcm")
    probed = probe(tmp_path)
    assert only(probed).path == tmp_path / "b" / "again"  # the folder with the most of its files
    assert sorted(path.parent.name for path, _ in probed.notes) == ["a"] * 3 + ["again"]
    assert all("is a copy of" in note for _, note in probed.notes)


def test_a_series_in_several_folders_is_one_volume(tmp_path):
    for k in range(6):
        save(classic(k), tmp_path / "study" / ("a" if k < 4 else "a/more") / f"IM{k}")
    save(classic(0, SeriesInstanceUID="1.2.3"), tmp_path / "study" / "b" / "IM0")
    series = f"**/{series_id(phantom.SERIES)}"
    found = {(header.path.name, header.series, header.num_slices) for header in probe(tmp_path).headers}
    assert found == {("a", series, 6), ("IM0", None, 1)}


def test_a_manifest_of_an_earlier_scan_is_read_or_told_to_scan_again(tmp_path):
    save_series(tmp_path, [classic(k, EchoTime=te) for k in range(3) for te in (5, 9)])
    earlier = ManifestRow(2, "v", str(tmp_path), series=phantom.SERIES, echo=2)
    assert reader.describe(earlier).shape == (3, 6, 8)
    with pytest.raises(VolumeError, match="correct the column series, or scan again"):
        reader.describe(ManifestRow(2, "v", str(tmp_path), series="1.2.3"))


def test_other_objects_are_counted_as_what_they_are(tmp_path):
    save_series(tmp_path, [classic(k) for k in range(3)])
    objects = {"1.2.840.10008.5.1.4.1.1.4.2": "spectroscopy", "1.2.840.10008.5.1.4.1.1.30": "parametric map",
               "1.2.840.10008.5.1.4.1.1.66.4": "label map", "1.2.840.10008.5.1.4.1.1.66.5": "surface",
               "1.2.840.10008.5.1.4.1.1.66": "raw data", "1.2.840.10008.5.1.4.1.1.88.11": "no image",
               "1.3.46.670589.11.0.0.12.2": "no image"}  # fmt: skip
    for number, sop_class in enumerate(objects):
        dataset = classic(0, SOPClassUID=sop_class, PixelData=None)
        dataset.file_meta.MediaStorageSOPClassUID = sop_class
        save(dataset, tmp_path / f"XX_{number}")
    probed = probe(tmp_path)
    assert only(probed).num_slices == 3
    assert [passed.kind for passed in sorted(probed.passed)] == list(objects.values())


def test_what_dcm2niix_cannot_convert_is_told_with_the_file(tmp_path):
    path = tmp_path / "cut.dcm"
    content = Path(get_testdata_file("MR_small_jp2klossless.dcm")).read_bytes()
    path.write_bytes(content[:-500].replace(b"DERIVED\\SECONDARY", b"ORIGINAL\\PRIMARY "))
    probed = probe(tmp_path)
    assert probed.headers == []
    ((_, why),) = probed.unreadable
    assert why.startswith(f"{path}: its compressed pixels are damaged") and "expected" in why


def test_a_folder_of_many_series_is_not_lost_to_one_damaged_file(tmp_path):
    for series in ("1.2.3", "1.2.4"):
        for k in range(3):
            save(classic(k, SeriesInstanceUID=series), tmp_path / f"IM{series[-1]}{k}")
    (tmp_path / "IM99").write_text("oops")
    assert len(probe(tmp_path).headers) == 2


CASES = {
    "ge_time_by_instance_only": [(6, None, t) for t in range(5)],
    "philips_label_control": [(4, None, t) for t in range(6)],
    "stopped_early_classic": [(6, None, t) for t in range(4)],
    "stopped_early_temporal_index": [(6, None, t) for t in range(4)],
    "dixon_in_one_series": [(5, part, None) for part in ("fat", "in_phase", "out_phase", "water")],
    "dixon_fat_fraction": [(5, None, None)],
    "private_object_in_a_series": [(6, None, None)],
    "series_over_two_folders": [(10, None, None)],
    "united_imaging_tiles": [(4, None, t) for t in range(2)],
    "angulated_blocks": [(4, f"block{k}", None) for k in (1, 2, 3)],
    "true_copy_of_one_slice": [(6, None, None)],
    "spectroscopy_beside_images": [(5, None, None)],
    "parametric_map_beside_images": [(5, None, None)],
}
"""Slices, part and frame of each volume in the cases that people reported."""


@pytest.fixture(scope="module")
def cases():
    path = SHARED.parent / "cases" / "make_cases.py"
    if not path.is_file():
        pytest.skip("no development data")
    specification = importlib.util.spec_from_file_location("make_cases", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.shared_data
@pytest.mark.parametrize("name", CASES)
def test_reported_cases(name, cases, tmp_path):
    cases.CASES[name](tmp_path)
    probed = probe(tmp_path)
    volumes = [header for header in probed.headers if header.kind == "magnitude"]
    assert [(header.num_slices, header.part, header.frame) for header in volumes] == CASES[name]
    assert all(header.spacing_mm[1:] == pytest.approx((2, 2)) for header in volumes)
    lost = [why for _, why in probed.unreadable]
    assert lost == [] or (name.startswith("stopped") and "5 of 5" in lost[0] and "2 of 6 slices" in lost[0])
    if name == "ge_time_by_instance_only":
        for t, header in enumerate(volumes):
            row = ManifestRow(2, "v", str(header.path), series=header.series, frame=header.frame)
            expected = np.stack([cases.picture(10 * t + k) for k in range(6)])
            np.testing.assert_array_equal(reader.read(row)[0].magnitude, expected)
    if name == "dixon_in_one_series":
        for header in volumes:
            w = ("water", "fat", "in_phase", "out_phase").index(header.part)
            row = ManifestRow(2, "v", str(header.path), series=header.series, part=header.part)
            expected = np.stack([cases.picture(5 * w + k + 1) for k in range(5)])
            np.testing.assert_array_equal(reader.read(row)[0].magnitude, expected)


def test_what_is_left_out_is_counted(tmp_path):
    save_series(tmp_path, [classic(k) for k in range(3)], "m")
    adc = {"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], "SeriesInstanceUID": "1.2.3"}
    save_series(tmp_path, [classic(k, **adc) for k in range(3)], "adc")
    save(classic(0, CORONAL, SeriesInstanceUID="1.2.4", SeriesDescription="Scout"), tmp_path / "scout1.dcm")
    save(classic(0, AXIAL, SeriesInstanceUID="1.2.4", SeriesDescription="Scout"), tmp_path / "scout2.dcm")
    save(classic(0, Modality="CT", SeriesInstanceUID="1.2.5", ImagePositionPatient=None), tmp_path / "ct.dcm")
    picture = {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "ImagePositionPatient": None}
    save(classic(0, SeriesInstanceUID="1.2.6", **picture), tmp_path / "picture.dcm")
    probed = probe(tmp_path)
    assert probed.unreadable == []
    assert kinds(probed) == ["derived", "derived", "localizer", "magnitude", "non_mr"]


def test_errors_are_reported_and_the_rest_described(tmp_path):
    save_series(tmp_path, [classic(k) for k in range(3)])
    save_series(tmp_path, [classic(k, SeriesInstanceUID="1.2.3") for k in (0, 1, 3)], "gap")
    (tmp_path / "page.dcm").write_text("<html>not found</html>")
    path = save(classic(9, SeriesInstanceUID="1.2.4"), tmp_path / "cut.dcm")
    path.write_bytes(path.read_bytes()[:500])
    probed = probe(tmp_path)
    (header,) = probed.headers
    assert (header.series, header.num_slices) == (series_id(phantom.SERIES), 3)
    told = {path.name: message for path, message in probed.unreadable}
    assert set(told) == {"page.dcm", "cut.dcm", tmp_path.name}
    assert "1 of 4 slices missing" in told[tmp_path.name]


def test_folder_without_dicom(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "b.csv").write_text("volume_id,path\n")
    assert probe(tmp_path) == Probed(others=sorted(tmp_path.iterdir()))


@pytest.mark.shared_data
@pytest.mark.skipif(not MAGNITUDES.is_dir(), reason="no development data")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("philips_mprage_classic", [("magnitude", 170, 256, 256, None)]),
        ("siemens_xa30_enhanced", [("magnitude", 96, 128, 128, None)]),
        ("siemens_mosaic_transfer_syntaxes", [("magnitude", 35, 64, 64, None)] * 9),
        ("nifti_spine", []),
        (
            "traps",
            [
                ("fieldmap", 32, 64, 64, None),
                ("magnitude", 32, 64, 64, None),
                *[(kind, 53, 80, 80, echo) for kind in ("magnitude", "phase") for echo in (1, 2)],
            ],
        ),
    ],
)
def test_development_data(name, expected):
    probed = probe(MAGNITUDES / name)
    assert probed.unreadable == []
    found = [(h.kind, h.num_slices, h.height, h.width, h.echo) for h in probed.headers]
    assert sorted(found, key=str) == sorted(expected, key=str)
    phases = {h.pair_key for h in probed.headers if h.kind == "phase"}
    assert phases <= {h.pair_key for h in probed.headers if h.kind == "magnitude"}
