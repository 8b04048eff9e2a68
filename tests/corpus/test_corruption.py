"""Every byte region of a corpus flipped, cut, deleted, zeroed: verify finds all of it, and no wrong slice is given."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fuzz.judge import loader_slices
from phantom_corpus import make_corpus

import rephase.corpus.layout
from rephase.corpus.index_writer import write_index
from rephase.corpus.verify import verify_corpus
from rephase.errors import RequestError

FAULT = "every byte region damaged"
DAMAGES = ("flip", "truncate", "delete", "zero", "append", "swap")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three volumes, one with coils, one in several shards."""
    root = tmp_path_factory.mktemp("sound") / "c.zarr"
    most = rephase.corpus.layout.MAX_SHARD_BYTES
    rephase.corpus.layout.MAX_SHARD_BYTES = 4 * 24 * 20 * 8
    try:
        store = make_corpus(
            root, a={"seed": 1}, b={"seed": 2, "coils": 2, "num_slices": 2},
            c={"seed": 3, "num_slices": 10, "height": 24, "width": 20},
        )  # fmt: skip
        write_index(store, ["a", "b", "c"])
        yield root
    finally:
        rephase.corpus.layout.MAX_SHARD_BYTES = most


def regions(root: Path) -> list[tuple[str, str, int, int]]:
    """Every file in parts: (region's name, key, first byte, last byte + 1)."""
    found = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        key, size = path.relative_to(root).as_posix(), path.stat().st_size
        if path.name.startswith("c."):
            tail = 16 * 4 + 4
            found += [("data", key, 0, size - tail), ("shard index", key, size - tail, size)]
        elif key == "index/zarr.json":
            found += [("index", key, at, min(at + 400, size)) for at in range(0, size, 400)]
        elif key.count("/") == 2 and key.startswith("volumes/"):
            found += [("receipt", key, at, min(at + 400, size)) for at in range(0, size, 400)]
        else:
            found.append(("metadata", key, 0, size))
    return found


def damage(path: Path, kind: str, first: int, last: int, source: random.Random) -> bool:
    """Damage a file within a region; False where that changed nothing."""
    data = path.read_bytes()
    at = source.randrange(first, last)
    size = min(source.choice((1, 7, 64)), last - at)
    if kind == "delete":
        path.unlink()
        return True
    changed = {
        "flip": lambda: data[:at] + bytes([data[at] ^ 1 << source.randrange(8)]) + data[at + 1 :],
        "truncate": lambda: data[:at],
        "zero": lambda: data[:at] + bytes(size) + data[at + size :],
        "append": lambda: data + source.randbytes(size),
        "swap": lambda: data[:at] + data[at : at + 2 * size][::-1] + data[at + 2 * size :],
    }[kind]()
    path.write_bytes(changed)
    return changed != data


def check_cases(corpus: Path, folder: Path, seed: int) -> int:
    """Check every kind of damage in every region; return how many changed anything."""
    whole, _ = loader_slices(corpus)
    cases = [(region, kind) for region in regions(corpus) for kind in DAMAGES]
    return sum(check_case(corpus, whole, folder, region, kind, seed) for region, kind in cases)


def check_case(
    corpus: Path, whole: Sequence[Any], folder: Path, region: tuple[str, str, int, int], kind: str, seed: int
) -> bool:
    """Damage a copy; return whether this changed anything."""
    _, key, first, last = region
    root = folder / "c.zarr"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(corpus, root)
    if not damage(root / key, kind, first, last, random.Random(f"{seed}/{key}/{first}/{kind}")):  # noqa: S311
        return False
    given, num_refused = loader_slices(root)
    if given is not None:
        assert [item for item in given if item not in whole] == [], (region, kind)
        assert len(given) + num_refused == len(whole), (region, kind)
    try:
        found = not verify_corpus(root, workers=1).ok
    except RequestError:
        found = True
    assert found, (region, kind)
    return True


def test_all_kinds_of_damage_in_all_regions_are_found(corpus, tmp_path, record_property):
    """At least 200 cases, one of every kind of damage in every region."""
    record_property("fault", FAULT)
    assert {region[0] for region in regions(corpus)} == {"data", "shard index", "metadata", "receipt", "index"}
    count = check_cases(corpus, tmp_path, 1)
    record_property("cases", count)
    assert count >= 200


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(2, 7))
def test_more_damage_is_found(corpus, tmp_path, seed, record_property):
    record_property("fault", FAULT)
    record_property("cases", check_cases(corpus, tmp_path, seed))


def test_a_sound_corpus_is_sound(corpus):
    assert verify_corpus(corpus, workers=1).ok
    slices, num_refused = loader_slices(corpus)
    assert len(slices) == 15 and num_refused == 0
    assert len({path.name for path in (corpus / "volumes/c/kspace").glob("c.*")}) > 1
