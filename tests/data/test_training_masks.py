"""Masks in training: new in each epoch, and a function of seed, epoch, file name and slice alone."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from phantom_corpus import make_corpus
from torch.utils.data import DataLoader

from rephase.corpus.index_writer import write_index
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.masks import MaskedSlices
from rephase.data.mix import mix
from rephase.data.samplers import BucketBatchSampler, VolumeSampler
from rephase.data.stream import KSpaceStream
from rephase.errors import RequestError
from rephase.scanner.masks import ColumnMask, seed_of

MASK = ColumnMask("random", (2, 4), (0.25, 0.125))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("masks") / "c"
    volumes = {f"v{n}": {"seed": n, "num_slices": 3, "height": 4, "width": 64} for n in range(2)}
    write_index(make_corpus(root, **volumes), list(volumes))
    return root


def open_slices(root, seed=0, **options) -> KSpaceSlices:
    return KSpaceSlices(root, transform=MaskedSlices(MASK, training=True, seed=seed), **options)


def masks(items):
    return {(fname, int(number)): mask.tobytes() for _, mask, _, _, fname, number in items}


def batched(loader):
    return masks(
        (None, mask, None, None, fname, number)
        for batch in loader
        for mask, fname, number in zip(batch[1].numpy(), batch[4], batch[5].tolist(), strict=True)
    )


def of_epoch(root, epoch, seed=0):
    slices = open_slices(root, seed)
    slices.set_epoch(epoch)
    return masks(slices)


def test_each_slice_has_another_mask_in_each_epoch_and_by_each_seed(root):
    runs = [of_epoch(root, epoch, seed) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({mask for run in runs for mask in run.values()}) == 6 * 6
    assert of_epoch(root, 2, 1) == runs[5]


def test_masks_at_test_depend_on_the_file_name_alone(root):
    slices = KSpaceSlices(root, transform=MaskedSlices(MASK, seed=5))
    first = masks(slices)
    slices.set_epoch(3)
    assert masks(slices) == first
    assert first == {(f"v{n}", z): MASK(64, seed_of(f"v{n}")).tobytes() for n in range(2) for z in range(3)}


def test_kspace_has_the_columns_of_the_mask(root):
    slices, full = open_slices(root), KSpaceSlices(root)
    slices.set_epoch(7)
    for number in range(len(slices)):
        kspace, mask = slices[number][:2]
        assert 0 < mask.sum() < 64
        assert np.array_equal(kspace, full[number][0] * mask)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_epoch_reaches_persistent_workers(root, method):
    slices = open_slices(root)
    loader = DataLoader(slices, batch_size=2, num_workers=1, persistent_workers=True, multiprocessing_context=method)
    for epoch in (0, 1):
        slices.set_epoch(epoch)
        assert batched(loader) == of_epoch(root, epoch)


def test_set_epoch_of_samplers_and_mixtures_reaches_the_masks(root):
    for make in (lambda slices: BucketBatchSampler(slices, 2), lambda slices: VolumeSampler(slices)):
        slices = open_slices(root)
        make(slices).set_epoch(4)
        assert masks(slices) == of_epoch(root, 4)
    real, synthetic = open_slices(root, volumes=["v0"]), open_slices(root, volumes=["v1"])
    mixed = mix(real, synthetic, 0.5)
    BucketBatchSampler(mixed, 2).set_epoch(4)
    assert masks(mixed) == of_epoch(root, 4)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_stream_has_the_masks_that_it_would_have_had(root, num_workers):
    stream = KSpaceStream(open_slices(root), batch_size=2, seed=1)
    stream.set_epoch(3)
    loader = DataLoader(stream, batch_size=2, num_workers=num_workers)
    whole = batched(loader)
    assert whole == of_epoch(root, 3)
    state = stream.state_dict(batches=1)
    resumed = KSpaceStream(open_slices(root), batch_size=2, seed=1)
    resumed.load_state_dict(state)
    rest = batched(DataLoader(resumed, batch_size=2, num_workers=num_workers))
    assert len(rest) == 4
    assert rest.items() <= whole.items()


def test_epochs_of_a_transform_inside_and_copies():
    inner = MaskedSlices(MASK, training=True)
    outer = MaskedSlices(MASK, inner)
    outer.set_epoch(2)
    parts = (np.ones((4, 64), np.complex64), None, None, {"padding_left": 0, "padding_right": 64}, "v", 1)
    there = pickle.loads(pickle.dumps(inner))  # noqa: S301 - made here
    assert there == inner
    assert there(*parts)[1].tobytes() == MASK(64, (0, 2, 1, *seed_of("v"))).tobytes() == inner(*parts)[1].tobytes()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(RequestError, match="expected 0 to 4294967295"):
        MaskedSlices(MASK, training=True, seed=seed)
