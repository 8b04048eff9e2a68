"""A corpus from somebody else may hold links that lead out of it: nothing there is written, replaced or removed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from phantom_corpus import make_arrays, make_attributes, make_corpus

from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the user's with files that have the names of a volume's."""
    make_corpus(tmp_path / "other", v={"seed": 5})
    shutil.copytree(tmp_path / "other/volumes/v", tmp_path / "outside")
    (tmp_path / "outside/thesis.txt").write_bytes(b"the only copy")
    return tmp_path / "outside"


def commit(root: Path, seed: int) -> None:
    arrays = make_arrays(seed=seed)
    CorpusStore.open(root).commit_volume("v", arrays, make_attributes(arrays, name="v"))


@pytest.mark.parametrize("with_receipt", [True, False])
@pytest.mark.parametrize("link", ["volumes/v", "volumes/v/kspace", "volumes/v/kspace/deep"])
def test_a_volume_that_is_a_link_is_built_in_its_own_place(
    tmp_path: Path, outside: Path, link: str, with_receipt: bool
) -> None:
    make_corpus(tmp_path / "right", v={"seed": 1})
    root = tmp_path / "c"
    make_corpus(root, v={})
    if not with_receipt:
        (root / "volumes/v/zarr.json").unlink()
        (outside / "zarr.json").unlink()
    shutil.rmtree(root / link, ignore_errors=True)
    (root / link).symlink_to(outside, target_is_directory=True)
    before = contents(outside)
    commit(root, 1)
    assert contents(outside) == before
    assert not (root / "volumes/v").is_symlink()
    assert contents(root / "volumes") == contents(tmp_path / "right/volumes")
    assert verify_corpus(root).damaged == []


def test_what_is_discarded_behind_a_link_stays(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "c"
    store = make_corpus(root, v={})
    shutil.rmtree(root / "volumes/v")
    (root / "volumes/v").symlink_to(outside)
    before = contents(outside)
    store.storage.delete_tree("volumes/v/kspace")
    assert not (root / "volumes/v").is_symlink()
    (root / "volumes/v").symlink_to(outside)
    store.discard("v")
    assert contents(outside) == before and store.names() == []


def test_a_link_to_a_folder_in_a_volume_is_a_problem(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "c"
    make_corpus(root, v={})
    (root / "volumes/v/more").symlink_to(outside)
    assert ("v", "more is not in the receipt") in verify_corpus(root).problems


def test_the_folder_of_all_volumes_may_be_on_another_disk(tmp_path: Path) -> None:
    root = tmp_path / "c"
    store = make_corpus(root, v={})
    (root / "volumes").rename(tmp_path / "disk")
    (root / "volumes").symlink_to(tmp_path / "disk")
    commit(root, 3)
    store.storage.delete("volumes/v/zarr.json")
    assert (root / "volumes").is_symlink() and (tmp_path / "disk/zarr.json").exists() and store.names() == []
