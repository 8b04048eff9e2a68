"""What every writable storage keeps: conditional writes, appending, removal."""

from __future__ import annotations

from rephase.corpus.storage.base import Storage


def check_storage(storage: Storage) -> None:
    assert storage.get_tagged("a.json") is None
    first = storage.put_if("a.json", b"1", None)
    assert first is not None
    assert storage.get_tagged("a.json") == (b"1", first)
    assert storage.put_if("a.json", b"2", None) is None
    assert storage.put_if("a.json", b"2", "another") is None
    second = storage.put_if("a.json", b"2", first)
    assert second not in (None, first)
    storage.delete_if("a.json", first)
    assert storage.get("a.json") == b"2"
    storage.delete_if("a.json", second)
    assert storage.get("a.json") is None

    storage.append("runs/log", b"one\n")
    storage.append("runs/log", b"two\n")
    assert storage.get("runs/log") == b"one\ntwo\n"
    storage.put("runs/more/x", b"")
    storage.put("kept", b"")
    storage.delete_tree("runs")
    storage.delete_tree("runs")
    assert [key for key in storage.keys("") if not key.endswith(".lock")] == ["kept"]
    free = storage.free_bytes()
    assert free is None if not storage.is_local else free is not None and free > 0
