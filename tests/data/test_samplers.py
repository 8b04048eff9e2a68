from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from phantom_corpus import make_corpus
from torch.utils.data import DataLoader, DistributedSampler, Subset

from rephase.corpus.index_writer import write_index
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.mix import mix
from rephase.data.samplers import BucketBatchSampler, VolumeSampler
from rephase.data.stream import KSpaceStream
from rephase.errors import RequestError


@pytest.fixture(scope="module")
def slices(tmp_path_factory) -> KSpaceSlices:
    return KSpaceSlices(corpus(tmp_path_factory.mktemp("samplers") / "c", (5, 3, 2, 7, 4)))


def corpus(root: Path, counts, first: int = 0) -> Path:
    """Volumes of two sizes in turn."""
    volumes = {
        f"v{first + n}": {"seed": first + n, "num_slices": count, "height": 6, "width": (4, 8)[n % 2]}
        for n, count in enumerate(counts)
    }
    write_index(make_corpus(root, **volumes), list(volumes))
    return root


def names(slices, numbers):
    return [(slices[number][4], slices[number][5]) for number in numbers]


def test_a_volume_stays_on_one_rank(slices):
    ranks = [list(VolumeSampler(slices, 2, rank, pad=False)) for rank in range(2)]
    assert [{name for name, _ in names(slices, rank)} for rank in ranks] == [{"v0", "v2", "v4"}, {"v1", "v3"}]
    assert sorted(ranks[0] + ranks[1]) == list(range(21))
    padded = [list(VolumeSampler(slices, 2, rank)) for rank in range(2)]
    assert [len(rank) for rank in padded] == [11, 11]
    assert padded[0] == ranks[0]
    assert padded[1] == ranks[1] + ranks[1][:1]


def test_volumes_are_shuffled_whole_and_anew_in_every_epoch(slices):
    sampler = VolumeSampler(slices, 1, 0, shuffle=True, seed=1)
    orders = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        given = names(slices, sampler)
        assert sorted(given) == names(slices, range(21))
        assert all(number == 0 or given[place - 1] == (name, number - 1) for place, (name, number) in enumerate(given))
        orders.append(tuple(dict.fromkeys(name for name, _ in given)))
    assert len(set(orders)) > 1
    with pytest.raises(RequestError, match="5 volumes for 6 ranks"):
        VolumeSampler(slices, 6, 0)


def test_fastmris_own_sampler_takes_the_slices(slices):
    samples = list(slices.raw_samples)
    assert len(samples) == len(slices.raw_samples) == 21
    assert [(str(fname), number) for fname, number, _ in samples] == names(slices, range(21))
    assert slices.raw_samples[-1].metadata["recon_size"] == (6, 4, 1)
    assert [sample.slice_ind for sample in slices.raw_samples[4:6]] == [4, 0]
    fastmri = pytest.importorskip("fastmri.data", reason="the fastmri package is not installed")
    theirs = fastmri.VolumeSampler(slices, num_replicas=2, rank=1, shuffle=False)
    assert list(theirs) == list(VolumeSampler(slices, 2, 1))


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_of_equal_matrices(slices, drop_last):
    ranks = []
    for rank in range(2):
        sampler = BucketBatchSampler(slices, 4, 2, rank, seed=3, drop_last=drop_last)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
        for kspace, mask, *_ in DataLoader(slices, batch_sampler=sampler):
            assert mask.shape == (len(kspace), kspace.shape[-1])
    assert len(ranks[0]) == len(ranks[1]) == (2 if drop_last else 3)  # 11 and 10 slices: 2 + 2 of four, 1 + 1 smaller
    given = Counter(number for rank in ranks for batch in rank for number in batch)
    assert set(given.values()) == {1}
    assert len(given) == (16 if drop_last else 21)
    again = BucketBatchSampler(slices, 4, 2, 0, seed=3, drop_last=drop_last)
    assert list(again) == ranks[0]
    again.set_epoch(1)
    assert list(again) != ranks[0]


def test_batches_in_order_and_what_is_refused(slices):
    assert list(BucketBatchSampler(slices, 6, shuffle=False)) == [
        [0, 1, 2, 3, 4, 8], [9, 17, 18, 19, 20], [5, 6, 7, 10, 11, 12], [13, 14, 15, 16]
    ]  # fmt: skip
    with pytest.raises(RequestError, match="no batch of 12"):
        BucketBatchSampler(slices, 12, drop_last=True)
    with pytest.raises(RequestError, match="expected 1 or more"):
        BucketBatchSampler(slices, 0)


def test_torchs_distributed_sampler(slices):
    loader = DataLoader(slices, batch_size=1, sampler=DistributedSampler(slices, 2, 1, shuffle=False))
    assert [(batch[4][0], int(batch[5])) for batch in loader] == names(slices, range(1, 21, 2)) + names(slices, [0])


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> KSpaceSlices:
    return KSpaceSlices(corpus(tmp_path_factory.mktemp("real") / "c", (3, 4), first=10))


@pytest.mark.parametrize("fraction", [0.0, 0.15, 0.29, 1 / 3, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_share_is_exact_everywhere(real, slices, fraction, seed):
    mixed = mix(real, slices, fraction, seed, num_slices=200)
    exact = Fraction(repr(fraction))
    kinds = [mixed.source(number)[0] for number in range(200)]
    assert sum(kinds) == mixed.num_real == int(200 * exact)
    for start in range(0, 180):
        assert abs(sum(kinds[start : start + 20]) - 20 * exact) < 1
    for is_real, source in ((True, real), (False, slices)):
        counts = Counter(number for kind, number in map(mixed.source, range(200)) if kind == is_real)
        assert not counts or max(counts.values()) - min(counts[n] for n in range(len(source))) <= 1


def test_an_epoch_is_as_long_as_no_slice_comes_twice(real, slices):
    mixed = mix(real, slices, 0.25, seed=4)
    assert len(mixed) == 28
    assert Counter(mixed.source(number) for number in range(28)) == Counter(
        {**{(True, n): 1 for n in range(7)}, **{(False, n): 1 for n in range(21)}}
    )
    small = mix(real, slices, 0.5, seed=4)
    assert len(small) == 14
    assert len({small.source(number) for number in range(14)}) == 14
    for number in (0, 5, -1):
        is_real, own = mixed.source(number)
        assert mixed[number][4:] == (real if is_real else slices)[own][4:]
    with pytest.raises(IndexError):
        mixed[28]


def test_a_mixture_is_reproducible_and_new_in_every_epoch(real, slices):
    def given(seed, epoch):
        mixed = mix(real, slices, 0.5, seed)
        mixed.set_epoch(epoch)
        return [mixed.source(number) for number in range(len(mixed))]

    assert given(1, 0) == given(1, 0)
    assert len({tuple(given(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}) == 6


def test_an_epoch_of_a_mixture_reaches_persistent_workers(real, slices):
    mixed = mix(real, slices, 0.5, seed=4, num_slices=12)
    loader = DataLoader(mixed, batch_size=1, num_workers=2, persistent_workers=True, multiprocessing_context="spawn")
    for epoch in (0, 1):
        mixed.set_epoch(epoch)
        given = [(batch[4][0], int(batch[5])) for batch in loader]
        assert given == [mixed[number][4:] for number in range(12)]
    del loader


@pytest.mark.parametrize("fraction", [0.15, 0.25, 0.5, 0.0, 1.0])
@pytest.mark.parametrize("num_slices", [None, 90])
def test_buckets_of_a_mixture_keep_its_share(real, slices, fraction, num_slices):
    mixed = mix(real, slices, fraction, seed=4, num_slices=num_slices)
    sampler = BucketBatchSampler(mixed, 4, seed=1)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        orders.append(batches)
        for batch in batches:
            assert len({mixed[number][0].shape for number in batch}) == 1
            assert abs(sum(mixed.source(number)[0] for number in batch) - fraction * len(batch)) < 1
        for is_real, own in ((True, real), (False, slices)):
            counts = Counter(number for batch in batches for kind, number in batch if kind == is_real)
            if num_slices is None:
                assert max(counts.values(), default=0) <= 1  # no slice twice
            else:  # of each matrix as often as any other, or once more
                shapes = [[counts[n] for n in range(len(own)) if own[n][0].shape[1] == width] for width in (4, 8)]
                assert all(max(one) - min(one) <= 1 for one in shapes)
    assert orders[0] != orders[1]
    assert sum(map(len, orders[0])) == (num_slices or sum(map(len, orders[1])))
    sampler.set_epoch(0)
    assert list(sampler) == orders[0]
    collated = list(DataLoader(mixed, batch_sampler=sampler))
    assert [batch[4][0] for batch in collated] == [mixed[batch[0]][4] for batch in orders[0]]
    assert all(isinstance(batch[3]["max"], torch.Tensor) for batch in collated)


def test_buckets_of_a_mixture_lose_as_little_as_the_share_permits(real, slices):
    """Of width 4: 3 real and 11 synthetic; of width 8: 4 and 10. A quarter is real: 12 and 13 slices."""
    (together,) = {sum(map(len, BucketBatchSampler(mix(real, slices, 0.25), size))) for size in (1, 4, 5)}
    assert together == 12 + 13
    ranks = [list(BucketBatchSampler(mix(real, slices, 0.25), 4, 2, rank)) for rank in range(2)]
    assert list(map(len, ranks)) == [4, 4]
    whole = list(BucketBatchSampler(mix(real, slices, 0.25), 4, drop_last=True, shuffle=False))
    assert [len(batch) for batch in whole] == [4] * 6
    assert [sum(kind for kind, _ in batch) for batch in whole] == [1] * 6


def test_matrices_of_one_set_only_are_told(real, slices):
    narrow = KSpaceSlices(real.root, volumes=["v10"])
    with pytest.warns(UserWarning, match="10 of 24 slices have a matrix that is only in one set") as told:
        sampler = BucketBatchSampler(mix(narrow, slices, 0.25), 4)
    assert "\n" not in str(told[0].message)
    assert sum(map(len, sampler)) == 12
    wide = KSpaceSlices(slices.root, where=lambda row: row["width"] == 8)
    with pytest.raises(RequestError, match=r"real 6 x 4 and synthetic 6 x 8 have no matrix in common; .*FitMatrix"):
        BucketBatchSampler(mix(narrow, wide, 0.25), 4)
    assert sum(map(len, BucketBatchSampler(mix(narrow, wide, 0.0), 4))) == 10


def test_what_is_no_data_set_of_slices_is_refused_in_one_line(real, slices):
    mixed, subset = mix(real, slices, 0.5), Subset(slices, [0, 1])
    for attempt in (
        lambda: VolumeSampler(subset),
        lambda: BucketBatchSampler(subset, 2),
        lambda: KSpaceStream(subset),
        lambda: mix(real, subset),
    ):
        with pytest.raises(RequestError, match="found Subset; expected KSpaceSlices, FastMRISlices or a mixture"):
            attempt()
    with pytest.raises(RequestError, match="a mixture has slices, no whole volumes; expected KSpaceSlices"):
        VolumeSampler(mixed)
    assert len({mix(mixed, slices, 0.5).source(n) for n in range(20)}) == 20  # a mixture of a mixture


def test_shares_that_make_no_sense(real, slices):
    for fraction in (-0.1, 1.1, float("nan")):
        with pytest.raises(RequestError, match="expected 0 to 1"):
            mix(real, slices, fraction)
    with pytest.raises(RequestError, match="too few"):
        mix(real, slices, 0.5, num_slices=0)
    assert len(mix(real, slices, 0.001)) == 21
