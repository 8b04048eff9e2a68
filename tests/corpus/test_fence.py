"""Replaced volumes are switched whole, and who lost the lease changes nothing any more."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from phantom_corpus import make_arrays, make_attributes, make_corpus

import rephase.corpus.storage.local as local
from rephase.corpus.lease import Lease
from rephase.corpus.storage.local import LocalStorage
from rephase.corpus.storage.open import open_run_folder, open_storage
from rephase.corpus.store import CorpusStore
from rephase.errors import LeaseLostError


def snapshot(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def commit(store: CorpusStore, seed: int) -> None:
    arrays = make_arrays(seed=seed)
    store.commit_volume("v", arrays, make_attributes(arrays, name="v"))


class Killed(BaseException):
    """The end of a process: from then on, no call of it changes the disk, not even in a `finally` block."""


def commit_until(root: Path, seed: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Commit, killed before the call of this number that changes the disk; return the number of calls."""
    count = 0

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **named: object) -> object:
            nonlocal count
            count += 1
            if count > steps:
                raise Killed
            return call(*arguments, **named)

        return wrapped

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        for name in ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        commit(CorpusStore.open(root), seed)
    return count


def test_a_kill_at_any_step_of_a_replacement_leaves_the_old_volume_the_new_one_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_corpus(tmp_path / "old", v={"seed": 1})
    make_corpus(tmp_path / "new", v={"seed": 5})
    old, new = snapshot(tmp_path / "old"), snapshot(tmp_path / "new")
    without = {key: data for key, data in old.items() if not key.startswith("volumes/v/")}
    shutil.copytree(tmp_path / "old", tmp_path / "whole")
    total = commit_until(tmp_path / "whole", 5, 10**6, monkeypatch)
    assert snapshot(tmp_path / "whole") == new
    seen = []
    for steps in sorted({*range(0, total, 8), *range(total - 20, total)}):
        root = tmp_path / f"c{steps}"
        shutil.copytree(tmp_path / "old", root)
        assert commit_until(root, 5, steps, monkeypatch) > steps
        found = snapshot(root)
        assert found in (old, new, without)
        seen.append((old, new, without).index(found))
        with Lease(root):
            pass
        assert list((tmp_path / f"c{steps}.run/partial").iterdir()) == []
    assert (seen[0], seen[-1]) == (0, 1)
    assert seen == sorted(seen, key=[0, 2, 1].index)
    assert seen.count(2) == 1  # between two renames


@pytest.fixture
def stopped(tmp_path: Path) -> tuple[Path, CorpusStore, Lease]:
    """A corpus with one volume, the store of a builder, and its lease."""
    make_corpus(tmp_path / "c", v={"seed": 1})
    lease = Lease(tmp_path / "c").__enter__()
    return tmp_path / "c", CorpusStore.open(tmp_path / "c", lease.token), lease


def take_over(root: Path) -> None:
    """Take the lease as a builder does that found it expired."""
    path = root.with_name(root.name + ".run") / "lease.json"
    holder = json.loads(path.read_text())
    path.write_text(json.dumps({**holder, "pid": 2**22 + 1, "process_started": 1.0}))
    Lease(root).__enter__()


def test_a_holder_commits_and_one_that_lost_the_lease_does_not(stopped: tuple[Path, CorpusStore, Lease]) -> None:
    root, store, _ = stopped
    commit(store, 2)
    before = snapshot(root)
    take_over(root)
    with pytest.raises(LeaseLostError, match="took the lease over"):
        commit(store, 3)
    assert snapshot(root) == before


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("step", ["_write_flushed", "sync_folder", "_fetch_from_disk"])
def test_a_writer_that_was_stopped_at_any_write_cannot_finish_it(
    stopped: tuple[Path, CorpusStore, Lease], monkeypatch: pytest.MonkeyPatch, step: str, new: bool
) -> None:
    root, _, lease = stopped
    call: Callable[..., object] = getattr(local, step)
    calls = 0

    arrays = make_arrays(seed=4)
    name = "w" if new else "v"
    monkeypatch.setattr("rephase.corpus.store.check_holder", lambda root, token: None)  # it was checked a moment ago
    for when in (1, 2, 4):
        calls, before = 0, {}

        def stop(*arguments: object, when: int = when, before: dict[str, bytes] = before) -> object:
            nonlocal calls
            calls += 1
            result = call(*arguments)
            if calls == when:
                open_storage(root).admit(f"other-{when}")
                before |= snapshot(root)
            return result

        storage = open_storage(root)
        storage.admit(lease.token)
        monkeypatch.setattr(local, step, stop)
        with pytest.raises(LeaseLostError):
            CorpusStore.open(root, lease.token).commit_volume(name, arrays, make_attributes(arrays, name=name))
        monkeypatch.setattr(local, step, call)
        assert snapshot(root) == before
        assert [path.name for path in (root.with_name("c.run") / "partial").iterdir()] == [f"other-{when}"]


def test_every_change_by_a_storage_that_was_shut_out_is_refused(stopped: tuple[Path, CorpusStore, Lease]) -> None:
    root, store, lease = stopped
    take_over(root)
    before = snapshot(root)
    storage = store.storage
    for change in (
        lambda: storage.put("index/zarr.json", b"{}"),
        lambda: storage.delete("volumes/v/zarr.json"),
        storage.staging,
        lambda: open_run_folder(root, lease.token).put("failures.json", b"{}"),
        lambda: store.write_attributes({}),
    ):
        with pytest.raises(LeaseLostError):
            change()
    assert snapshot(root) == before


def test_what_killed_writers_left_goes_when_the_lease_is_taken(tmp_path: Path) -> None:
    make_corpus(tmp_path / "c", v={})
    partials = tmp_path / "c.run/partial"
    (partials / "old-token/volumes").mkdir(parents=True)
    (partials / "old-token/volumes/x").write_bytes(b"1")
    (partials / "c.0.0.0.0123").write_bytes(b"1")
    (partials / "link").symlink_to(tmp_path / "c")
    before = snapshot(tmp_path / "c")
    with Lease(tmp_path / "c") as lease:
        assert [path.name for path in partials.iterdir()] == [lease.token]
    assert list(partials.iterdir()) == []
    assert snapshot(tmp_path / "c") == before


def test_a_volume_on_another_file_system_than_the_run_folder_is_replaced_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_corpus(tmp_path / "c", v={"seed": 1})
    new = snapshot(make_corpus(tmp_path / "new", v={"seed": 5}).storage and tmp_path / "new")

    def refuse(self: LocalStorage, staged: object, prefix: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(LocalStorage, "switch", refuse)
    commit(store, 5)
    assert snapshot(tmp_path / "c") == new
