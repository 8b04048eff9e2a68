"""A loader gives what the receipts stand for that the index names, or raises its own error."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from phantom_corpus import make_arrays, make_attributes, make_corpus

from rephase.corpus.decoding import ShardError, SliceReader, decode_shard
from rephase.corpus.index import index_document, read_index
from rephase.corpus.index_writer import write_index
from rephase.corpus.layout import ArrayLayout
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError, VolumeError
from rephase.exports.committed import CommittedVolume

VOLUMES = {"a": {"seed": 1}, "b": {"seed": 2}, "m": {"seed": 3, "coils": 2}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_index(make_corpus(tmp_path / "c", **VOLUMES), list(VOLUMES))
    return tmp_path / "c"


def read_all(root: Path) -> tuple[set[tuple[str, int, bytes, bytes]], list[str]]:
    """Return every slice that the loader gives, and its errors."""
    given, errors, slices = set(), [], KSpaceSlices(root)
    for number in range(len(slices)):
        try:
            kspace, _, target, _, name, index = slices[number]
            given.add((name, index, kspace.tobytes(), target.tobytes()))
        except VolumeError as error:
            errors.append(str(error))
    return given, errors


def replace_volume(root: Path, name: str, seed: int) -> None:
    """Commit other values without writing the index, as an interrupted `--overwrite` does."""
    arrays = make_arrays(seed=seed)
    CorpusStore.open(root).commit_volume(name, arrays, make_attributes(arrays, name=name))


def swap(one: Path, other: Path) -> None:
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)


@pytest.mark.parametrize("array", ["kspace", "reconstruction_esc"])
def test_shards_that_changed_places_are_refused_although_each_is_sound(root: Path, array: str) -> None:
    before, _ = read_all(root)
    swap(*(root / f"volumes/{name}/{array}/c.0.0.0" for name in "ab"))
    given, errors = read_all(root)
    assert given < before
    assert {name for name, *_ in given} == {"m"}
    assert len(errors) == 6
    assert all("the chunk is not the one that the volume's receipt names" in error for error in errors)
    volume = CommittedVolume.open(CorpusStore.open(root), "a", read_index(root).row(0)["receipt_sha256"])
    with pytest.raises(VolumeError, match="not the one that the volume's receipt names"):
        list(volume.slices(array))


def test_a_replayed_shard_of_several_coils_is_refused(root: Path) -> None:
    shard = root / "volumes/m/kspace/c.0.0.0.0"
    old = shard.read_bytes()
    arrays = make_arrays(seed=9, coils=2)
    store = CorpusStore.open(root)
    store.commit_volume("m", arrays, make_attributes(arrays, name="m"))
    write_index(store, list(VOLUMES))
    assert len(read_all(root)[0]) == 9
    shard.write_bytes(old)
    assert {name for name, *_ in read_all(root)[0]} == {"a", "b"}


def test_a_volume_without_receipt_or_with_another_one_gives_nothing(root: Path) -> None:
    before, _ = read_all(root)
    replace_volume(root, "a", 7)
    (root / "volumes/b/zarr.json").unlink()
    given, errors = read_all(root)
    assert given == {item for item in before if item[0] == "m"}
    assert [("not the one that the index names" in one, "has no receipt" in one) for one in errors] == (
        [(True, False)] * 3 + [(False, True)] * 3
    )
    with pytest.raises(VolumeError, match="not the one that the index names"):
        CommittedVolume.open(CorpusStore.open(root), "a", read_index(root).row(0)["receipt_sha256"])


def test_an_open_data_set_gives_no_slice_of_a_volume_that_is_replaced_meanwhile(root: Path) -> None:
    slices = KSpaceSlices(root)
    assert slices[0][4] == "a"
    replace_volume(root, "a", 7)
    with pytest.raises(VolumeError, match=r"the chunk is not the one|damaged"):
        slices[0]
    assert pickle.loads(pickle.dumps(slices))[4][4] == "b"  # noqa: S301 - its own


def test_a_receipt_of_another_volume_is_not_taken_even_if_the_index_names_it(root: Path) -> None:
    shutil.rmtree(root / "volumes/b")
    shutil.copytree(root / "volumes/a", root / "volumes/b")
    columns = read_index(root).columns
    columns["receipt_sha256"][1] = columns["receipt_sha256"][0]
    (root / "index/zarr.json").write_bytes(b"".join(index_document(columns)))
    assert {name for name, *_ in read_all(root)[0]} == {"a", "m"}
    assert ("b", "its receipt is that of volume a: it was copied or renamed") in verify_corpus(root).problems


def test_receipts_of_earlier_versions_are_bound_without_their_chunks(root: Path) -> None:
    store = CorpusStore.create(root.with_name("old"), {"recipe": {}, "recipe_hash": "0" * 64, "seed": 0})
    for name, options in (("a", {"seed": 1}), ("b", {"seed": 2})):
        arrays = make_arrays(**options)
        receipt = store.commit_volume(name, arrays, make_attributes(arrays, recipe_hash="0" * 64))
        assert "chunk_crc32c" not in receipt
    write_index(store, ["a", "b"])
    given, errors = read_all(root.with_name("old"))
    assert (given, errors) == ({item for item in read_all(root)[0] if item[0] != "m"}, [])


def forged_indexes(shard: bytes, layout: ArrayLayout) -> list[bytes]:
    """Return the shard with other offsets and lengths in its index, whose checksum is right."""
    size = 16 * layout.chunks_per_shard + 4
    body, index = shard[:-size], np.frombuffer(shard[-size:-4], "<u8").reshape(-1, 2)
    random, found = np.random.default_rng(0), []
    numbers = [0, 1, len(shard), 2**31, 2**40, 2**62, 2**63, 2**64 - 1, *index.ravel().tolist()]
    forged = [index[::-1], np.full_like(index, 2**64 - 1), index + np.uint64(1)]
    for _ in range(60):
        other = index.copy()
        other.flat[random.integers(other.size, size=random.integers(1, 4))] = random.choice(np.array(numbers, "<u8"))
        forged.append(other)
    for other in forged:
        if not np.array_equal(other, index):
            tail = other.astype("<u8").tobytes()
            found.append(body + tail + google_crc32c.value(tail).to_bytes(4, "little"))
    return found


@pytest.mark.parametrize("coils", [0, 2])
def test_a_forged_shard_index_is_the_loaders_own_error(tmp_path: Path, coils: int) -> None:
    arrays = make_arrays(coils=coils)
    store = make_corpus(tmp_path / "c", v={"coils": coils})
    layout = ArrayLayout.of("kspace", arrays["kspace"].shape, "v")
    path = tmp_path / "c" / layout.locate(0)[0]
    forged = forged_indexes(path.read_bytes(), layout)
    assert len(forged) > 40
    for data in forged:
        path.write_bytes(data)
        failed = 0
        for number in range(3):
            try:
                found = SliceReader(store.storage).read_slice(layout, number)
                assert found.tobytes() == arrays["kspace"][number].tobytes()
            except ShardError:
                failed += 1
        assert failed
        with pytest.raises(ShardError):
            list(decode_shard(data, layout, 3))
    assert verify_corpus(tmp_path / "c").damaged == ["v"]


@pytest.mark.parametrize(
    ("column", "value"), [("height", 2**40), ("num_slices", -1), ("width", 2**70), ("kspace_chunks_per_shard", "3")]
)
def test_an_index_of_impossible_sizes_is_refused(root: Path, column: str, value: object) -> None:
    columns = read_index(root).columns
    columns[column][0] = value
    (root / "index/zarr.json").write_bytes(b"".join(index_document(columns)))
    with pytest.raises(RequestError, match="rebuild"):
        KSpaceSlices(root)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("max", 7.0), ("norm", 1.0), ("patient_id", "other"), ("acquisition", "AXT2"), ("padding_right", 1),
        ("noise_sigma", 3.0), ("seed", 9), ("replica", 2), ("phase_generator", "real"), ("audit", ["filtered"]),
        ("te_ms", 5.0), ("split", "test"),
    ],
)  # fmt: skip
def test_facts_in_the_index_that_the_receipt_does_not_have_are_refused(root: Path, column: str, value: object) -> None:
    columns = read_index(root).columns
    columns[column][0] = value
    (root / "index/zarr.json").write_bytes(b"".join(index_document(columns)))
    given, errors = read_all(root)
    assert {name for name, *_ in given} == {"b", "m"}
    assert all(f"its receipt has another {column} than the index" in error for error in errors)


@pytest.mark.parametrize("name", ["../../outside", "/etc", "a/b", ".hidden", "zarr.json"])
def test_a_loader_takes_no_name_that_leads_out_of_the_corpus(root: Path, name: str) -> None:
    columns = read_index(root).columns
    columns["name"][1] = name
    (root / "index/zarr.json").write_bytes(b"".join(index_document(columns)))
    with pytest.raises(RequestError, match="cannot be the name of a volume"):
        KSpaceSlices(root)


@pytest.mark.parametrize("column", ["receipt_sha256", "name", "audit", "max", "target"])
@pytest.mark.parametrize("value", [None, 5, [1], {}, "x"])
def test_an_index_with_values_of_another_type_is_one_line(root: Path, column: str, value: object) -> None:
    columns = read_index(root).columns
    columns[column][1] = value
    (root / "index/zarr.json").write_bytes(b"".join(index_document(columns)))
    try:
        given, _ = read_all(root)
    except RequestError as error:
        assert "\n" not in str(error)
    else:
        assert {name for name, *_ in given} <= {"a", "m"}


def test_swapped_coil_maps_are_refused(tmp_path: Path) -> None:
    volumes = {name: {"seed": seed, "coils": 2} for seed, name in enumerate("ab")}
    store = make_corpus(tmp_path / "c", **volumes)
    for name, options in volumes.items():
        arrays = make_arrays(**options)
        arrays["sens_maps"] = arrays["kspace"] * np.float32(2 + options["seed"])
        store.commit_volume(name, arrays, make_attributes(arrays, name=name))
    write_index(store, ["a", "b"])
    assert KSpaceSlices(tmp_path / "c", maps=True)[0][3]["sens_maps"].shape == (2, 16, 12)
    swap(*(tmp_path / f"c/volumes/{name}/sens_maps/c.0.0.0.0" for name in "ab"))
    with pytest.raises(VolumeError, match="not the one that the volume's receipt names"):
        KSpaceSlices(tmp_path / "c", maps=True)[0]


def test_an_index_of_other_sizes_than_the_receipts_is_refused(root: Path) -> None:
    columns = read_index(root).columns
    columns["height"][0] = 2**30
    (root / "index/zarr.json").write_bytes(b"".join(index_document(columns)))
    with pytest.raises(VolumeError, match="another kspace than the index"):
        KSpaceSlices(root)[0]


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    # a socket's name is short, the path of a test's folder may not be
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [make_pipe, make_socket, make_device])
@pytest.mark.parametrize(
    "key", ["volumes/a/kspace/c.0.0.0", "volumes/a/zarr.json", "volumes/a/kspace/zarr.json", "volumes/zarr.json"]
)
def test_a_pipe_a_socket_or_a_device_is_a_problem_at_once(root: Path, key: str, make: object) -> None:
    (root / key).unlink()
    make(root / key)  # type: ignore[operator]
    assert verify_corpus(root).problems
    given, errors = read_all(root)
    assert bool(errors) == (key not in ("volumes/zarr.json", "volumes/a/kspace/zarr.json"))
    assert len(given) + len(errors) == 9


@pytest.mark.parametrize("make", [make_pipe, make_socket, make_device])
@pytest.mark.parametrize("key", ["zarr.json", "index/zarr.json"])
def test_a_pipe_a_socket_or_a_device_as_document_is_one_line(root: Path, key: str, make: object) -> None:
    (root / key).unlink()
    make(root / key)  # type: ignore[operator]
    with pytest.raises(RequestError):
        KSpaceSlices(root)
    if key == "zarr.json":
        with pytest.raises(RequestError):
            verify_corpus(root)
    else:
        assert verify_corpus(root).documents == ["index/zarr.json"]


def test_a_damaged_chunk_checksum_in_a_receipt_is_seen(root: Path) -> None:
    path = root / "volumes/a/zarr.json"
    document = json.loads(path.read_text())
    crcs = document["attributes"]["chunk_crc32c"]
    crcs["kspace"] = "00000000" + crcs["kspace"][8:]
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
    write_index(CorpusStore.open(root), list(VOLUMES))
    assert verify_corpus(root).problems == [("a", "the receipt's chunk_crc32c of kspace are not those of its chunks")]
