from __future__ import annotations

from pathlib import Path

import numpy as np
import phantom_dicom as phantom
import pytest
from paths import SHARED
from phantom_dicom import AXIAL, CORONAL, classic, enhanced, mosaic, save, save_series

from rephase.manifests.header import Probed, SeriesHeader
from rephase.manifests.record import ManifestRow
from rephase.readers.dicom.read import describe_dicom
from rephase.readers.dicom.reader import probe as probe_files

MAGNITUDES = SHARED / "magnitude"

PHASE = ["ORIGINAL", "PRIMARY", "P", "ND"]


def probe(folder: Path) -> Probed:
    """Probe, and check that the manifest row of each magnitude header selects the same volume."""
    probed = probe_files(sorted(folder.iterdir()))
    for header in probed.headers:
        if header.kind == "magnitude":
            row = ManifestRow(2, "v", str(header.path), series=header.series, echo=header.echo, frame=header.frame)
            assert describe_dicom(row) == (header.num_slices, header.height, header.width)
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
    assert (header.path, header.series, header.echo, header.frame) == (tmp_path, None, None, None)
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
    assert {(header.series, header.num_slices) for header in headers} == {(phantom.SERIES, 3), ("1.2.3", 4)}
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


def test_mosaics_are_a_volume_a_file(tmp_path):
    paths = [save(mosaic(4, AcquisitionNumber=t), tmp_path / f"{t}.dcm") for t in range(3)]
    headers = probe(tmp_path).headers
    assert [header.path for header in headers] == paths
    assert {(header.num_slices, header.height, header.width, header.series) for header in headers} == {(4, 6, 8, None)}


def test_copies_under_one_instance_uid_keep_distinct_keys(tmp_path):
    dataset = mosaic(4)
    for number in range(3):
        save(dataset, tmp_path / f"{number}.dcm")
    assert len(probe(tmp_path).headers) == 3


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
    assert (header.series, header.num_slices) == (phantom.SERIES, 3)
    told = {path.name: message for path, message in probed.unreadable}
    assert set(told) == {"page.dcm", "cut.dcm", tmp_path.name}
    assert "1 of 4 slices missing" in told[tmp_path.name]


def test_a_broken_neighbour_makes_the_row_name_its_series(tmp_path):
    save_series(tmp_path, [classic(k) for k in range(3)])
    (tmp_path / "page.dcm").write_text("<html>not found</html>")
    (header,) = probe(tmp_path).headers
    assert header.series == phantom.SERIES


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
