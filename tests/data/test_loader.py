from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from phantom_corpus import ROOT_ATTRIBUTES, make_arrays, make_attributes, make_corpus
from torch.utils.data import DataLoader

import rephase.corpus.layout
from rephase.corpus.encoding import _create_array
from rephase.corpus.index import INDEX_KEY
from rephase.corpus.index_writer import write_index
from rephase.corpus.layout import ArrayLayout
from rephase.corpus.store import CorpusStore
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError, VolumeError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    options = {"height": 8, "width": 10}
    store = make_corpus(
        tmp_path / "c",
        b={"seed": 1, "num_slices": 4, **options, "attributes": {"split": "val", "te_ms": 30.5}},
        a={"seed": 2, "num_slices": 2, **options, "attributes": {"contrast": None}},
    )
    write_index(store, ["b", "a"])
    return tmp_path / "c"


def test_items_are_the_slices_that_plain_zarr_reads(root):
    slices = KSpaceSlices(root)
    assert len(slices) == 6
    assert slices.volumes == ["b", "a"]
    group = zarr.open_group(root / "volumes", mode="r")
    seen = []
    for kspace, mask, target, attrs, fname, slice_index in (slices[i] for i in range(len(slices))):
        seen.append((fname, slice_index))
        assert (kspace.dtype, target.dtype) == (np.complex64, np.float32)
        assert kspace.tobytes() == group[fname]["kspace"][slice_index].tobytes()
        assert target.tobytes() == group[fname]["reconstruction_esc"][slice_index].tobytes()
        np.testing.assert_array_equal(mask, np.ones(10, np.float32))
        assert attrs["max"] == group[fname].attrs["max"]
        assert attrs["norm"] == group[fname].attrs["norm"]
    assert seen == [("b", 0), ("b", 1), ("b", 2), ("b", 3), ("a", 0), ("a", 1)]
    assert slices[-1][4:] == ("a", 1)
    for outside in (6, -7):
        with pytest.raises(IndexError):
            slices[outside]


def test_attributes_are_fastmris(root):
    attrs = KSpaceSlices(root, split="val")[0][3]
    assert attrs["encoding_size"] == attrs["recon_size"] == (8, 10, 1)
    assert (attrs["padding_left"], attrs["padding_right"]) == (0, 10)
    assert (attrs["acquisition"], attrs["patient_id"], attrs["contrast"], attrs["te_ms"]) == ("AXT1", "s1", "T1", 30.5)
    other = KSpaceSlices(root, split="train")[0][3]
    assert other["contrast"] == ""
    assert np.isnan(other["te_ms"])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork.*:DeprecationWarning")
def test_two_workers_give_what_one_process_gives(root, method):
    slices = KSpaceSlices(root)
    expected = [slices[i] for i in range(len(slices))]  # also opens everything before the fork
    loader = DataLoader(slices, batch_size=2, num_workers=2, multiprocessing_context=method)
    fnames: list[str] = []
    for number, (kspace, mask, target, attrs, names, numbers) in enumerate(loader):
        fnames += names
        assert kspace.dtype == torch.complex64
        assert tuple(mask.shape) == (2, 10)
        for place in range(2):
            item = expected[2 * number + place]
            np.testing.assert_array_equal(kspace[place].numpy(), item[0])
            np.testing.assert_array_equal(target[place].numpy(), item[2])
            assert float(attrs["max"][place]) == item[3]["max"]
            assert int(numbers[place]) == item[5]
    assert fnames == [item[4] for item in expected]


def test_a_pickled_copy_reads_the_same(root):
    slices = KSpaceSlices(root, split="val")
    slices[0]
    copy = pickle.loads(pickle.dumps(slices))  # noqa: S301
    assert copy[3][0].tobytes() == slices[3][0].tobytes()


def test_filters(root):
    assert KSpaceSlices(root, split="val").volumes == ["b"]
    assert KSpaceSlices(root, split=["val", "train"]).volumes == ["b", "a"]
    assert KSpaceSlices(root, contrast="T1").volumes == ["b"]
    assert KSpaceSlices(root, volumes=["a"])[1][4:] == ("a", 1)
    with pytest.raises(RequestError, match="no volumes with split test; the corpus has: train, val"):
        KSpaceSlices(root, split="test")
    assert len(KSpaceSlices(root, without_audit=["lossy", "filtered"])) == 6
    with pytest.raises(RequestError, match="no audit flag 'lossi'; expected any, interpolated"):
        KSpaceSlices(root, without_audit="lossi")


def test_a_transform_gets_fastmris_arguments_and_a_stored_mask(tmp_path):
    arrays = make_arrays(coils=2)
    masked = {**arrays, "mask": (np.arange(12) % 2).astype(np.float32)}
    store = CorpusStore.create(tmp_path / "c", ROOT_ATTRIBUTES)
    store.commit_volume("full", arrays, make_attributes(arrays, name="full"))
    store.commit_volume("masked", masked, make_attributes(masked))
    write_index(store, ["full", "masked"])

    def transform(kspace, mask, target, attrs, fname, slice_num):
        return mask, kspace.shape, target.shape, attrs["recon_size"], fname, slice_num

    slices = KSpaceSlices(tmp_path / "c", transform=transform)
    assert slices[1] == (None, (2, 16, 12), (16, 12), (16, 12, 1), "full", 1)
    mask, *rest = slices[4]
    np.testing.assert_array_equal(mask, masked["mask"])
    assert rest == [(2, 16, 12), (16, 12), (16, 12, 1), "masked", 1]
    np.testing.assert_array_equal(KSpaceSlices(tmp_path / "c")[4][1], masked["mask"])


def test_unequal_volumes_pass_a_default_loader(tmp_path):
    store = make_corpus(tmp_path / "c", a={"num_slices": 1}, b={"num_slices": 2, "height": 20})
    write_index(store, ["a", "b"])
    shapes = [tuple(batch[0].shape) for batch in DataLoader(KSpaceSlices(tmp_path / "c"))]
    assert shapes == [(1, 16, 12), (1, 20, 12), (1, 20, 12)]


def test_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(rephase.corpus.layout, "MAX_SHARD_BYTES", 3 * 16 * 12 * 8)
    store = make_corpus(tmp_path / "c", a={"num_slices": 7})
    monkeypatch.undo()  # the loader must take the shards from the index, not from the rule
    write_index(store, ["a"])
    slices = KSpaceSlices(tmp_path / "c")
    expected = make_arrays(num_slices=7)["kspace"]
    assert all(slices[i][0].tobytes() == expected[i].tobytes() for i in (6, 0, 3, 2))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda data: data[:3] + bytes([data[3] ^ 1]) + data[4:], "the checksum of the chunk is wrong"),
        (lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:], "the checksum of the shard index is wrong"),
        (lambda data: data[:-200], "the checksum of the shard index is wrong"),
        (lambda data: data[:9], "the shard index is truncated"),
        (lambda data: None, "the shard is missing"),
    ],
)
def test_a_damaged_chunk_is_an_error_naming_volume_and_slice(root, damage, expected):
    path = root / "volumes/b/kspace/c.0.0.0"
    changed = damage(path.read_bytes())
    path.unlink() if changed is None else path.write_bytes(changed)
    slices = KSpaceSlices(root)
    with pytest.raises(VolumeError, match=f"volume b, slice 0, kspace: .*{expected}; .rephase verify") as caught:
        slices[0]
    assert "\n" not in str(caught.value)
    assert slices[4][4] == "a"


def test_a_chunk_that_was_never_written_is_an_error(root):
    values = make_arrays(seed=1, num_slices=4, height=8, width=10)["kspace"]
    buffers = {}
    _create_array(ArrayLayout.of("kspace", values.shape), buffers)[:2] = values[:2]
    (root / "volumes/b/kspace/c.0.0.0").write_bytes(buffers["c.0.0.0"].to_bytes())
    slices = KSpaceSlices(root)
    assert slices[1][0].tobytes() == values[1].tobytes()
    with pytest.raises(VolumeError, match=r"volume b, slice 2, kspace: .*the chunk was never written"):
        slices[2]


def test_a_corpus_without_anything_to_load_says_so(tmp_path, root):
    with pytest.raises(RequestError, match="no corpus here"):
        KSpaceSlices(tmp_path / "none")
    make_corpus(tmp_path / "empty")
    with pytest.raises(RequestError, match="no committed volumes"):
        KSpaceSlices(tmp_path / "empty")
    (root / INDEX_KEY).unlink()
    with pytest.raises(RequestError, match="no index; "):
        KSpaceSlices(root)


def test_opening_reads_no_receipt(root):
    for name in ("a", "b"):
        (root / "volumes" / name / "zarr.json").unlink()
    assert len(KSpaceSlices(root)) > 0


def test_a_name_that_is_not_there_is_an_error_and_not_a_smaller_dataset(tmp_path):
    write_index(make_corpus(tmp_path / "c", a={}, b={"seed": 2}), ["a", "b"])
    with pytest.raises(RequestError, match="no volumes with name nope; the corpus has: a, b"):
        KSpaceSlices(tmp_path / "c", volumes=["a", "nope"])
