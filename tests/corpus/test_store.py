from __future__ import annotations

import hashlib
import json
import os
import signal
import warnings
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from forks import FORKS, python
from paths import TESTS
from phantom_corpus import ROOT_ATTRIBUTES, make_arrays, make_attributes, make_corpus
from storage_contract import check_storage

import rephase.corpus.layout
from rephase.corpus.decoding import ShardError, SliceReader
from rephase.corpus.layout import ArrayLayout, positive_zeros
from rephase.corpus.lease import Lease
from rephase.corpus.storage.open import open_run_folder, open_storage
from rephase.corpus.store import CorpusStore
from rephase.errors import RequestError, VolumeError


def snapshot(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def commit(root: str, name: str, seed: int, repeats: int) -> None:
    arrays = make_arrays(seed=seed)
    for _ in range(repeats):
        CorpusStore.open(root).commit_volume(name, arrays, make_attributes(arrays, name=name))


def test_plain_zarr_reads_every_array_and_attribute_without_a_warning(tmp_path):
    arrays = make_arrays(num_slices=4, coils=2)
    arrays["segmentation"] = np.arange(4 * 16 * 12).reshape(4, 16, 12).astype(np.uint8)
    arrays["sens_maps"] = arrays["kspace"][::-1].copy()
    arrays["mask"] = np.linspace(0, 1, 12, dtype=np.float32)
    store = CorpusStore.create(tmp_path / "c.zarr", ROOT_ATTRIBUTES)
    store.commit_volume("a.b_c-1@2", arrays, make_attributes(arrays, replica=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        root = zarr.open_group(tmp_path / "c.zarr", mode="r")
        assert {name for name, _ in root.members()} == {"index", "volumes"}
        assert root.attrs["format"] == 1
        assert root.attrs["recipe"] == ROOT_ATTRIBUTES["recipe"]
        members = dict(root.members(max_depth=None))
        group = root["volumes/a.b_c-1@2"]
        assert dict(group.attrs)["spacing_mm"] == [4.0, 1.0, 1.0]
        for name, values in arrays.items():
            stored = members[f"volumes/a.b_c-1@2/{name}"]
            assert stored.dtype == values.dtype
            assert stored.metadata.zarr_format == 3
            assert stored[:].tobytes() == values.tobytes()
    assert group["kspace"].chunks == (1, 2, 16, 12)
    assert group["kspace"].shards == (4, 2, 16, 12)
    assert np.isnan(group["kspace"].fill_value)
    assert np.isnan(group["reconstruction_rss"].fill_value)


def test_receipt_is_what_was_committed_and_checksums_match_the_files(tmp_path):
    arrays = make_arrays()
    attributes = make_attributes(arrays)
    store = CorpusStore.create(tmp_path / "c.zarr", ROOT_ATTRIBUTES)
    assert store.receipt("v") is None
    receipt = store.commit_volume("v", arrays, attributes)
    assert store.receipt("v") == receipt
    assert store.names() == ["v"]
    assert receipt["affine"] == attributes["affine"]
    assert receipt["arrays"]["kspace"] == {"shape": [3, 16, 12], "dtype": "complex64", "chunks_per_shard": 3}
    files = snapshot(tmp_path / "c.zarr/volumes/v")
    del files["zarr.json"]
    assert set(receipt["checksums"]) == set(files)
    assert receipt["checksums"] == {key: hashlib.sha256(data).hexdigest() for key, data in files.items()}


def test_equal_volumes_are_equal_bytes_in_two_corpora_and_other_values_are_not(tmp_path):
    for root in ("one", "two"):
        make_corpus(tmp_path / root, b={"seed": 2}, a={"seed": 1})
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    make_corpus(tmp_path / "three", b={"seed": 3}, a={"seed": 1})
    one, three = snapshot(tmp_path / "one"), snapshot(tmp_path / "three")
    assert {key for key in one if one[key] != three[key]} == {
        "volumes/b/kspace/c.0.0.0", "volumes/b/reconstruction_esc/c.0.0.0", "volumes/b/zarr.json"
    }  # fmt: skip


def test_a_large_volume_is_several_shards_of_whole_slices(tmp_path, monkeypatch):
    monkeypatch.setattr(rephase.corpus.layout, "MAX_SHARD_BYTES", 3 * 16 * 12 * 8)
    store = make_corpus(tmp_path / "c", v={"num_slices": 7})
    arrays = make_arrays(num_slices=7)
    folder = tmp_path / "c/volumes/v/kspace"
    assert sorted(path.name for path in folder.iterdir()) == ["c.0.0.0", "c.1.0.0", "c.2.0.0", "zarr.json"]
    assert zarr.open_array(folder, mode="r")[:].tobytes() == arrays["kspace"].tobytes()
    layout = ArrayLayout.of("kspace", (7, 16, 12), "v")
    reader = SliceReader(store.storage)
    assert all(reader.read_slice(layout, i).tobytes() == arrays["kspace"][i].tobytes() for i in range(7))


def test_shards_stay_below_the_limit_and_hold_at_least_a_slice():
    assert ArrayLayout.of("kspace", (100, 16, 640, 368)).shard_shape == (17, 16, 640, 368)
    assert 17 * 16 * 640 * 368 * 8 <= 512 * 2**20
    assert ArrayLayout.of("kspace", (5, 64, 1200, 1200)).shard_shape == (1, 64, 1200, 1200)
    assert ArrayLayout.of("reconstruction_esc", (170, 256, 256)).shard_shape == (170, 256, 256)


def test_all_zero_volume_is_written_and_a_missing_shard_reads_as_nan_or_error(tmp_path):
    arrays = {"kspace": np.zeros((2, 4, 4), np.complex64), "reconstruction_esc": np.zeros((2, 4, 4), np.float32)}
    store = CorpusStore.create(tmp_path / "c", ROOT_ATTRIBUTES)
    store.commit_volume("empty", arrays, make_attributes(arrays, name="empty"))
    shard = tmp_path / "c/volumes/empty/kspace/c.0.0.0"
    array = zarr.open_array(shard.parent, mode="r")
    assert not array[:].any()
    shard.unlink()
    assert np.isnan(array[:]).all()
    with pytest.raises(ShardError, match=r"volumes/empty/kspace/c\.0\.0\.0: the shard is missing"):
        SliceReader(store.storage).read_slice(ArrayLayout.of("kspace", (2, 4, 4), "empty"), 0)


def test_positive_zeros_changes_signs_of_zero_only():
    values = np.array([[-0.0, 1.0], [complex(0.0, -0.0), complex(-2.0, -0.0)]], dtype=np.complex64)
    cleaned = positive_zeros(values)
    assert cleaned.dtype == np.complex64
    assert not np.signbit(cleaned.view(np.float32)[cleaned.view(np.float32) == 0]).any()
    np.testing.assert_array_equal(cleaned, values)
    assert np.signbit(positive_zeros(np.array([-1e-45, -0.0], np.float32))).tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda a, t: a["kspace"].__setitem__((1, 2, 3), np.nan), "kspace has 1 values that are not finite"),
        (
            lambda a, t: a["kspace"].__setitem__((1, 2, 3), complex(1, np.inf)),
            "kspace has 1 values that are not finite",
        ),
        (lambda a, t: a["reconstruction_esc"].__setitem__((0, 0, 0), -0.0), "1 negative zeros"),
        (lambda a, t: a.update(kspace=a["kspace"].astype(np.complex128)), "kspace is complex128; expected complex64"),
        (lambda a, t: a.update(reconstruction_esc=a["reconstruction_esc"][:2]), r"expected \(3, 16, 12\)"),
        (lambda a, t: a.update(extra=a["kspace"]), "array extra is not part of format 1"),
        (lambda a, t: a.pop("reconstruction_esc"), "reconstruction_esc is missing"),
        (lambda a, t: t.pop("max"), "attribute max is missing"),
        (lambda a, t: t.update(scale=3.0), "attribute scale is 3.0; expected a power of two"),
        (lambda a, t: t.update(PatientName="x"), "attribute PatientName is not part of format 1"),
        (lambda a, t: t.update(max=float("nan")), "not JSON"),
        (lambda a, t: t.update(te_ms=np.float32(3)), "not JSON"),
        (lambda a, t: t.update(num_slices=4), "num_slices is 4, kspace has 3 slices"),
    ],
)
def test_what_format_1_forbids_is_refused_before_anything_is_written(tmp_path, change, expected):
    store = CorpusStore.create(tmp_path / "c", ROOT_ATTRIBUTES)
    before = snapshot(tmp_path / "c")
    arrays = make_arrays()
    attributes = make_attributes(arrays)
    change(arrays, attributes)
    with pytest.raises(VolumeError, match=expected) as caught:
        store.commit_volume("v", arrays, attributes)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path / "c") == before


@pytest.mark.parametrize("name", ["", "../x", ".x", "__x", "zarr.json", "ZARR.json", "a/b", "a@0", "a@b", "x" * 129])
def test_illegal_names_are_refused(tmp_path, name):
    store = CorpusStore.create(tmp_path / "c", ROOT_ATTRIBUTES)
    arrays = make_arrays()
    with pytest.raises(VolumeError, match="cannot name a volume"):
        store.commit_volume(name, arrays, make_attributes(arrays, name=name))


def test_what_has_no_receipt_is_not_there_and_is_made_again(tmp_path):
    reference = snapshot(make_corpus_path(tmp_path / "ref"))
    store = make_corpus(tmp_path / "c", v={})
    (tmp_path / "c/volumes/v/zarr.json").unlink()
    (tmp_path / "c/volumes/v/kspace/c.0.0.0").write_bytes(b"torn")
    (tmp_path / "c/volumes/v/kspace/c.9.0.0").write_bytes(b"left over")
    (tmp_path / "c/volumes/v/sens_maps").mkdir()
    (tmp_path / "c/volumes/v/sens_maps/zarr.json").write_bytes(b"{}")
    assert store.receipt("v") is None
    assert store.names() == []
    assert store.unfinished() == ["v"]
    commit(str(tmp_path / "c"), "v", 0, 1)
    assert snapshot(tmp_path / "c") == reference
    store.discard("v")
    assert store.names() == store.unfinished() == []
    store.discard("v")


def make_corpus_path(path: Path) -> Path:
    make_corpus(path, v={})
    return path


def test_recommit_keeps_equal_bytes_and_replaces_others(tmp_path):
    store = make_corpus(tmp_path / "c", v={"seed": 0})
    shard = tmp_path / "c/volumes/v/kspace/c.0.0.0"
    before = shard.stat().st_mtime_ns, shard.stat().st_ino
    commit(str(tmp_path / "c"), "v", 0, 1)
    assert (shard.stat().st_mtime_ns, shard.stat().st_ino) == before
    shard.write_bytes(b"damaged")
    commit(str(tmp_path / "c"), "v", 0, 1)
    assert zarr.open_array(shard.parent, mode="r")[:].tobytes() == make_arrays(seed=0)["kspace"].tobytes()
    commit(str(tmp_path / "c"), "v", 5, 1)
    assert zarr.open_array(shard.parent, mode="r")[:].tobytes() == make_arrays(seed=5)["kspace"].tobytes()
    assert store.receipt("v")["max"] == float(make_arrays(seed=5)["reconstruction_esc"].max())


def test_two_processes_committing_one_volume_leave_one_whole_volume(tmp_path):
    reference = snapshot(make_corpus_path(tmp_path / "ref"))
    CorpusStore.create(tmp_path / "c", ROOT_ATTRIBUTES)
    writers = [FORKS.Process(target=commit, args=(str(tmp_path / "c"), "v", 0, 5)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert snapshot(tmp_path / "c") == reference
    assert list((tmp_path / "c.run/partial").iterdir()) == []


KILLED = """
import sys, os, signal
sys.path.insert(0, {tests!r})
from phantom_corpus import make_arrays, make_attributes
from rephase.corpus.store import CorpusStore
left = [{steps}]
sync = os.fsync
def fsync(descriptor):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)
os.fsync = fsync
arrays = make_arrays()
CorpusStore.open({root!r}).commit_volume("v", arrays, make_attributes(arrays, name="v"))
"""


def test_kill_at_any_flush_leaves_no_volume_or_a_whole_one(tmp_path):
    reference = snapshot(make_corpus_path(tmp_path / "ref"))
    CorpusStore.create(tmp_path / "c", ROOT_ATTRIBUTES)
    states = set()
    for steps in (0, 4, 9, 13, 30):
        script = KILLED.format(tests=str(TESTS), steps=steps, root=str(tmp_path / "c"))
        status = python(script).returncode
        assert status in (-signal.SIGKILL, 0)
        receipt = CorpusStore.open(tmp_path / "c").receipt("v")
        states.add((status, receipt is not None))
        inside = [path.name for path in (tmp_path / "c").rglob("*") if "partial" in path.name]
        assert inside == []
        if receipt is not None:
            assert snapshot(tmp_path / "c") == reference
    assert {(-signal.SIGKILL, False), (0, True)} <= states
    assert list((tmp_path / "c.run/partial").iterdir()) != []
    with Lease(tmp_path / "c"):
        assert len(list((tmp_path / "c.run/partial").iterdir())) == 1
    assert list((tmp_path / "c.run/partial").iterdir()) == []


FULL = """
import resource, sys
sys.path.insert(0, {tests!r})
from phantom_corpus import make_arrays, make_attributes
from rephase.corpus.store import CorpusStore
arrays = make_arrays(num_slices=20, height=64, width=64)
store = CorpusStore.open({root!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    store.commit_volume("v", arrays, make_attributes(arrays, name="v"))
except OSError as error:
    print(error.errno, error.filename)
"""


def test_a_file_system_that_refuses_bytes_is_an_os_error_naming_the_path(tmp_path):
    store = CorpusStore.create(tmp_path / "c", ROOT_ATTRIBUTES)
    script = FULL.format(tests=str(TESTS), root=str(tmp_path / "c"))
    done = python(script)
    assert done.stdout.split()[1] == str(tmp_path / "c/volumes/v/kspace/c.0.0.0")
    assert store.names() == []
    assert list((tmp_path / "c.run/partial").iterdir()) == []


def test_bytes_that_come_back_changed_are_an_error_and_no_receipt(tmp_path, monkeypatch):
    store = CorpusStore.create(tmp_path / "c", ROOT_ATTRIBUTES)
    put = store.storage.put
    monkeypatch.setattr(store.storage, "put", lambda key, data: put(key, data[:-1] + b"?" if "c.0" in key else data))
    arrays = make_arrays()
    with pytest.raises(OSError, match=r"bytes read back.*kspace/c\.0\.0\.0"):
        store.commit_volume("v", arrays, make_attributes(arrays, name="v"))
    assert store.names() == []


def test_opening_what_is_no_corpus_says_so(tmp_path):
    with pytest.raises(RequestError, match="no corpus here"):
        CorpusStore.open(tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(RequestError, match=r"not empty \(notes.txt\)"):
        CorpusStore.create(tmp_path / "full", {})
    CorpusStore.create(tmp_path / "c", {})
    with pytest.raises(RequestError, match="exists"):
        CorpusStore.create(tmp_path / "c", {})
    document = json.loads((tmp_path / "c/zarr.json").read_text())
    document["attributes"]["format"] = 2
    (tmp_path / "c/zarr.json").write_text(json.dumps(document))
    with pytest.raises(RequestError, match="format is 2; this version reads format 1"):
        CorpusStore.open(tmp_path / "c")


def test_a_corpus_behind_another_url_is_read_and_never_written(tmp_path):
    make_corpus(tmp_path / "c", v={})
    root = f"memory://bucket-{os.getpid()}/c"
    filesystem, base = fsspec.core.url_to_fs(root)
    for key, data in snapshot(tmp_path / "c").items():
        filesystem.pipe_file(f"{base}/{key}", data)
    store = CorpusStore.open(root)
    assert not store.storage.is_local
    assert {key: store.storage.get(key) for key in store.storage.keys("")} == snapshot(tmp_path / "c")
    assert store.names() == ["v"]
    arrays = make_arrays()
    reader = SliceReader(store.storage)
    assert reader.read_slice(ArrayLayout.of("kspace", (3, 16, 12), "v"), 2).tobytes() == arrays["kspace"][2].tobytes()
    with pytest.raises(OSError, match="s3://"):
        store.discard("v")
    with pytest.raises(RequestError, match="cannot be written"), Lease(root):
        pass
    assert store.names() == ["v"]


def test_a_disk_keeps_the_contract_of_a_storage(tmp_path):
    check_storage(open_storage(tmp_path / "not yet" / "there"))
    (tmp_path / "target").mkdir()
    (tmp_path / "target/kept").write_text("")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/link").symlink_to(tmp_path / "target")
    open_storage(tmp_path / "c").delete_tree("link")
    assert list((tmp_path / "c").iterdir()) == []
    assert (tmp_path / "target/kept").exists()


def test_unfinished_files_of_the_log_lie_beside_those_of_the_corpus(tmp_path):
    storage = open_run_folder(tmp_path / "c")
    storage.put("failures.json", b"{}")
    assert sorted(path.name for path in (tmp_path / "c.run").iterdir()) == ["failures.json", "partial"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.run"]
