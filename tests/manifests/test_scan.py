import os
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from paths import SHARED

from rephase.manifests.header import Probed, SeriesHeader
from rephase.manifests.parse import read_manifest
from rephase.manifests.scan import Lost, scan_folder, walk
from rephase.manifests.write import write_manifest
from rephase.readers.registry import describe_row, probe, read_volume


def header_of(path, kind="magnitude", **facts):
    facts = {"series_key": str(path), "num_slices": 3, "height": 8, "width": 9} | facts
    return SeriesHeader(path=path, format="nifti", kind=kind, **facts)


def probe_of(headers, unreadable=()):
    """Return a probe by which each file holds `headers` of its name."""

    headers = {Path(name).name: found for name, found in headers.items()}

    def probe_files(files):
        found = Probed()
        for file in files:
            found.headers.extend(replace(h, path=file) for h in headers.get(file.name, ()))
            found.unreadable.extend((file, "broken") for name in unreadable if name == file.name)
        return found

    return probe_files


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def scanned(tmp_path, headers, **arguments):
    touch(tmp_path / "data", *headers)
    result = scan_folder(tmp_path / "data", probe_of(headers), salt="s", **arguments)
    write_manifest(result, tmp_path / "m.csv")
    return result, list(read_manifest(tmp_path / "m.csv"))


def test_walk_is_sorted_and_survives_loops(tmp_path):
    touch(tmp_path, "b/2.x", "b/1.x", "a/deep/x", "c.x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    found = [file.relative_to(tmp_path).as_posix() for file in walk(tmp_path, Lost())]
    assert found == ["c.x", "a/deep/x", "b/1.x", "b/2.x"]


def test_unreadable_paths_are_reported(tmp_path):
    touch(tmp_path, "data/a")
    (tmp_path / "data" / "round").symlink_to("round")
    result = scan_folder(tmp_path / "data", probe_of({"a": [header_of("a")]}), salt="s")
    assert len(result.volumes) == 1
    [(path, why)] = result.unreadable
    assert path == tmp_path / "data" / "round" and "cannot be read" in why
    lost = Lost()
    assert list(walk(tmp_path / "gone", lost)) == []
    assert lost == Lost([(tmp_path / "gone", "the folder cannot be read (No such file or directory)")])


def test_a_manifest_that_cannot_be_written_leaves_no_part_of_it(tmp_path):
    touch(tmp_path, "data/a")
    (tmp_path / "m.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        write_manifest(scan_folder(tmp_path / "data", probe_of({"a": [header_of("a")]}), salt="s"), tmp_path / "m.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "m.csv"]


def test_only_magnitude_becomes_rows_and_the_rest_is_counted(tmp_path):
    headers = {
        "a": [header_of("a", te_ms=4.6, field_t=3.0, contrast="T1", echo=1), header_of("a", "phase")],
        "b": [header_of("b", "localizer"), header_of("b", "phase"), header_of("b", "non_mr")],
        "c": [header_of("c", series="1.2.3", frame=0, dataset="k", slice_axis=1, anatomy="brain")],
    }
    touch(tmp_path / "data", *headers, "d")
    result = scan_folder(tmp_path / "data", probe_of(headers, ["d"]), salt="s")
    assert result.skipped == {"localizer": 1, "non_mr": 1, "phase": 2}
    assert result.unreadable == [(tmp_path / "data" / "d", "broken")]
    assert write_manifest(result, tmp_path / "m.csv") == 2
    first, second = read_manifest(tmp_path / "m.csv")
    assert first.path == str(tmp_path / "data" / "a")
    assert (first.te_ms, first.field_t, first.contrast, first.echo, first.num_slices) == (4.6, 3.0, "T1", 1, 3)
    assert (second.series, second.frame, second.dataset, second.slice_axis) == ("1.2.3", 0, "k", 1)
    assert (second.anatomy, second.height, second.width) == ("brain", 8, 9)


def test_paths_are_relative_and_empty_columns_are_left_out(tmp_path):
    scanned(tmp_path, {"sub/a": [header_of("a")]})
    header, row = (tmp_path / "m.csv").read_text().splitlines()
    assert header == "volume_id,path,format,num_slices,height,width"
    assert row.split(",")[1] == "data/sub/a"
    result = scan_folder(tmp_path / "data", probe_of({"a": [header_of("a")]}), salt="s")
    (tmp_path / "out").mkdir()
    write_manifest(result, tmp_path / "out" / "m.csv")
    assert ",../data/sub/a," in (tmp_path / "out" / "m.csv").read_text()
    assert read_manifest(tmp_path / "out" / "m.csv")[0].path == str(tmp_path / "data" / "sub" / "a")


def test_ids_depend_on_salt_and_identity_alone(tmp_path):
    headers = {"a": [header_of("a", series_key="uid-1", subject_key="Doe^Jane"), header_of("a", series_key="uid-2")]}
    touch(tmp_path / "x", "a")
    touch(tmp_path / "y/deeper", "a")

    def ids(folder, salt):
        result = scan_folder(tmp_path / folder, probe_of(headers), salt=salt)
        return [(volume.volume_id, volume.subject_id) for volume in result.volumes]

    once = ids("x", "s")
    assert once == ids("y", "s")
    assert once != ids("x", "t")
    assert ids("x", None) != ids("x", None)
    (first, subject), (second, nobody) = once
    assert len({first, second, subject}) == 3
    assert nobody is None
    assert all(len(name) == 16 and set(name) <= set("0123456789abcdef") for name in (first, second, subject))


def test_ids_of_paths_do_not_depend_on_where_the_archive_lies(tmp_path):
    def ids(folder):
        touch(tmp_path / folder, "s/a", "s/b")
        found = {name: [header_of(name)] for name in "ab"}

        def by_path(files):
            return Probed([replace(found[f.name][0], path=f, series_key=str(f)) for f in files])

        return [volume.volume_id for volume in scan_folder(tmp_path / folder, by_path, salt="s").volumes]

    assert ids("here") == ids("there")
    assert len(set(ids("here"))) == 2


def test_copies_get_names_of_their_own_in_a_fixed_order(tmp_path):
    headers = {name: [header_of(name, series_key="same")] for name in ("a", "b", "c", "d")}
    result, rows = scanned(tmp_path, headers)
    names = [volume.volume_id for volume in result.volumes]
    assert len({name.lower() for name in names}) == len(rows) == 4
    assert names == [volume.volume_id for volume in scanned(tmp_path, headers)[0].volumes]
    assert names[1].startswith(names[0])


def test_pairs_name_the_phase_and_skip_volumes_without(tmp_path):
    headers = {
        "m1": [header_of("m1", pair_key="one", echo=1), header_of("m1", pair_key="two", echo=2)],
        "p1": [header_of("p1", "phase", pair_key="one")],
        "both": [header_of("both", pair_key="three"), header_of("both", "phase", pair_key="three")],
        "alone": [header_of("alone", pair_key="four"), header_of("alone2", pair_key=None)],
        "twice": [header_of("twice", pair_key="five"), *[header_of("twice", "phase", pair_key="five")] * 2],
        "raw": [header_of("raw", "kspace", pair_key="six")],
        "recon": [header_of("recon", pair_key="seven"), header_of("recon", "kspace", pair_key="seven")],
    }
    result, rows = scanned(tmp_path, headers, pairs=True)
    data = str(tmp_path / "data") + "/"
    assert [
        (row.path.removeprefix(data), (row.phase or "").removeprefix(data), (row.kspace or "").removeprefix(data))
        for row in rows
    ] == [("both", "both", ""), ("m1", "p1", ""), ("raw", "", "raw"), ("recon", "", "recon")]
    assert result.unpaired == 4
    without = scanned(tmp_path, headers)[1]
    assert len(without) == 7
    assert {(row.phase, row.kspace) for row in without} == {(None, None)}


def test_phases_are_named_only_where_names_leave_no_doubt(tmp_path):
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    data.mkdir()

    def write(phase, *names):
        values = rng.uniform(-np.pi, np.pi, (9, 8, 3)) if phase else rng.rayleigh(100, (9, 8, 3))
        for name in names:
            nib.Nifti1Image(values.astype(np.float32), np.eye(4)).to_filename(data / name)

    write(False, "s_magnitude1.nii", "s_magnitude2.nii", "a.nii", "a_mag.nii", "b.nii", "b.nii.gz", "f_magnitude1.nii")
    write(True, "s_phase1.nii", "s_phase2.nii", "a_ph.nii", "b_ph.nii", "f_phasediff.nii")
    result = scan_folder(data, probe, salt="s", pairs=True)
    assert {volume.header.path.name: volume.phase.name for volume in result.volumes} == {
        "s_magnitude1.nii": "s_phase1.nii", "s_magnitude2.nii": "s_phase2.nii"
    }  # fmt: skip
    assert result.unpaired == 5 and result.skipped == {"fieldmap": 1, "phase": 4}


def test_unwritable_names_and_dangling_links_are_listed(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    values = np.random.default_rng(0).rayleigh(100, (9, 8, 3)).astype(np.float32)
    odd = (" lead.nii", "nb\u00a0sp.nii", "zero\u200bwidth.nii", 'quo"te.nii')
    for name in odd:
        nib.Nifti1Image(values, np.eye(4)).to_filename(data / name)
    lost = ("new\nline.nii", os.fsdecode(b"bad\xff.nii"), "gone.nii")
    for name in lost[:2]:
        (data / name).write_bytes((data / odd[0]).read_bytes())
    (data / "gone.nii").symlink_to("nothing")
    result = scan_folder(data, probe, salt="s")
    write_manifest(result, tmp_path / "m.csv")
    assert sorted(Path(row.path).name for row in read_manifest(tmp_path / "m.csv")) == sorted(odd)
    assert {path.name for path, _ in result.unreadable} == set(lost)
    why = {path.name: text for path, text in result.unreadable}
    assert "link" in why["gone.nii"]
    assert all(read_volume(row).magnitude.shape[0] == 3 for row in read_manifest(tmp_path / "m.csv"))


def test_progress_hears_of_every_file(tmp_path):
    touch(tmp_path, "a/x", "b/x")
    heard = []
    scan_folder(tmp_path, probe_of({}), salt="s", progress=heard.append)
    assert heard == [tmp_path / "a" / "x", tmp_path / "b" / "x"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(NotADirectoryError, match="not a directory"):
        scan_folder(tmp_path / "none", probe_of({}), salt="s")


def test_an_archive_of_nifti_and_hdf5_becomes_a_manifest_that_can_be_read(tmp_path):
    rng = np.random.default_rng(0)
    data = tmp_path / "data" / "sub-01" / "anat"
    data.mkdir(parents=True)

    def write(name, values):
        nib.Nifti1Image(values.astype(np.float32), np.diag([-1.0, -1, 4, 1])).to_filename(data / name)

    write("sub-01_T2w.nii.gz", rng.rayleigh(100, (9, 8, 3)))
    write("sub-01_part-mag_T2starw.nii.gz", rng.rayleigh(100, (9, 8, 3)))
    write("sub-01_part-phase_T2starw.nii.gz", rng.uniform(-np.pi, np.pi, (9, 8, 3)))
    write("sub-01_bold.nii.gz", rng.rayleigh(100, (9, 8, 3, 2)))
    write("sub-01_desc-brain_mask.nii.gz", rng.rayleigh(100, (9, 8, 3)) > 100)
    write("binary.nii.gz", rng.rayleigh(100, (9, 8, 3)) > 100)
    (data / "text.nii.gz").write_text("no image")
    with h5py.File(data / "file1.h5", "w") as file:
        file["reconstruction_rss"] = rng.rayleigh(1e-4, (2, 8, 8)).astype(np.float32)
    result = scan_folder(tmp_path / "data", probe, salt="s")
    assert result.skipped == {"label map": 2, "phase": 1}
    assert [path.name for path, _ in result.unreadable] == ["text.nii.gz"]
    write_manifest(result, tmp_path / "m.csv")
    rows = list(read_manifest(tmp_path / "m.csv"))
    assert [(Path(row.path).name, row.frame, row.contrast) for row in rows] == [
        ("file1.h5", None, None),
        ("sub-01_T2w.nii.gz", None, "T2"),
        ("sub-01_bold.nii.gz", 0, "BOLD"),
        ("sub-01_bold.nii.gz", 1, "BOLD"),
        ("sub-01_part-mag_T2starw.nii.gz", None, "T2star"),
    ]
    assert len({row.subject_id for row in rows[1:]}) == 1
    for row in rows:
        volume = read_volume(row)
        assert volume.magnitude.shape == describe_row(row) == (row.num_slices, row.height, row.width)
    pairs = scan_folder(tmp_path / "data", probe, salt="s", pairs=True)
    assert [(volume.header.path.name, volume.phase.name) for volume in pairs.volumes] == [
        ("sub-01_part-mag_T2starw.nii.gz", "sub-01_part-phase_T2starw.nii.gz")
    ]


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the development data")
def test_development_data(tmp_path):
    result = scan_folder(SHARED / "magnitude", probe, salt="s")
    assert (result.skipped, result.unreadable) == ({"fieldmap": 1, "phase": 5}, [])
    sizes = [(v.header.num_slices, v.header.height, v.header.width) for v in result.volumes]
    assert sorted(sizes) == sorted(
        [(170, 256, 256), (96, 128, 128), (52, 55, 60), (11, 320, 320), (53, 80, 80), (53, 80, 80), (32, 64, 64)]
        + [(35, 64, 64)] * 9
    )
    pairs = scan_folder(SHARED / "complex" / "brain", probe, salt="s", pairs=True)
    assert len(pairs.volumes) == 5
    assert all(str(volume.phase) == str(volume.header.path).replace("_mag", "_phase") for volume in pairs.volumes)
