import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from forks import python
from phantom_corpus import make_corpus

from rephase.cli import main
from rephase.corpus.index_writer import write_index
from rephase.corpus.store import CorpusStore
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError
from rephase.exports.attributes import fastmri_acquisition
from rephase.exports.export import ExportOptions, export_corpus
from rephase.exports.folder import ExportFolder

ODD = {"seed": 1, "height": 15, "width": 13}
COILS = {"seed": 2, "height": 20, "width": 18, "coils": 3}


@pytest.fixture
def corpus(tmp_path):
    """Single-coil of even and odd sizes, multi-coil, a replica; with and without split, field and echo time."""
    root = tmp_path / "c.zarr"
    volumes = {
        "a.1": {},
        "odd": ODD | {"attributes": {"split": "val", "acquisition": "CORPD", "contrast": "PD", "field_t": None}},
        "coils": COILS | {"attributes": {"split": None, "te_ms": 12.5, "audit": {}}},
        "a.1@1": {"seed": 3},
    }
    store = make_corpus(root, **volumes)
    write_index(store, list(volumes))
    return root


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def values_of(root, name):
    """What plain zarr reads of a volume."""
    import zarr

    group = zarr.open_group(root, mode="r")[f"volumes/{name}"]
    return {key: array[...] for key, array in group.arrays()}


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_fastmri_files_have_every_array_and_the_folder_nothing_else(tmp_path, corpus, compression):
    out = tmp_path / "out"
    summary = export_corpus(corpus, out, ExportOptions(compression=compression))
    assert (summary.written, summary.exit_status) == (4, 0)
    assert {path.name for path in out.iterdir()} == {"a.1.h5", "a.1@1.h5", "odd.h5", "coils.h5"}
    assert {path.name for path in tmp_path.iterdir()} <= {"c.zarr", "c.zarr.run", "out"}
    for name in ("a.1", "a.1@1", "odd", "coils"):
        stored = values_of(corpus, name)
        with h5py.File(out / f"{name}.h5") as file:
            assert set(file) == {*stored, "ismrmrd_header"}
            for key, values in stored.items():
                np.testing.assert_array_equal(file[key][...], values)
                assert file[key].dtype == values.dtype
                assert file[key].compression == (None if compression == "none" else "gzip")
            assert file["ismrmrd_header"].shape == ()
    with h5py.File(out / "coils.h5") as file:
        assert set(file) == {"kspace", "reconstruction_rss", "ismrmrd_header"}


def test_attributes_are_of_the_types_that_hdf5_and_collate_know(tmp_path, corpus):
    export_corpus(corpus, tmp_path / "out")
    receipt = CorpusStore.open(corpus).receipt("odd")
    with h5py.File(tmp_path / "out/odd.h5") as file:
        found = dict(file.attrs)
    assert found["acquisition"] == "CORPD_FBK"
    assert (found["max"], found["norm"], found["patient_id"]) == (receipt["max"], receipt["norm"], "s1")
    assert (found["split"], found["contrast"], found["anatomy"]) == ("val", "PD", "")
    assert np.isnan(found["field_t"])
    assert found["spacing_mm"].tolist() == receipt["spacing_mm"]
    assert found["affine"].tolist() == receipt["affine"]
    assert json.loads(found["audit"]) == receipt["audit"]
    assert found["source_sha256"] == receipt["source_sha256"]
    assert not any(key in found for key in ("encoding_size", "recon_size", "padding_left", "padding_right"))


def test_acquisition_names():
    names = {"AXT1": "AXT1", "AXFLAIR": "AXFLAIR", "AX": "AX", "CORPD": "CORPD_FBK", "SAG": "SAG_FBK", "T1": "T1_FBK"}
    assert {name: fastmri_acquisition(name) for name in names} == names
    assert fastmri_acquisition("CORPDFS_FBK") == "CORPDFS_FBK"


def test_a_second_run_writes_changed_volumes_only(tmp_path, corpus):
    out = tmp_path / "out"
    for kind in ("fastmri", "bart", "ismrmrd"):
        options = ExportOptions(file_format=kind)
        folder = out / kind
        export_corpus(corpus, folder, options)
        before, times = files_of(folder), {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        again = export_corpus(corpus, folder, options)
        assert (again.written, again.skipped) == (0, 4)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
        assert files_of(folder) == before
    store = CorpusStore.open(corpus)
    store.discard("odd")
    from phantom_corpus import make_arrays, make_attributes

    arrays = make_arrays(**(ODD | {"seed": 9}))
    store.commit_volume("odd", arrays, make_attributes(arrays, name="odd"))
    write_index(store, [])
    for kind in ("fastmri", "bart", "ismrmrd"):
        again = export_corpus(corpus, out / kind, ExportOptions(file_format=kind))
        assert (again.written, again.skipped) == (1, 3)
    with h5py.File(out / "fastmri/odd.h5") as file:
        np.testing.assert_array_equal(file["kspace"][...], arrays["kspace"])


def test_other_options_make_files_stale(tmp_path, corpus):
    out = tmp_path / "out"
    export_corpus(corpus, out)
    assert export_corpus(corpus, out, ExportOptions(compression="gzip")).written == 4
    assert export_corpus(corpus, out, ExportOptions(compression="gzip")).written == 0


@pytest.mark.parametrize("kind", ["fastmri", "ismrmrd"])
def test_a_truncated_file_is_written_again(tmp_path, corpus, kind):
    out = tmp_path / "out"
    options = ExportOptions(file_format=kind)
    export_corpus(corpus, out, options)
    data = (out / "a.1.h5").read_bytes()
    for size in (0, 100, len(data) - 1):
        (out / "a.1.h5").write_bytes(data[:size])
        assert (export_corpus(corpus, out, options).written, size) == (1, size)
    with h5py.File(out / "a.1.h5"):
        pass


def test_filters_and_splits(tmp_path, corpus):
    def names(folder):
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.h5"))

    export_corpus(corpus, tmp_path / "val", ExportOptions(splits=("val",)))
    assert names(tmp_path / "val") == ["odd.h5"]
    export_corpus(corpus, tmp_path / "t1", ExportOptions(contrasts=("T1",)))
    assert names(tmp_path / "t1") == ["a.1.h5", "a.1@1.h5", "coils.h5"]
    export_corpus(corpus, tmp_path / "one", ExportOptions(volumes=("coils",)))
    assert names(tmp_path / "one") == ["coils.h5"]
    export_corpus(corpus, tmp_path / "split", ExportOptions(by_split=True))
    assert names(tmp_path / "split") == ["none/coils.h5", "train/a.1.h5", "train/a.1@1.h5", "val/odd.h5"]
    assert export_corpus(corpus, tmp_path / "split", ExportOptions(by_split=True)).skipped == 4


def test_wrong_requests_start_nothing(tmp_path, corpus):
    out = tmp_path / "out"
    for options, word in (
        (ExportOptions(splits=("tset",)), "tset"),
        (ExportOptions(volumes=("odd", "even")), "even"),
        (ExportOptions(file_format="nifti"), "nifti"),
        (ExportOptions(file_format="bart", compression="gzip"), "gzip"),
    ):
        with pytest.raises(RequestError, match=word):
            export_corpus(corpus, out, options)
    with pytest.raises(RequestError, match="no corpus"):
        export_corpus(tmp_path / "nowhere", out)
    with pytest.raises(RequestError, match="is a URL"):
        export_corpus(corpus, "s3://bucket/out")
    assert not out.exists()
    with pytest.raises(RequestError, match="inside the corpus"):
        export_corpus(corpus, corpus / "volumes/out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="is a file"):
        export_corpus(corpus, tmp_path / "file")
    export_corpus(corpus, out)
    with pytest.raises(RequestError, match=r"a\.1\.h5"):
        export_corpus(corpus, out, ExportOptions(by_split=True))


def test_foreign_files_are_not_touched(tmp_path, corpus):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match=r"notes\.txt"):
        export_corpus(corpus, out)
    (out / "notes.txt").unlink()
    with h5py.File(out / "odd.h5", "w") as file:
        file["kspace"] = np.ones(3)
    before = (out / "odd.h5").read_bytes()
    summary = export_corpus(corpus, out)
    assert (summary.written, summary.exit_status) == (3, 1)
    assert summary.failed["odd"][0] == "changed"
    assert (out / "odd.h5").read_bytes() == before
    (tmp_path / "b" / "odd").mkdir(parents=True)
    summary = export_corpus(corpus, tmp_path / "b", ExportOptions(file_format="bart"))
    assert summary.failed["odd"][0] == "changed"


def test_a_damaged_volume_does_not_stop_the_others(tmp_path, corpus):
    shard = corpus / "volumes/odd/kspace/c.0.0.0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    for kind in ("fastmri", "bart", "ismrmrd"):
        summary = export_corpus(corpus, tmp_path / kind, ExportOptions(file_format=kind))
        assert (summary.written, summary.exit_status) == (3, 1)
        reason, message = summary.failed["odd"]
        assert reason == "unreadable"
        assert "odd" in message
        assert "\n" not in message
        assert len(list((tmp_path / kind).iterdir())) == 3
        assert not (tmp_path / f"{kind}.partial").exists()


def test_the_command_and_its_exit_status(tmp_path, corpus, capsys):
    out = str(tmp_path / "out")
    assert main(["export", str(corpus), out, "--split", "val,train", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["written"], answer["exit_status"]) == (3, 0)
    assert main(["export", str(corpus), out]) == 0
    assert "4 of 4 volumes: 1 written" in capsys.readouterr().out
    assert main(["export", str(corpus), out, "--format", "nifti"]) == 2
    assert main(["export", str(tmp_path / "none.zarr"), out]) == 2
    shutil.rmtree(corpus / "volumes/coils/kspace")
    assert main(["export", str(corpus), str(tmp_path / "other")]) == 1
    assert "coils: unreadable" in capsys.readouterr().out


def test_one_export_at_a_time(tmp_path, corpus):
    out = tmp_path / "out"
    with ExportFolder.locked(out), pytest.raises(RequestError, match="locked"):
        export_corpus(corpus, out)
    assert export_corpus(corpus, out).written == 4


def test_what_a_killed_run_left_is_removed(tmp_path, corpus):
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "torn").write_bytes(b"x")
    (partial / "folder").mkdir()
    (partial / "folder" / "kspace.cfl").write_bytes(b"x")
    export_corpus(corpus, tmp_path / "out")
    assert not partial.exists()
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_an_interrupt_keeps_what_is_done(tmp_path, corpus):
    def stopping(wanted):
        for number, volume in enumerate(wanted):
            if number == 2:
                raise KeyboardInterrupt
            yield volume

    out = tmp_path / "out"
    summary = export_corpus(corpus, out, progress=stopping)
    assert (summary.written, summary.interrupted, summary.exit_status) == (2, True, 130)
    assert len(list(out.iterdir())) == 2
    assert not (tmp_path / "out.partial").exists()
    assert export_corpus(corpus, out).skipped == 2


def test_ctrl_c_in_the_middle_of_a_file(tmp_path, corpus, capsys, monkeypatch):
    """A real signal, when the second volume is written and not yet renamed."""
    from rephase.exports import fastmri

    seen = []

    def interrupted(volume, *arguments):
        write(volume, *arguments)
        seen.append(volume.name)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    write = fastmri.write
    monkeypatch.setattr(fastmri, "write", interrupted)
    out = tmp_path / "out"
    assert main(["export", str(corpus), str(out)]) == 130
    assert "to resume: rephase export" in capsys.readouterr().out
    assert [path.name for path in out.iterdir()] == ["a.1.h5"]
    assert not (tmp_path / "out.partial").exists()
    assert main(["export", str(corpus), str(out)]) == 0
    assert "3 written" in capsys.readouterr().out


def test_relative_paths_and_odd_names(tmp_path, corpus, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "c.zarr", "x/../a folder/größe"]) == 0
    assert len(list((tmp_path / "a folder/größe").iterdir())) == 4
    assert {path.name for path in (tmp_path / "a folder").iterdir()} == {"größe"}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["export", "../c.zarr", "."]) == 0
    assert len(list(Path().iterdir())) == 4


KILLED = """
import os, signal, sys
from rephase.exports import {kind} as kind
from rephase.exports.export import ExportOptions, export_corpus
write = kind.write
def dying(volume, *arguments):
    write(volume, *arguments)
    if volume.name != "a.1":
        os.kill(os.getpid(), signal.SIGKILL)
kind.write = dying
export_corpus(sys.argv[1], sys.argv[2], ExportOptions(file_format="{kind}"))
"""


@pytest.mark.parametrize("kind", ["fastmri", "bart", "ismrmrd"])
def test_a_killed_run_leaves_only_whole_volumes(tmp_path, corpus, kind):
    """Killed when the second volume is written and not yet renamed: the folder shows the first alone."""
    out = tmp_path / "out"
    code = KILLED.format(kind=kind)
    done = python(code, str(corpus), str(out))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(out.iterdir())) == 1
    summary = export_corpus(corpus, out, ExportOptions(file_format=kind))
    assert (summary.skipped, summary.written) == (1, 3)
    assert not (tmp_path / "out.partial").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    options = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(options, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("kind", ["fastmri", "bart", "ismrmrd"])
def test_a_full_disk_is_one_line_and_no_torn_file(tmp_path, corpus, small_disk, kind):
    """In a process of its own: HDF5 crashes a process at its end after a write that failed."""
    filling = small_disk / "filling"
    filling.write_bytes(bytes(2**20 - 24 * 1024))
    out = small_disk / "out"
    command = [sys.executable, "-m", "rephase.cli", "export", str(corpus), str(out), "--format", kind]
    full = subprocess.run(command, check=False, capture_output=True, text=True)
    assert full.returncode == 1, full.stderr
    assert full.stderr == ""
    assert "the disk is full" in full.stdout
    assert "to resume: rephase export" in full.stdout
    assert not (small_disk / "out.partial").exists()
    for path in out.iterdir():
        assert path.is_dir() or h5py.is_hdf5(path)
    filling.unlink()
    assert main(command[3:]) == 0
    assert len(list(out.iterdir())) == 4


def test_an_export_is_a_source_again(tmp_path, corpus):
    """Scan, then read: magnitude, sizes, spacing, field and echo time come back."""
    from rephase.manifests.parse import read_manifest
    from rephase.manifests.scan import scan_folder
    from rephase.manifests.write import write_manifest
    from rephase.readers.registry import probe, read_volume

    out = tmp_path / "out"
    export_corpus(corpus, out)
    result = scan_folder(out, probe, salt="s")
    write_manifest(result, tmp_path / "m.csv")
    rows = {Path(row.path).stem: row for row in read_manifest(tmp_path / "m.csv")}
    assert set(rows) == {"a.1", "a.1@1", "odd", "coils"}
    for name, row in rows.items():
        stored, receipt = values_of(corpus, name), CorpusStore.open(corpus).receipt(name)
        target = stored.get("reconstruction_esc", stored.get("reconstruction_rss"))
        volume = read_volume(row)
        np.testing.assert_array_equal(volume.magnitude, target)
        np.testing.assert_allclose(volume.spacing_mm, receipt["spacing_mm"], rtol=1e-12)
        assert (volume.field_t, volume.te_ms) == (receipt["field_t"], receipt["te_ms"])
        assert volume.contrast == receipt["contrast"]


def test_loader_tuples_equal_what_is_in_the_files(tmp_path, corpus):
    """The rules of `fastmri.data.SliceDataset`, written down here; test_conformance.py runs the class itself."""
    export_corpus(corpus, tmp_path / "out")
    for kspace, _, target, attributes, name, number in KSpaceSlices(corpus):
        with h5py.File(tmp_path / "out" / f"{name}.h5") as file:
            np.testing.assert_array_equal(file["kspace"][number], kspace)
            key = "reconstruction_esc" if kspace.ndim == 2 else "reconstruction_rss"
            np.testing.assert_array_equal(file[key][number], target)
            assert file.attrs["max"] == attributes["max"]
