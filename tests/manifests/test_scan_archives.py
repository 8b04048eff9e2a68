"""Archives as they are found: files of every kind beside images. What a scan writes builds, and the rest is told."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import struct
import sys
from collections import Counter
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from nifti_oracle import assert_equals_nibabel
from phantom_dicom import classic, save

from rephase.cli import main
from rephase.errors import VolumeError
from rephase.manifests.parse import read_manifest
from rephase.manifests.scan import scan_folder
from rephase.pipeline.magnitude import prepare_magnitude
from rephase.readers.dicom import index
from rephase.readers.registry import describe_row, probe, read_volume

GEOMETRY = np.diag([-2.0, -2.0, 4.0, 1.0])


def image(seed=0, shape=(24, 20, 12)):
    """A blob in noise, as int16."""
    grid = np.indices(shape[:3]) / np.reshape(shape[:3], (3, 1, 1, 1)) - 0.5
    blob = 900 * np.exp(-(grid**2).sum(0) / 0.08)
    noise = np.random.default_rng(seed).normal(0, 8, shape)
    return np.clip(blob.reshape(*shape[:3], *([1] * (len(shape) - 3))) + 40 + noise, 0, None).astype(np.int16)


def write(path, values, affine=GEOMETRY, kind=nib.Nifti1Image, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = kind(values, affine)
    for name, value in fields.items():
        if name == "units":
            made.header.set_xyzt_units(*value)
        elif name == "intent":
            made.header.set_intent(value)
        else:
            made.header[name] = value
    made.to_filename(path)
    return path


def scan(folder, *words, status=0):
    """Scan with `--json`; check that every row reads as nibabel reads it and can be stored."""
    target = folder.parent / f"{folder.name}.csv"
    captured = run(["manifest", "scan", str(folder), "-o", str(target), "--json", *words])
    assert captured[0] == status
    found = json.loads(captured[1])
    rows = list(read_manifest(target)) if status == 0 else []
    for row in rows:
        volume = read_volume(row)
        prepare_magnitude(volume.magnitude)
        assert volume.magnitude.shape == describe_row(row)
        if row.format == "nifti":
            assert_equals_nibabel(Path(row.path), volume, row.frame or 0)
    return found, rows


def run(words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        status = main(words)
    return status, out.getvalue()


def names(rows):
    return [Path(row.path).name for row in rows]


@pytest.fixture
def archive(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


def test_labels_become_segmentations_by_the_folders_of_nnu_net(archive):
    for case in ("case_000", "case_001"):
        write(archive / "imagesTr" / f"{case}_0000.nii.gz", image())
        write(archive / "imagesTr" / f"{case}_0001.nii.gz", image(1))
        write(archive / "labelsTr" / f"{case}.nii.gz", np.digitize(image(), [200, 450, 700]).astype(np.uint8))
    write(archive / "labelsTr" / "case_002.nii.gz", np.digitize(image(), [200]).astype(np.uint8))
    found, rows = scan(archive)
    assert [(Path(row.path).name, Path(row.segmentation).name) for row in rows] == [
        (f"case_{case}_000{channel}.nii.gz", f"case_{case}.nii.gz") for case in ("000", "001") for channel in (0, 1)
    ]
    assert found["skipped"] == {"label map": 3}
    assert set(np.unique(read_volume(rows[0]).segmentation)) == {0, 1, 2, 3}


def test_labels_become_segmentations_by_names_of_bids_on_the_same_voxels(archive):
    anat, derived = archive / "sub-01" / "anat", archive / "derivatives" / "manual" / "sub-01" / "anat"
    labels = (image() > 300).astype(np.uint8) * 3
    write(anat / "sub-01_T1w.nii.gz", image())
    write(anat / "sub-01_T2w.nii.gz", image(1), np.diag([-3.0, -2, 4, 1]))  # another grid
    write(derived / "sub-01_dseg.nii.gz", labels)
    write(derived / "sub-01_label-brain_mask.nii.gz", (labels > 0).astype(np.uint8))
    write(archive / "sub-02" / "sub-02_T1w.nii", image(2))
    write(archive / "sub-02" / "sub-02_T1w_seg.nii", labels)
    write(archive / "sub-02" / "sub-02_T1w_label-left_seg.nii", labels)
    found, rows = scan(archive)
    segmentations = {Path(row.path).name: row.segmentation and Path(row.segmentation).name for row in rows}
    assert segmentations == {
        "sub-01_T1w.nii.gz": "sub-01_dseg.nii.gz", "sub-01_T2w.nii.gz": None, "sub-02_T1w.nii": None,
    }  # fmt: skip
    [(path, note)] = found["notes"]
    assert path.endswith("sub-02_T1w.nii") and "several label maps" in note


@pytest.mark.parametrize(
    ("values", "fields", "kind"),
    [
        (lambda: image(), {"intent": "label"}, "label map"),
        (lambda: image(), {"intent": "z score"}, "statistics"),
        (lambda: image(), {"intent": "vector"}, "vectors"),
        (lambda: image(), {"intent": "estimate"}, "parametric map"),
        (lambda: image(), {"intent_name": b"Parcellation"}, "label map"),
        (lambda: image(), {"descrip": b"SPM{T_[21.0]} - contrast 1"}, "statistics"),
        (lambda: image(shape=(24, 20, 12, 1, 3)), {}, "vectors"),
        (lambda: np.digitize(image(), [200, 450]).astype(np.float32), {}, "label map"),
        (lambda: (image() > 700).astype(np.int16) * 255, {}, "label map"),
        (lambda: np.where(np.indices((24, 20, 12))[2] > 10, image() > 40, 0).astype(np.uint8), {}, "label map"),
        (lambda: np.clip((image() - 200) / 300, 0, 1).astype(np.float32), {}, "label map"),
        (lambda: np.full((24, 20, 12), 7, np.int16), {}, "blank"),
        (lambda: np.zeros((24, 20, 12), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])), {}, "derived"),
    ],
)
def test_what_is_no_magnitude_is_counted_by_its_kind(archive, values, fields, kind):
    write(archive / "a.nii.gz", image())
    write(archive / "b.nii.gz", values(), **fields)
    found, rows = scan(archive)
    assert (names(rows), found["skipped"]) == (["a.nii.gz"], {kind: 1})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aparc+aseg", "label map"), ("aparc.DKTatlas+aseg", "label map"), ("patient1_gt", "label map"),
        ("case-seg", "label map"), ("T1_pve_1", "label map"), ("sub-01_stat-z_statmap", "statistics"),
        ("zstat1", "statistics"), ("cope3", "statistics"), ("spmT_0001", "statistics"), ("beta_0002", "statistics"),
        ("sub-01_T1map", "parametric map"), ("sub-01_Chimap", "parametric map"), ("dti_FA", "parametric map"),
        ("x1Warp", "vectors"),
    ],
)  # fmt: skip
def test_names_tell_the_kind(archive, name, kind):
    write(archive / f"{name}.nii.gz", image())
    write(archive / "betamax_t1.nii.gz", image())
    found, rows = scan(archive)
    assert (names(rows), found["skipped"]) == (["betamax_t1.nii.gz"], {kind: 1})


@pytest.mark.parametrize(
    ("sidecar", "kind"),
    [
        ({"Type": "Brain"}, "label map"), ({"Atlas": "Yeo"}, "label map"), ({"IntentCode": 5}, "statistics"),
        ({"Intent": "label"}, "label map"), ({"Units": "rad"}, "phase"), ({"Units": "Hz"}, "fieldmap"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"]}, "parametric map"),
        ({"RawImage": False}, "derived"), ({"Modality": "CT"}, "non_mr"),
    ],
)  # fmt: skip
def test_sidecars_tell_the_kind(archive, sidecar, kind):
    write(archive / "a.nii.gz", image())
    write(archive / "b.nii.gz", image())
    (archive / "b.json").write_text(json.dumps(sidecar))
    found, rows = scan(archive)
    assert (names(rows), found["skipped"]) == (["a.nii.gz"], {kind: 1, "no image": 1})


@pytest.mark.parametrize(
    ("spacing", "unit", "expected"),
    [
        ((300, 300, 600), "micron", (0.6, 0.3, 0.3)),
        ((0.002, 0.002, 0.004), "meter", (4.0, 2.0, 2.0)),
        ((2, 2, 4), "mm", (4.0, 2.0, 2.0)),
        ((2, 2, 4), 0, (4.0, 2.0, 2.0)),
    ],
)
def test_units_of_space(archive, spacing, unit, expected):
    write(archive / "a.nii.gz", image(), np.diag([*spacing, 1.0]), units=(unit, "msec"))
    _, (row,) = scan(archive)
    np.testing.assert_allclose(read_volume(row).spacing_mm, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("spacing", "unit", "likely"),
    [
        ((300, 300, 600), 0, "likely micrometres"),
        ((0.002, 0.002, 0.004), 0, "likely metres"),
        ((2, 2, 4), "meter", "states metres, but the numbers are likely millimetres"),
        ((1e-8, 1e-8, 1e-8), "mm", "correct the header"),
    ],
)
def test_implausible_spacing_is_refused_with_the_likely_reason(archive, spacing, unit, likely):
    path = write(archive / "a.nii.gz", image(), np.diag([*spacing, 1.0]), units=(unit, "sec"))
    found, _ = scan(archive, status=2)
    [(_, why)] = found["unreadable"]
    assert likely in why
    with pytest.raises(VolumeError, match=likely):
        read_volume(path)


def test_headers_as_nibabel_repairs_them(archive):
    oblique = np.array([[-1.9, 0.3, 0.2, 10], [0.3, 1.9, -0.4, 20], [0.2, 0.4, 3.9, -30], [0, 0, 0, 1.0]])
    write(archive / "oblique.nii", image(), oblique)
    write(archive / "nifti2.nii.gz", image(), kind=nib.Nifti2Image)
    write(archive / "pair.hdr", image(), kind=nib.Nifti1Pair)
    write(archive / "slope0.nii", image(), scl_slope=0.0)
    negative = bytearray(write(archive / "negative.nii", image()).read_bytes())
    negative[80:84] = np.float32(-2).tobytes()
    negative[252:256] = np.array([1, 0], "<i2").tobytes()  # qform alone
    (archive / "negative.nii").write_bytes(negative)
    nan = bytearray((archive / "slope0.nii").read_bytes())
    nan[112:116] = np.float32(np.nan).tobytes()
    (archive / "nan.nii").write_bytes(nan)
    found, rows = scan(archive)
    assert names(rows) == ["nan.nii", "negative.nii", "nifti2.nii.gz", "oblique.nii", "pair.hdr", "slope0.nii"]
    assert found["unreadable"] == []
    assert np.array_equal(read_volume(archive / "pair.img").magnitude, read_volume(archive / "pair.hdr").magnitude)
    (archive / "pair.img").unlink()
    with pytest.raises(VolumeError, match=r"pair\.img beside it"):
        read_volume(archive / "pair.hdr")


def test_singular_affines_are_told(archive):
    data = bytearray(write(archive / "a.nii", image()).read_bytes())
    data[252:256] = np.array([1, 1], "<i2").tobytes()
    data[280:328] = bytes(48)
    (archive / "a.nii").write_bytes(data)
    data[252:254] = bytes(2)
    (archive / "b.nii").write_bytes(data)
    notes = {path.name: note for path, note in scan_folder(archive, probe, salt="s").notes}
    assert "its sform is singular, so its qform is used" in notes["a.nii"]
    assert "a singular sform" in notes["b.nii"]
    np.testing.assert_allclose(read_volume(archive / "a.nii").spacing_mm, (4, 2, 2))


def test_values_that_a_build_refuses_are_refused_by_the_scan(archive):
    nan = image().astype(np.float32)
    nan[3, 3, 3] = np.nan
    write(archive / "nan.nii.gz", nan)
    write(archive / "negative.nii.gz", (image() - 300).clip(-60, None).astype(np.float32))
    frames = image(shape=(24, 20, 12, 3)).astype(np.float32)
    frames[..., 1] = nan
    write(archive / "frames.nii.gz", frames)
    packed = write(archive / "cut.nii.gz", image()).read_bytes()
    (archive / "cut.nii.gz").write_bytes(packed[: len(packed) // 2])
    flipped = bytearray(packed)
    flipped[-7] ^= 1
    (archive / "checksum.nii.gz").write_bytes(flipped)
    found, rows = scan(archive)
    assert [(Path(row.path).name, row.frame) for row in rows] == [("frames.nii.gz", 0), ("frames.nii.gz", 2)]
    told = {Path(path).name: why for path, why in found["unreadable"]}
    assert set(told) == {"nan.nii.gz", "negative.nii.gz", "frames.nii.gz", "cut.nii.gz", "checksum.nii.gz"}
    assert "1 voxels are not finite" in told["nan.nii.gz"] and "frame 1" in told["frames.nii.gz"]
    assert "truncated or damaged" in told["cut.nii.gz"]
    ringing = image().astype(np.float32)
    ringing[0, 0, 0] = -3
    write(archive.parent / "ringing" / "a.nii", ringing)
    result = scan_folder(archive.parent / "ringing", probe, salt="s")
    assert [note for _, note in result.notes] == [
        "has a few values below zero, which a build takes with --negative clip"
    ]


def test_a_long_compressed_file_that_is_cut_short_is_found_without_unpacking_it(archive, monkeypatch):
    monkeypatch.setattr("rephase.readers.nifti.survey._MOST_BYTES", 1000)
    path = write(archive / "a.nii.gz", image(shape=(24, 20, 12, 6)))
    assert len(scan(archive)[1]) == 6
    data = path.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(data)[:20000]) + gzip.compress(gzip.decompress(data)[20000:]))
    assert len(scan(archive)[1]) == 6  # two members, as parallel programs write them
    path.write_bytes(data[:-2000])
    assert "truncated" in scan(archive, status=2)[0]["unreadable"][0][1]


def test_planes_that_no_header_states_and_thin_stacks_are_told(archive):
    isotropic = np.diag([1.0, 1.0, 1.0, 1.0])
    write(archive / "a.nii.gz", image(shape=(20, 24, 28)), isotropic)
    write(archive / "b.nii.gz", image(shape=(20, 24, 28)), isotropic)
    orientation = [0.0, 1, 0, 0, 0, -1]  # sagittal
    (archive / "b.json").write_text(json.dumps({"ImageOrientationPatientDICOM": orientation}))
    write(archive / "thin.nii.gz", image(shape=(12, 24, 20)))
    found, rows = scan(archive)
    notes = {Path(path).name: note for path, note in found["notes"]}
    assert set(notes) == {"a.nii.gz", "thin.nii.gz"}
    assert "takes axial planes" in notes["a.nii.gz"] and "24 x 12 pixels" in notes["thin.nii.gz"]
    assert [(row.num_slices, row.slice_axis) for row in rows] == [(28, None), (20, 0), (20, None)]
    status, text = run(["plan", str(archive.parent / "archive.csv"), str(archive.parent / "c.zarr"), "--phase", "zero"])
    assert status == 0 and "takes axial planes" in text


def test_sidecars_of_bids_apply_below_their_folder_and_people_stay_unknown(archive):
    (archive / "dataset_description.json").write_text("{}")
    (archive / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t34\tF\nsub-02\t41\tM\n")
    (archive / "task-rest_bold.json").write_text(json.dumps({"EchoTime": 0.03, "MagneticFieldStrength": 3}))
    (archive / "sub-02").mkdir()
    (archive / "sub-02" / "sub-02_task-rest_bold.json").write_text(json.dumps({"EchoTime": 0.035}))
    (archive / "task-move_bold.json").write_text(json.dumps({"EchoTime": 0.05}))
    for subject in ("01", "02"):
        for session in ("a", "b"):
            name = f"sub-{subject}_ses-{session}_task-rest_bold.nii.gz"
            write(archive / f"sub-{subject}" / f"ses-{session}" / "func" / name, image())
    write(archive / "derivatives" / "clean" / "sub-01" / "sub-01_task-rest_desc-x_bold.nii.gz", image())
    _, rows = scan(archive)
    told = {Path(row.path).name: (row.te_ms, row.field_t) for row in rows}
    assert told.pop("sub-01_task-rest_desc-x_bold.nii.gz") == (30, 3)
    assert sorted(told.values()) == [(30, 3)] * 2 + [(35, 3)] * 2
    assert len({row.subject_id for row in rows}) == 2
    columns = (archive.parent / "archive.csv").read_text().splitlines()[0].split(",")
    assert not {"age", "sex"} & set(columns)


def test_voxels_of_no_size_are_refused(archive):
    write(archive / "x_T1w.nii", image())
    raw = bytearray((archive / "x_T1w.nii").read_bytes())
    struct.pack_into("<hh", raw, 252, 0, 0)
    struct.pack_into("<3f", raw, 80, 0, 0, 0)
    (archive / "x_T1w.nii").write_bytes(raw)
    write(archive / "y_T1w.nii", image())
    found, rows = scan(archive)
    assert names(rows) == ["y_T1w.nii"] and "voxels of 0 mm" in str(found["unreadable"])


def test_every_file_that_is_no_image_is_told(archive):
    write(archive / "head_T1w.nii.gz", image())
    others = {
        "x.mha": "MetaImage", "x.REC": "PAR/REC",
        "x+orig.HEAD": "AFNI", "lh.pial": "surface", "x.gii": "surface", "x.dscalar.nii": "CIFTI", "t.trk": "tracts",
        "meas_MID00042_FID1_gre.dat": "twix", "P12345.7": "GE raw", "svs.rda": "spectroscopy",
        "x.mat": "MATLAB", "all.tar.gz": "archive", "x.nii.bz2": "another program", "x.png": "picture",
    }  # fmt: skip
    for name in others:
        (archive / name).write_bytes(b"\1" * 2000)
    (archive / "noname1").write_bytes(b"NRRD0004\n" + bytes(2000))
    (archive / "noname2").write_bytes(b"some text of somebody" * 100)
    found, rows = scan(archive)
    assert names(rows) == ["head_T1w.nii.gz"]
    told = {Path(path).name: why for path, _, why in found["passed"]}
    assert set(told) == {*others, "noname1", "noname2"} and found["unreadable"] == []
    for name, word in {**others, "noname1": "NRRD"}.items():
        assert word in told[name], told[name]
        with pytest.raises(VolumeError, match=word) as caught:
            read_volume(archive / name)
        assert caught.value.reason in ("unsupported", "unreadable") and "\n" not in str(caught.value)
    assert sum(found["skipped"].values()) == len(told)


def test_empty_files_and_contents_that_were_not_fetched_are_told(archive):
    write(archive / "sub-02_T1w.nii.gz", image())
    empty = ("a.nii.gz", "b.nii", "c.h5", "d.dcm", "e")
    for name in empty:
        (archive / name).touch()
    (archive / "annex.nii.gz").write_text("/annex/objects/MD5E-s9042012--0123456789abcdef.nii.gz\n")
    (archive / "lfs.h5").write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    (archive / "link.nii.gz").symlink_to("../.git/annex/objects/aa/bb/MD5E-s9/MD5E-s9.nii.gz")
    found, rows = scan(archive)
    assert names(rows) == ["sub-02_T1w.nii.gz"]
    assert (found["skipped"], found["unreadable"]) == ({"empty": 5, "not fetched": 3}, [])
    for name in empty[:4]:
        with pytest.raises(VolumeError, match="is empty"):
            read_volume(archive / name)
    for name in ("annex.nii.gz", "lfs.h5", "link.nii.gz"):
        with pytest.raises(VolumeError, match=r"not fetched.*git annex get, git lfs pull"):
            read_volume(archive / name)


def test_hdf5_of_others_is_told_for_what_it_is(archive):
    write(archive / "a.nii.gz", image())
    with h5py.File(archive / "raw.h5", "w") as file:
        file["dataset/xml"] = np.array([b"<ismrmrdHeader/>"])
        file["dataset/data"] = np.zeros(4, [("head", "i4"), ("data", "f4")])
    with h5py.File(archive / "matlab.h5", "w", userblock_size=512) as file:
        file["img"] = np.zeros((4, 8, 8), [("real", "f4"), ("imag", "f4")])
    with h5py.File(archive / "minc.h5", "w") as file:
        file.create_group("minc-2.0")
    with h5py.File(archive / "stuff.h5", "w") as file:
        file["volume"] = image()
        file["away"] = h5py.ExternalLink("pipe.h5", "/v")
    found, _ = scan(archive)
    told = {Path(path).name: (kind, why) for path, kind, why in found["passed"]}
    assert {name: kind for name, (kind, _) in told.items()} == {
        "raw.h5": "raw data", "matlab.h5": "MATLAB", "minc.h5": "other image format", "stuff.h5": "other image format",
    }  # fmt: skip
    assert "ISMRMRD" in told["raw.h5"][1] and "volume (24, 20, 12)" in told["stuff.h5"][1]
    with pytest.raises(VolumeError, match="ISMRMRD raw data"):
        read_volume(archive / "raw.h5")
    assert read_volume(archive / "stuff.h5", dataset="volume").magnitude.shape == (24, 20, 12)


def test_names_of_every_sort(archive):
    for name in ("a b.nii.gz", "Kopf ü é.nii.gz", "頭.nii", "T1.nii", "t1.nii", "x'y\"z,.nii"):
        write(archive / name, image())
    write(archive / ".git" / "annex" / "objects" / "x.nii", image())
    (archive / "._T1.nii").write_bytes(b"\0\5\x16\7" + bytes(4000))
    (archive / ".DS_Store").write_bytes(bytes(100))
    (archive / "loop").symlink_to(archive)
    (archive / "same.nii").symlink_to("T1.nii")
    os.mkfifo(archive / "pipe.nii")
    found, rows = scan(archive)
    assert len(rows) == 7 and len({row.volume_id for row in rows}) == 7
    assert (found["skipped"], found["unreadable"]) == ({"no image": 4}, [])


def test_every_file_is_opened_once(archive, monkeypatch):
    for number in range(3):
        save(classic(number), archive / "series" / f"{number}")
        write(archive / f"sub-0{number}_T1w.nii.gz", image())
        (archive / f"sub-0{number}_T1w.json").write_text("{}")
    write(archive / "sub-00_bold.nii", image(shape=(24, 20, 12, 4)))
    with h5py.File(archive / "a.h5", "w") as file:
        file["reconstruction_rss"] = image().astype(np.float32)
    (archive / "x.mha").write_bytes(bytes(2000))
    probe([])
    opened: Counter[str] = Counter()
    headers = []
    read_header = index.read_header
    monkeypatch.setattr(
        index, "read_header", lambda file: headers.append(int(Path(file.path).name)) or read_header(file)
    )

    counting = [True]

    def note(event, arguments):
        if counting and event == "open" and str(arguments[0]).startswith(str(archive)):
            opened[str(arguments[0])] += 1

    sys.addaudithook(note)  # of Python's own opens; no hook can be removed
    try:
        result = scan_folder(archive, probe, salt="s")
    finally:
        counting.clear()
    assert len(result.volumes) == 3 + 4 + 1 + 1
    files = {str(path) for path in archive.rglob("*") if path.is_file()}
    # dcm2niix reads the slices of a series again; their headers are read once
    assert sorted(headers) == [0, 1, 2]
    assert {path: count for path, count in opened.items() if count > 1 and "series" not in path} == {}
    assert files - set(opened) == {str(archive / "x.mha")}


def test_json_is_printed_whatever_happens(tmp_path):
    (tmp_path / "empty").mkdir()
    for words, part in (
        (["manifest", "scan", str(tmp_path / "empty"), "-o", str(tmp_path / "m.csv")], "no magnitude volume"),
        (["manifest", "scan", str(tmp_path / "gone"), "-o", str(tmp_path / "m.csv")], "not a directory"),
        (["manifest", "check", str(tmp_path / "gone.csv")], "gone.csv"),
        (["status", str(tmp_path / "gone.zarr")], "gone.zarr"),
    ):
        status, text = run([*words, "--json"])
        assert status == 2 and part in json.loads(text)["error"][0]


def test_volumes_are_chosen_by_path_contrast_and_frame(archive):
    write(archive / "sub-01" / "func" / "sub-01_task-rest_bold.nii.gz", image(shape=(24, 20, 12, 8)))
    for subject in ("sub-01", "sub-02"):
        write(archive / subject / "anat" / f"{subject}_T1w.nii.gz", image())
        write(archive / subject / "anat" / f"{subject}_T2w.nii.gz", image())
    bold = "sub-01_task-rest_bold.nii.gz"
    for words, chosen in (
        (["--frames", "first"], [(bold, 0), ("sub-01_T1w.nii.gz", None)]),
        (["--frames", "3"], [(bold, 0), (bold, 2), (bold, 5), ("sub-01_T1w.nii.gz", None)]),
        (["--include", "sub-02/*"], [("sub-02_T1w.nii.gz", None), ("sub-02_T2w.nii.gz", None)]),
        (["--include", "*_T1w*", "--exclude", "*sub-02*"], [("sub-01_T1w.nii.gz", None)]),
        (["--contrast", "T2", "--contrast", "PD"], [("sub-01_T2w.nii.gz", None), ("sub-02_T2w.nii.gz", None)]),
    ):
        found, rows = scan(archive, *words)
        taken = [(Path(row.path).name, row.frame) for row in rows]
        assert set(chosen) <= set(taken) and found["not_selected"] == 12 - len(rows)
        assert words[0] == "--frames" or sorted(taken) == chosen
        assert [frame for name, frame in taken if name == bold] == [frame for name, frame in chosen if name == bold]


def test_splits_are_by_subject_and_do_not_depend_on_other_subjects(archive):
    for number in range(40):
        for contrast in ("T1w", "T2w"):
            write(archive / f"sub-{number:02d}" / f"sub-{number:02d}_{contrast}.nii", image(shape=(16, 16, 3)))
    _, rows = scan(archive, "--split", "train=0.5,val=0.25,test=0.25")
    splits = {}
    for row in rows:
        splits.setdefault(row.subject_id, set()).add(row.split)
    assert all(len(found) == 1 for found in splits.values())
    counts = Counter(found for (found,) in splits.values())
    # ids are made with a new salt each time: 40 subjects are far from any fixed order of the counts
    assert set(counts) == {"train", "val", "test"} and 6 <= counts["train"] <= 34
    for number in range(20):
        for path in (archive / f"sub-{number:02d}").iterdir():
            path.unlink()
    _, fewer = scan(archive, "--split", "train=0.5,val=0.25,test=0.25")
    assert {row.subject_id: row.split for row in fewer}.items() <= {row.subject_id: row.split for row in rows}.items()


@pytest.mark.parametrize("text", ["train=0.5", "train=2,val=-1", "dev=1", "train", "train=0.5,train=0.5", ""])
def test_wrong_splits_are_refused(archive, text, capsys):
    assert main(["manifest", "scan", str(archive), "-o", str(archive / "m.csv"), "--split", text]) == 2
    assert "expected" in capsys.readouterr().err
