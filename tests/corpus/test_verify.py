from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantom_corpus import ROOT_ATTRIBUTES, make_arrays, make_attributes, make_corpus

import rephase.corpus.encoding
from rephase.corpus.decoding import chunk_crcs
from rephase.corpus.encoding import encode_array
from rephase.corpus.index import INDEX_KEY
from rephase.corpus.index_writer import write_index
from rephase.corpus.layout import ArrayLayout, group_document
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import VerifyResult, verify_corpus
from rephase.errors import RequestError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = make_corpus(tmp_path / "c", a={"seed": 1}, b={"seed": 2, "coils": 3, "num_slices": 4})
    write_index(store, ["a", "b"])
    return tmp_path / "c"


def faults_of(root: Path) -> list[tuple[str, str]]:
    result = verify_corpus(root, workers=1)
    assert all("\n" not in what for _, what in result.problems)
    return result.problems


def edit_receipt(root: Path, name: str, change: Any) -> None:
    """Change a receipt on disk and spell it as the format does, so that only the change itself can be found."""
    path = root / "volumes" / name / "zarr.json"
    document = json.loads(path.read_text())
    change(document["attributes"])
    path.write_bytes(group_document(document["attributes"]))


def replace_values(root: Path, name: str, array: str, values: np.ndarray) -> None:
    """Write other values with right checksums: only the rules for values can find them."""
    layout = ArrayLayout.of(array, values.shape)
    for key, chunks, data in encode_array(layout, values):
        (root / "volumes" / name / key).write_bytes(data)
        digest, crcs = hashlib.sha256(data).hexdigest(), chunk_crcs(data, layout, len(chunks))
        edit_receipt(root, name, lambda found, key=key, digest=digest: found["checksums"].update({key: digest}))
        edit_receipt(root, name, lambda found, crcs=crcs: found["chunk_crc32c"].update({array: crcs}))
    write_index(CorpusStore.open(root), ["a", "b"])


def test_a_whole_corpus_has_no_faults(root):
    steps = []
    result = verify_corpus(root, workers=2, progress=lambda done, total: steps.append((done, total)))
    stored = sum(path.stat().st_size for path in (root / "volumes").glob("*/*/*"))
    assert result == VerifyResult(num_volumes=2, num_slices=7, num_bytes=stored)
    assert result.ok
    assert steps == [(1, 2), (2, 2)]


def test_every_flipped_byte_of_a_volume_is_found(root):
    files = [path for path in (root / "volumes/a").rglob("*") if path.is_file() and path.name != "zarr.json"]
    for path in [*files, root / "volumes/a/kspace/zarr.json"]:
        good = path.read_bytes()
        for position in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
            key = path.relative_to(root / "volumes/a").as_posix()
            assert faults_of(root) == [("a", f"{key} does not match its checksum")]
        path.write_bytes(good[:-7])
        assert faults_of(root)
        path.unlink()
        assert faults_of(root) == [("a", f"{key} is missing")]
        path.write_bytes(good)
    assert faults_of(root) == []


def test_receipts_are_checked(root):
    edit_receipt(root, "a", lambda found: found.pop("scale"))
    edit_receipt(root, "b", lambda found: found["checksums"].pop("kspace/zarr.json"))
    assert faults_of(root) == [
        ("a", "attribute scale is missing"),
        ("b", "the receipt has no checksum of kspace/zarr.json"),
    ]
    (root / "volumes/b/zarr.json").write_text("{")
    assert "not JSON" in dict(faults_of(root))["b"]


@pytest.mark.parametrize(("name", "array"), [("a", "reconstruction_esc"), ("b", "reconstruction_rss")])
def test_magnitude_must_be_kept(root, name, array):
    arrays = make_arrays(seed=1) if name == "a" else make_arrays(seed=2, coils=3, num_slices=4)
    small, large = arrays[array].copy(), arrays[array].copy()
    small[2, 5, 5] += 0.5e-5 * small.max()
    replace_values(root, name, array, small)
    assert [fault for fault in faults_of(root) if "off by" in fault[1]] == []
    large[2, 5, 5] += 3e-5 * large.max()
    replace_values(root, name, array, large)
    found = [what for who, what in faults_of(root) if who == name and "off by" in what]
    assert len(found) == 1
    assert found[0].startswith("slice 2: the magnitude of the k-space is off by")


def test_a_phase_that_changes_no_magnitude_is_no_fault(root):
    replace_values(root, "a", "kspace", (make_arrays(seed=1)["kspace"] * np.complex64(1j) + np.complex64(0)))
    assert faults_of(root) == []


def test_values_that_format_1_forbids_are_found(root):
    arrays = make_arrays(seed=1)
    kspace = arrays["kspace"].copy()
    kspace[1, 2, 3] = np.nan
    replace_values(root, "a", "kspace", kspace)
    assert ("a", "slice 1: kspace has 1 values that are not finite") in faults_of(root)
    replace_values(root, "a", "kspace", arrays["kspace"])
    target = arrays["reconstruction_esc"].copy()
    assert target[0, 0, 0] == 0
    target[:2, 0, 0] = -0.0
    replace_values(root, "a", "reconstruction_esc", target)
    expected = "slice 0: reconstruction_esc has 1 negative zeros; expected +0.0 (and 1 other slices have problems)"
    assert faults_of(root) == [("a", expected)]


def test_max_and_norm_are_checked(root):
    edit_receipt(root, "a", lambda found: found.update(max=found["max"] * 1.001, norm=found["norm"] * 1.001))
    write_index(CorpusStore.open(root), ["a", "b"])
    found = faults_of(root)
    assert [what.split(" is ")[0] for _, what in found] == ["max", "norm"]


def test_a_noisy_volume_is_not_held_to_the_plain_rule(tmp_path):
    arrays = make_arrays()
    arrays["kspace"] = arrays["kspace"] + np.complex64(0.1)
    store = CorpusStore.create(tmp_path / "c", ROOT_ATTRIBUTES)
    store.commit_volume("noisy", arrays, make_attributes(arrays, noise_sigma=0.1))
    store.commit_volume("plain", arrays, make_attributes(arrays, name="plain"))
    write_index(store, [])
    assert {name for name, _ in faults_of(tmp_path / "c")} == {"plain"}


def test_oversampled_kspace_is_cropped_before_it_is_compared(tmp_path):
    arrays = make_arrays(height=32)
    arrays["kspace"][:] = make_arrays(height=32)["kspace"]
    arrays["reconstruction_esc"] = arrays["reconstruction_esc"][:, 8:24].copy()
    store = CorpusStore.create(tmp_path / "c", ROOT_ATTRIBUTES)
    store.commit_volume("a", arrays, make_attributes(arrays, oversampling=2.0))
    write_index(store, [])
    assert faults_of(tmp_path / "c") == []


def test_the_index_is_compared_with_receipts(root):
    document = json.loads((root / INDEX_KEY).read_text())
    document["attributes"]["columns"]["split"][1] = "test"
    document["attributes"]["columns"]["name"][0] = "gone"
    (root / INDEX_KEY).write_text(json.dumps(document))
    assert faults_of(root) == [
        ("a", "committed, but not in the index"),
        ("gone", "in the index, but not committed"),
        ("b", "the index says split is 'test'; expected 'train'"),
    ]
    (root / INDEX_KEY).unlink()
    assert [name for name, _ in faults_of(root)] == [""]


def test_strangers_are_faults_and_unfinished_volumes_are_not(root):
    (root / "volumes/a/kspace/c.0.0.1").write_bytes(b"")
    (root / "notes.txt").write_text("")
    (root / "volumes/list.txt").write_text("")
    (root / "volumes/half/kspace").mkdir(parents=True)
    result = verify_corpus(root)
    assert sorted(result.problems) == [
        ("", "notes.txt is not part of the corpus"),
        ("", "volumes/list.txt is not part of the corpus"),
        ("a", "kspace/c.0.0.1 is not in the receipt"),
    ]
    assert result.unfinished == ["half"]


def test_metadata_that_describes_another_array_is_found(root):
    path = root / "volumes/a/kspace/zarr.json"
    document = json.loads(path.read_text())
    document["fill_value"] = [0.0, 0.0]
    path.write_text(json.dumps(document))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_receipt(root, "a", lambda found: found["checksums"].update({"kspace/zarr.json": digest}))
    write_index(CorpusStore.open(root), [])
    assert faults_of(root) == [("a", "kspace/zarr.json does not describe the array of the receipt in format 1")]


def test_chunks_that_were_never_written_are_found(root, monkeypatch):
    values = make_arrays(seed=1)["kspace"]
    buffers: dict[str, Any] = {}
    array = rephase.corpus.encoding._create_array(ArrayLayout.of("kspace", values.shape), buffers)
    array[:2] = values[:2]
    data = buffers["c.0.0.0"].to_bytes()
    (root / "volumes/a/kspace/c.0.0.0").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edit_receipt(root, "a", lambda found: found["checksums"].update({"kspace/c.0.0.0": digest}))
    write_index(CorpusStore.open(root), [])
    assert faults_of(root) == [("a", "kspace/c.0.0.0, chunk 0: the shard index does not list chunks 0 to 2")]


def test_no_corpus_is_a_request_error(tmp_path):
    with pytest.raises(RequestError, match="no corpus here"):
        verify_corpus(tmp_path)


def test_a_sound_volume_of_another_recipe_is_named(root):
    store = CorpusStore.open(root)
    arrays = make_arrays(seed=1)
    store.commit_volume("a", arrays, make_attributes(arrays, name="a", recipe_hash="b" * 64))
    write_index(store, ["a", "b"])
    result = verify_corpus(root)
    assert not result.ok and result.other_recipe == ["a"]
    assert {name for name, _ in result.problems} == {"a"}
