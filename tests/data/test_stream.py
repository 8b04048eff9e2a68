from __future__ import annotations

import itertools
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from phantom_corpus import make_corpus
from torch.utils.data import DataLoader

from rephase.corpus.index_writer import write_index
from rephase.data.kspace_slices import KSpaceSlices
from rephase.data.mix import mix
from rephase.data.order import ShardOrder, exact_fraction, shuffled
from rephase.data.stream import KSpaceStream
from rephase.errors import RequestError, VolumeError

SLICES = (5, 3, 1, 7, 4, 6)  # 26


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("stream") / "c"
    options = {"height": 6, "width": 4}
    store = make_corpus(
        root, **{f"v{n}": {"seed": n, "num_slices": count, **options} for n, count in enumerate(SLICES)}
    )
    write_index(store, [f"v{n}" for n in range(len(SLICES))])
    return root


def name_of(item) -> tuple[str, int]:
    return item[4], item[5]


def all_slices() -> list[tuple[str, int]]:
    return [(f"v{n}", number) for n, count in enumerate(SLICES) for number in range(count)]


def read(stream, num_workers=0, **options):
    loader = DataLoader(stream, batch_size=stream.batch_size, num_workers=num_workers, **options)
    return [[*zip(batch[4], batch[5].tolist(), strict=True)] for batch in loader]


def flat(batches):
    return [*itertools.chain.from_iterable(batches)]


def test_an_epoch_is_every_slice_once_in_an_order_of_seed_and_epoch(root):
    orders = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        stream = KSpaceStream(root, seed=seed, lanes=3, buffer=6)
        stream.set_epoch(epoch)
        orders[seed, epoch] = [name_of(item) for item in stream]
        assert [name_of(item) for item in stream] == orders[seed, epoch]
        assert sorted(orders[seed, epoch]) == all_slices()
        assert len(stream) == 26
    assert len({tuple(order) for order in orders.values()}) == 3
    assert [name_of(item) for item in KSpaceStream(root, shuffle=False)] == all_slices()


def test_items_are_those_of_the_slices(root):
    slices = KSpaceSlices(root)
    by_name = {name_of(item): item for item in (slices[i] for i in range(len(slices)))}
    for item in KSpaceStream(slices, readahead=3):
        assert item[0].tobytes() == by_name[name_of(item)][0].tobytes()


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 4, 8])
def test_ranks_share_one_order_equally(root, num_replicas):
    alone = [name_of(item) for item in KSpaceStream(root, seed=3)]
    ranks = [
        [name_of(item) for item in KSpaceStream(root, seed=3, rank=rank, num_replicas=num_replicas)]
        for rank in range(num_replicas)
    ]
    count = -(-26 // num_replicas)
    assert [len(given) for given in ranks] == [count] * num_replicas
    together = [*itertools.chain.from_iterable(zip(*ranks, strict=True))]
    assert together[:26] == alone
    assert together[26:] == alone[: len(together) - 26]  # the first again, for ranks that lack one
    dropped = [
        [name_of(item) for item in KSpaceStream(root, seed=3, rank=r, num_replicas=num_replicas, drop_last=True)]
        for r in range(num_replicas)
    ]
    assert [len(given) for given in dropped] == [26 // num_replicas] * num_replicas
    assert [*itertools.chain.from_iterable(zip(*dropped, strict=True))] == alone[: 26 // num_replicas * num_replicas]


def test_workers_give_the_same_batches_as_none(root):
    for rank, num_replicas in ((0, 1), (1, 2)):
        stream = KSpaceStream(root, batch_size=3, seed=3, rank=rank, num_replicas=num_replicas)
        expected = read(stream)
        for num_workers in (1, 2, 3):
            assert read(stream, num_workers, multiprocessing_context="fork") == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork.*:DeprecationWarning")
def test_an_epoch_that_is_set_reaches_persistent_workers(root, method):
    stream = KSpaceStream(root, batch_size=4, seed=3)
    loader = DataLoader(stream, batch_size=4, num_workers=2, persistent_workers=True, multiprocessing_context=method)
    for epoch in (0, 1, 2):
        stream.set_epoch(epoch)
        given = flat([*zip(batch[4], batch[5].tolist(), strict=True)] for batch in loader)
        other = KSpaceStream(root, seed=3)
        other.set_epoch(epoch)
        assert given == [name_of(item) for item in other]
    del loader


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1, 0), (1, 0)),
        pytest.param((1, 2), (1, 3), marks=pytest.mark.reliability),
        pytest.param((2, 2), (1, 0), marks=pytest.mark.reliability),
        ((1, 0), (2, 2)),
    ],
)
def test_a_state_goes_on_without_repeating_or_losing(root, before, after):
    """Of any number of ranks and workers, in any batch."""
    whole = KSpaceStream(root, seed=5)
    whole.set_epoch(2)
    expected = [name_of(item) for item in whole]
    for taken in (1, 2, 4):
        given: list[list] = []
        states = []
        for rank in range(before[0]):
            stream = KSpaceStream(root, batch_size=3, seed=5, rank=rank, num_replicas=before[0])
            stream.set_epoch(2)
            loader = DataLoader(stream, batch_size=3, num_workers=before[1])
            batches = [[*zip(b[4], b[5].tolist(), strict=True)] for b in itertools.islice(loader, taken)]
            given.append(flat(batches))
            states.append(stream.state_dict(batches=taken if before[1] else None))
        assert all(state == states[0] for state in states)
        first = [*itertools.chain.from_iterable(zip(*given, strict=True))]
        assert first == expected[: len(first)]
        rest = []
        for rank in range(after[0]):
            stream = KSpaceStream(root, batch_size=3, seed=5, rank=rank, num_replicas=after[0])
            stream.load_state_dict(states[0])
            stream.set_epoch(stream.epoch)  # as a training loop does; it keeps the position
            rest.append(flat(read(stream, after[1])))
            stream.set_epoch(3)
            assert len(flat(read(stream))) == len(stream)
        last = [*itertools.chain.from_iterable(zip(*rest, strict=True))]
        left = len(expected) - len(first)
        assert [*first, *last[:left]] == expected
        assert len(last) - left < after[0]


def test_a_state_can_be_taken_after_it_was_loaded(root):
    expected = [name_of(item) for item in KSpaceStream(root, seed=5)]
    given, state = [], KSpaceStream(root, seed=5).state_dict()
    while len(given) < 26:
        stream = KSpaceStream(root, seed=5)
        stream.load_state_dict(state)
        given += [name_of(item) for item in itertools.islice(stream, 4)]
        state = stream.state_dict()
    assert given == expected


def test_workers_take_up_their_own_states(root):
    """As torchdata's `StatefulDataLoader` does it: every worker's state is loaded in the worker of that number."""
    import torch.utils.data._utils.worker as worker_module

    expected = read(KSpaceStream(root, batch_size=3, seed=5))
    stream = KSpaceStream(root, batch_size=3, seed=5)
    given: list[list] = []
    try:
        for number in range(2):
            worker_module._worker_info = worker_module.WorkerInfo(id=number, num_workers=2, seed=0, dataset=stream)
            first = KSpaceStream(root, batch_size=3, seed=5)
            head = [name_of(item) for item in itertools.islice(first, 3)]
            second = KSpaceStream(root, batch_size=3, seed=5)
            second.load_state_dict(first.state_dict())
            given.append([head, *[[*batch] for batch in batched([name_of(item) for item in second], 3)]])
    finally:
        worker_module._worker_info = None
    turns = [batch for pair in itertools.zip_longest(*given) for batch in pair if batch]
    assert turns == expected


def batched(items, size):
    return [items[at : at + size] for at in range(0, len(items), size)]


def halves(root, seed=2, fraction=0.3):
    return mix(KSpaceSlices(root, volumes=["v0", "v1"]), KSpaceSlices(root, where=lambda row: row["name"] > "v1"),
               fraction, seed, num_slices=30)  # fmt: skip


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_mixture_resumes_in_mid_epoch(root, num_workers):
    whole = halves(root)
    for epoch in (0, 1):
        whole.set_epoch(epoch)
        expected = [whole[n][4:] for n in range(30)]
        given, states = [], []
        for rank in range(2):
            stream = KSpaceStream(halves(root), batch_size=3, rank=rank, num_replicas=2)
            stream.set_epoch(epoch)
            loader = DataLoader(stream, batch_size=3, num_workers=num_workers)
            batches = [[*zip(b[4], b[5].tolist(), strict=True)] for b in itertools.islice(loader, 2)]
            given.append(flat(batches))
            states.append(stream.state_dict(batches=2))
        first = [*itertools.chain.from_iterable(zip(*given, strict=True))]
        assert first == expected[:12]
        again = KSpaceStream(halves(root), batch_size=5)
        again.load_state_dict(states[1])
        again.set_epoch(epoch)
        assert first + flat(read(again, num_workers)) == expected


def test_a_state_of_another_mixture_is_refused(root):
    state = KSpaceStream(halves(root)).state_dict()
    for other in (halves(root, seed=3), halves(root, fraction=0.4), KSpaceSlices(root)):
        with pytest.raises(RequestError, match="state: slices is"):
            KSpaceStream(other).load_state_dict(state)


def test_what_cannot_be_taken_up_is_refused(root):
    stream = KSpaceStream(root, seed=5)
    state = stream.state_dict()
    with pytest.raises(RequestError, match="state: seed is 5; expected 6"):
        KSpaceStream(root, seed=6).load_state_dict(state)
    with pytest.raises(RequestError, match="state: slices is"):
        KSpaceStream(KSpaceSlices(root, volumes=["v0"]), seed=5).load_state_dict(state)
    with pytest.raises(RequestError, match="position 99"):
        stream.load_state_dict({**state, "position": 99})
    read(stream, 2)
    with pytest.raises(RequestError, match="workers read this stream ahead"):
        stream.state_dict()
    stream.load_state_dict({**state, "position": 5})
    assert len(flat(read(stream))) == 21
    with pytest.raises(RequestError, match="call set_epoch"):
        read(stream)
    stream.set_epoch(0)
    assert len(flat(read(stream))) == 26
    for wrong in ({"batch_size": 0}, {"lanes": 0}, {"readahead": -1}, {"rank": 2, "num_replicas": 2}, {"rank": 0}):
        with pytest.raises(RequestError, match="expected"):
            KSpaceStream(root, **wrong)
    with pytest.raises(RequestError, match="drop_last"):
        KSpaceStream(root, rank=0, num_replicas=27, drop_last=True)


def test_a_damaged_slice_is_an_error_in_its_turn(root, tmp_path):
    store = make_corpus(tmp_path / "c", a={"num_slices": 3}, b={"num_slices": 1, "seed": 2})
    write_index(store, ["a", "b"])
    path = tmp_path / "c/volumes/b/kspace/c.0.0.0"
    path.write_bytes(path.read_bytes()[:-200])
    items = iter(KSpaceStream(tmp_path / "c", shuffle=False, readahead=3))
    assert [name_of(next(items)) for _ in range(3)] == [("a", 0), ("a", 1), ("a", 2)]
    with pytest.raises(VolumeError, match="volume b, slice 0"):
        next(items)


def test_a_stream_may_be_pickled(root):
    stream = KSpaceStream(root, seed=5)
    stream.set_epoch(4)
    copy = pickle.loads(pickle.dumps(stream))  # noqa: S301
    assert [name_of(item) for item in copy] == [name_of(item) for item in stream]


@pytest.mark.parametrize(("lanes", "buffer"), [(1, 1), (4, 4), (4, 40), (16, 1024), (1000, 1)])
def test_an_order_has_every_slice_once(lanes, buffer):
    counts = np.array([1, 30, 2, 17, 9, 1])
    order = ShardOrder(counts, 7, 0, lanes, buffer)
    given = [order.slice_at(position) for position in range(60)]
    assert sorted(given) == list(range(60))
    assert [ShardOrder(counts, 7, 0, lanes, buffer).slice_at(p) for p in reversed(range(60))] == given[::-1]


def test_ranks_share_no_shard_where_their_number_divides_the_lanes():
    counts = np.full(64, 10)
    order = ShardOrder(counts, 1, 0, lanes=16, buffer=64)
    ranks = [{order.slice_at(position) // 10 for position in range(rank, 640, 8)} for rank in range(8)]
    assert all(len(shards) == 8 for shards in ranks)
    assert len(set.union(*ranks)) == 64


def test_shuffles_are_fair():
    """Each of the 24 orders of four numbers about equally often: chi-square of 23 degrees, its 99.99 % point is 57."""
    counts = Counter(tuple(shuffled(4, seed).tolist()) for seed in range(4800))
    assert len(counts) == 24
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 57


def test_a_shuffle_never_changes():
    """A state that was saved must mean the same after an update: worked out once with Python's own integers."""

    def finish(value: int) -> int:
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    golden = 0x9E3779B97F4A7C15
    state = 0
    for word in (11, 2**40):
        state = finish((state + golden + word) % 2**64)
    keys = [finish((number * golden + state) % 2**64) for number in range(50)]
    assert shuffled(50, 11, 2**40).tolist() == sorted(range(50), key=keys.__getitem__)
    assert exact_fraction(0.29) * 100 == 29
