"""Volumes that were copied into a corpus do not become its own, and names that differ in case only are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from phantom_corpus import ROOT_ATTRIBUTES, make_arrays, make_attributes, make_corpus

from rephase.builder.preflight import check_twins
from rephase.corpus.index import read_index
from rephase.corpus.index_writer import IndexBuilder, write_index
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError, VolumeError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_index(make_corpus(tmp_path / "c", a={"seed": 1}, b={"seed": 2}), ["a", "b"])
    make_corpus(tmp_path / "other", z={"seed": 3, "attributes": {"recipe_hash": "b" * 64}})
    return tmp_path / "c"


def test_copies_under_other_names_and_of_other_recipes_stay_outside_of_the_index(root: Path) -> None:
    shutil.copytree(root / "volumes/a", root / "volumes/copy")
    shutil.copytree(root.with_name("other") / "volumes/z", root / "volumes/z")
    found = verify_corpus(root)
    assert (found.unexpected, found.damaged) == (["volumes/copy", "volumes/z"], [])
    assert [name for name, _ in found.problems] == ["copy", "z"]
    index = IndexBuilder(CorpusStore.open(root))
    index.write(["z", "copy", "a", "b"])
    assert index.foreign == {"copy", "z"}
    assert read_index(root).names == ["a", "b"]
    assert KSpaceSlices(root).volumes == ["a", "b"]


def test_a_volume_that_a_killed_build_committed_enters_the_index(root: Path) -> None:
    arrays = make_arrays(seed=4)
    CorpusStore.open(root).commit_volume("c", arrays, make_attributes(arrays, name="c"))
    assert verify_corpus(root).unexpected == []
    write_index(CorpusStore.open(root), [])
    assert read_index(root).names == ["a", "b", "c"]
    assert verify_corpus(root).problems == []


def test_a_copy_over_a_volume_of_the_index_is_refused_by_loaders_and_rebuilt(root: Path) -> None:
    before = read_index(root).rows()
    shutil.rmtree(root / "volumes/a")
    shutil.copytree(root.with_name("other") / "volumes/z", root / "volumes/a")
    for _ in range(2):
        assert "a" in verify_corpus(root).damaged
        with pytest.raises(VolumeError, match="not the one that the index names"):
            KSpaceSlices(root)[0]
        write_index(CorpusStore.open(root), [])
    assert list(read_index(root).rows()) == list(before)


def test_volumes_of_an_earlier_recipe_stay_in_the_index(root: Path) -> None:
    store = CorpusStore.open(root)
    store.write_attributes({**ROOT_ATTRIBUTES, "recipe_hash": "d" * 64})
    write_index(store, [])
    assert read_index(root).names == ["a", "b"]


def test_a_copy_without_a_name_is_known_by_the_receipt_of_the_other(tmp_path: Path) -> None:
    store = CorpusStore.create(tmp_path / "old", ROOT_ATTRIBUTES)
    arrays = make_arrays()
    store.commit_volume("v", arrays, make_attributes(arrays))
    shutil.copytree(tmp_path / "old/volumes/v", tmp_path / "old/volumes/copy")
    write_index(store, ["v"])
    assert read_index(tmp_path / "old").names == ["v"]


def test_names_that_differ_in_case_only_are_refused_and_found(root: Path) -> None:
    check_twins(str(root), ["a", "b", "c"])
    with pytest.raises(RequestError, match=r"1 volumes differ .* case only: A \(a is there\)"):
        check_twins(str(root), ["c", "A"])
    arrays = make_arrays()
    store = CorpusStore.open(root)
    store.commit_volume("A", arrays, make_attributes(arrays, name="A"))
    write_index(store, [])
    found = verify_corpus(root)
    assert found.twins == ["a"]
    assert "differs from volume A in case only" in found.problems[0][1]
