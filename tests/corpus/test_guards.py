"""Each guard of a commit, of the lease, of a repair and of reading has a test that fails without it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google_crc32c
import numpy as np
import pytest
from phantom_corpus import make_arrays, make_attributes, make_corpus

import rephase.corpus.store as store_module
import rephase.pipeline.build_volume as pipeline
import rephase.pipeline.timeout as timeout
from rephase.corpus.decoding import ShardError, SliceReader, decode_shard
from rephase.corpus.encoding import encode_array
from rephase.corpus.index import read_index
from rephase.corpus.index_writer import write_index
from rephase.corpus.layout import ArrayLayout
from rephase.corpus.storage.local import LocalStorage
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError

Event = tuple[str, str]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Every flush, rename and removal, in order, with the names of the files."""
    found: list[Event] = []

    def recorded(name: str) -> None:
        call: Callable[..., object] = getattr(os, name)

        def wrapped(first: Any, *others: Any, **named: Any) -> object:
            path = (
                str(Path(f"/proc/self/fd/{first}").readlink())
                if name == "fsync"
                else str(others[0] if others else first)
            )
            found.append((name, path))
            return call(first, *others, **named)

        monkeypatch.setattr(os, name, wrapped)

    for name in ("fsync", "replace", "rename", "unlink"):
        recorded(name)
    return found


def test_a_file_is_flushed_before_its_rename_and_its_folder_after_it(tmp_path: Path, events: list[Event]) -> None:
    storage = LocalStorage(str(tmp_path / "c"))
    storage.put("a/b", b"1")
    events.clear()
    storage.put("a/b", b"2")
    flushed, renamed, folder = [
        event for event in events if event[0] != "unlink"
    ]  # of the temporary file, if it is left
    assert (flushed[0], Path(flushed[1]).parent) == ("fsync", tmp_path / "c.run/partial")
    assert renamed == ("replace", str(tmp_path / "c/a/b"))
    assert folder == ("fsync", str(tmp_path / "c/a"))


def test_a_new_folder_is_flushed_into_the_one_above(tmp_path: Path, events: list[Event]) -> None:
    LocalStorage(str(tmp_path / "c")).put("a/b", b"1")
    assert [path for name, path in events if name == "fsync"][1:] == [
        str(tmp_path), str(tmp_path / "c"), str(tmp_path / "c/a"),
    ]  # fmt: skip


@pytest.mark.parametrize("token", ["", "t"])
def test_a_deletion_is_flushed_before_anything_else_happens(tmp_path: Path, events: list[Event], token: str) -> None:
    storage = LocalStorage(str(tmp_path / "c"), token=token)
    storage.admit(token or "other")
    storage.put("a/b", b"1")
    storage.put("a/c", b"1")
    events.clear()
    storage.delete("a/b")
    assert not (tmp_path / "c/a/b").exists()
    assert events[0][0] == ("rename" if token else "unlink")
    assert events[-1] == ("fsync", str(tmp_path / "c/a"))


class InPlace(LocalStorage):
    """A storage that cannot switch, as an object store, and records what is changed in which order."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.changes: list[Event] = []

    def staging(self) -> Any:
        return None

    def put(self, key: str, data: bytes) -> None:
        self.changes.append(("put", key))
        super().put(key, data)

    def delete(self, key: str) -> None:
        self.changes.append(("delete", key))
        super().delete(key)


def test_the_receipt_is_deleted_before_a_shard_changes_and_written_after_all(tmp_path: Path) -> None:
    store = make_corpus(tmp_path / "c", v={"seed": 1})
    storage = InPlace(str(tmp_path / "c"))
    store.storage = storage
    arrays = make_arrays(seed=2)
    store.commit_volume("v", arrays, make_attributes(arrays, name="v"))
    receipt = "volumes/v/zarr.json"
    assert storage.changes[0] == ("delete", receipt)
    assert storage.changes[-1] == ("put", receipt)
    assert [key for _, key in storage.changes].count(receipt) == 2


def test_a_receipt_that_comes_back_changed_is_withdrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_corpus(tmp_path / "c")
    holds = store.storage.holds
    monkeypatch.setattr(store.storage, "holds", lambda key, data: key != "volumes/v/zarr.json" and holds(key, data))
    arrays = make_arrays()
    with pytest.raises(OSError, match="bytes read back"):
        store.commit_volume("v", arrays, make_attributes(arrays, name="v"))
    assert store.names() == []


@pytest.mark.parametrize("array", ["kspace", "reconstruction_esc"])
def test_a_shard_that_decodes_to_other_values_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: str
) -> None:
    store = make_corpus(tmp_path / "c")
    arrays = make_arrays()

    def encode_others(layout: ArrayLayout, values: Any) -> Iterator[tuple[str, range, bytes]]:
        yield from encode_array(layout, values + 1 if layout.prefix.endswith(array) else values)

    monkeypatch.setattr(store_module, "encode_array", encode_others)
    with pytest.raises(OSError, match="decoding the shard does not return the encoded values"):
        store.commit_volume("v", arrays, make_attributes(arrays, name="v"))
    assert store.names() == []


def test_a_conditional_write_waits_for_the_lock(tmp_path: Path) -> None:
    storage = LocalStorage(str(tmp_path / "run"))
    tag = storage.put_if("lease.json", b"1", None)
    done = threading.Event()

    def write() -> None:
        storage.put_if("lease.json", b"2", tag)
        done.set()

    with (tmp_path / "run/lease.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=write)
        thread.start()
        assert not done.wait(0.3)
        assert storage.get("lease.json") == b"1"
    thread.join(30)
    assert storage.get("lease.json") == b"2"


def edited_shard(data: bytes, layout: ArrayLayout, change: Callable[[np.ndarray], None], padding: bytes = b"") -> bytes:
    size = 16 * layout.chunks_per_shard + 4
    index = np.frombuffer(data[-size:-4], "<u8").reshape(-1, 2).copy()
    change(index)
    tail = index.tobytes()
    return data[:-size] + padding + tail + google_crc32c.value(tail).to_bytes(4, "little")


def test_a_shard_longer_than_its_chunks_and_a_missing_chunk_are_errors(tmp_path: Path) -> None:
    store = make_corpus(tmp_path / "c", v={})
    layout = ArrayLayout.of("kspace", make_arrays()["kspace"].shape, "v")
    path = tmp_path / "c" / layout.locate(0)[0]
    data = path.read_bytes()
    with pytest.raises(ShardError, match="longer or shorter than its chunks"):
        list(decode_shard(edited_shard(data, layout, lambda index: None, b"\0" * 8), layout, 3))

    def forget(index: np.ndarray) -> None:
        index[2] = 2**64 - 1

    path.write_bytes(edited_shard(data, layout, forget))
    with pytest.raises(ShardError, match="the chunk was never written"):
        SliceReader(store.storage).read_slice(layout, 2)
    with pytest.raises(ShardError, match="does not list chunks 0 to 2"):
        list(decode_shard(path.read_bytes(), layout, 3))


def test_an_index_whose_values_changed_is_refused_by_its_checksum(tmp_path: Path) -> None:
    write_index(make_corpus(tmp_path / "c", v={}), ["v"])
    path = tmp_path / "c/index/zarr.json"
    document = path.read_bytes()
    path.write_bytes(document.replace(b'"padding_left": [0]', b'"padding_left": [1]'))
    assert path.read_bytes() != document
    for opened in (read_index, KSpaceSlices):
        with pytest.raises(RequestError, match="do not match its crc32"):
            opened(tmp_path / "c")


def test_waiting_for_other_volumes_does_not_count_to_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    armed: list[float | None] = [None]
    clock = [0.0]
    fake = SimpleNamespace(
        cancel_dump_traceback_later=lambda: armed.__setitem__(0, None),
        dump_traceback_later=lambda wait, **_: armed.__setitem__(0, wait),
    )
    monkeypatch.setattr(timeout, "faulthandler", fake)
    monkeypatch.setattr(timeout.time, "monotonic", lambda: clock[0])
    watchdog = timeout.Watchdog(timeout.TimeLimit(100.0), tmp_path)
    seen: list[float | None] = []

    @contextlib.contextmanager
    def lock() -> Iterator[None]:
        seen.append(armed[0])
        clock[0] += 1000.0
        yield

    with watchdog.volume("v"):
        clock[0] += 40.0
        with pipeline._holding(lock(), SimpleNamespace(watchdog=watchdog)):  # type: ignore[arg-type]
            seen.append(armed[0])
    assert seen == [None, 60.0]
    assert armed == [None]
    assert watchdog._file is not None
    watchdog._file.close()
