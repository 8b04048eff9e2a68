"""The example that people copy: its scores are fastMRI's, and it learns."""

import numpy as np
import pytest
import torch
from export_volumes import make_coils, make_single
from phantom_corpus import ROOT_ATTRIBUTES, make_attributes

from rephase.corpus.index_writer import write_index
from rephase.corpus.store import CorpusStore
from rephase.examples.train_unet import Example, UNet, main
from rephase.scanner.masks import ColumnMask


def images(shape=(2, 20, 17), seed=0):
    random = np.random.default_rng(seed)
    target = random.rayleigh(1.0, shape).astype(np.float32)
    return target, target + random.normal(0, 0.2, shape).astype(np.float32)


def test_the_network_begins_with_its_input_and_takes_odd_sizes():
    start = torch.from_numpy(images((1, 1, 33, 21))[0])
    torch.testing.assert_close(UNet(8)(start), start)


def test_masks_are_fixed_to_judge_and_change_to_train():
    arrays = make_coils(1, 3, 32, 24)
    parts = (arrays["kspace"][0], None, arrays["reconstruction_rss"][0], {"max": 1.0}, "v", 0)
    mask = ColumnMask("random", (4,), (0.08,))
    torch.manual_seed(0)
    fixed, other = ([Example(mask, kind)(*parts)[0] for _ in range(4)] for kind in (True, False))
    assert all(torch.equal(fixed[0], again) for again in fixed)
    assert not all(torch.equal(other[0], again) for again in other)
    full = Example(ColumnMask("random", (1,), (1.0,)), True)(*parts)
    torch.testing.assert_close(full[0], full[1], atol=1e-5, rtol=0)


def test_it_learns_and_says_so(tmp_path, capsys):
    store = CorpusStore.create(tmp_path / "c.zarr", ROOT_ATTRIBUTES)
    for number, split in enumerate(("train", "train", "train", "val")):
        arrays = make_single(4, 32, 32, number)
        store.commit_volume(f"v{number}", arrays, make_attributes(arrays, split=split))
    write_index(store, [])
    scores = main([str(tmp_path / "c.zarr"), "--steps", "60"])
    output = capsys.readouterr().out
    assert "12 training slices, 4 validation slices" in output
    assert "zero-filled SSIM" in output
    assert scores["network"]["NMSE"] < 0.8 * scores["zero-filled"]["NMSE"]
    assert scores["network"]["SSIM"] > scores["zero-filled"]["SSIM"]


def test_a_corpus_that_is_not_there_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "none.zarr")])
    assert ended.value.code == 2
    assert f"{tmp_path}/none.zarr" in capsys.readouterr().err
