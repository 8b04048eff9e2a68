"""Labels, and where a slice comes from, come out of every loader."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from phantom_corpus import ROOT_ATTRIBUTES, make_arrays, make_attributes
from torch.utils.data import DataLoader

from rephase.corpus.index_writer import write_index
from rephase.corpus.store import CorpusStore
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.mix import mix
from rephase.data.stream import KSpaceStream
from rephase.errors import RequestError, VolumeError
from rephase.sequences import SPIN_ECHO

KEYS = ("phase_generator", "replica", "synthetic", "sequence")


def labels_of(number: int):
    return np.random.default_rng(number).integers(0, 256, (3, 16, 12), np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Volumes a and b have labels; c has none. The phase of b is real."""
    root = tmp_path_factory.mktemp("labels") / "c"
    store = CorpusStore.create(root, ROOT_ATTRIBUTES)
    facts = {"a": {"replica": 2, "sequence": SPIN_ECHO}, "b": {"phase_generator": "real"}, "c": {}}
    for number, (name, changes) in enumerate(facts.items()):
        arrays = make_arrays(seed=number) | ({"segmentation": labels_of(number)} if name != "c" else {})
        store.commit_volume(name, arrays, make_attributes(arrays, name=name, **changes))
    write_index(store, list(facts))
    return root


def test_labels_come_out_of_every_loader(root):
    slices = KSpaceSlices(root, volumes=["a", "b"], segmentation=True)
    expected = {(name, z): labels_of(n)[z].tobytes() for n, name in enumerate("ab") for z in range(3)}
    one, other = (KSpaceSlices(root, volumes=[name], segmentation=True) for name in "ab")
    for loader in (slices, KSpaceStream(slices), mix(other, one, 0.5)):
        items = [loader[n] for n in range(len(loader))] if not isinstance(loader, KSpaceStream) else list(loader)
        assert {(item[4], item[5]): item[3]["segmentation"].tobytes() for item in items} == expected
    plain = KSpaceSlices(root)
    for number in range(6):  # the other arrays are those of a data set without labels
        assert all(np.array_equal(slices[number][part], plain[number][part]) for part in (0, 2))
    assert "segmentation" not in plain[0][3]
    (batch,) = DataLoader(slices, batch_size=6)
    assert batch[3]["segmentation"].shape == (6, 16, 12)


def test_a_transform_gets_the_labels(root):
    slices = KSpaceSlices(root, volumes=["b"], segmentation=True, transform=lambda *parts: parts[3]["segmentation"])
    assert np.array_equal(slices[2], labels_of(1)[2])


def test_volumes_without_labels_are_refused_in_one_line(root):
    with pytest.raises(
        RequestError, match=r"1 of 3 volumes have no segmentation, such as c; .*has_segmentation"
    ) as error:
        KSpaceSlices(root, segmentation=True)
    assert "\n" not in str(error.value)
    kept = KSpaceSlices(root, segmentation=True, where=lambda row: row["has_segmentation"])
    assert kept.volumes == ["a", "b"]


def test_labels_of_another_volume_are_an_error(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "c")
    (shard,) = (path for path in (copy / "volumes/a/segmentation").iterdir() if path.name.startswith("c."))
    shutil.copy(copy / "volumes/b/segmentation" / shard.name, shard)
    with pytest.raises(VolumeError, match="volume a, slice 0, segmentation"):
        KSpaceSlices(copy, volumes=["a"], segmentation=True)[0]
    assert KSpaceSlices(copy, volumes=["a"])[0][5] == 0


def test_attributes_say_where_a_slice_comes_from(root):
    origin = {name: tuple(KSpaceSlices(root, volumes=[name])[0][3][key] for key in KEYS) for name in "abc"}
    assert origin == {
        "a": ("smooth", 2, True, SPIN_ECHO), "b": ("real", 0, False, ""), "c": ("smooth", 0, True, "")
    }  # fmt: skip
