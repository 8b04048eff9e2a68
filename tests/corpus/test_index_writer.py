"""The index as it is written: rows in the order of the manifest, one document with its checksum."""

from __future__ import annotations

import json
import tracemalloc
import zlib

import numpy as np
import pytest
from phantom_corpus import make_arrays, make_attributes, make_corpus

from rephase.corpus.index import COLUMNS, INDEX_KEY, index_document, index_row, read_index, verify_checksum
from rephase.corpus.index_writer import IndexBuilder, IndexRows, read_names, write_index
from rephase.corpus.layout import group_document
from rephase.facts import facts_where


def make_rows(count: int) -> list[dict]:
    """Rows whose values are as awkward as JSON allows."""
    drawn = np.random.default_rng(count)
    texts = ("x", 'ä"\\\n\t', '"name": [', "\u2028", "漢]", "")
    return [
        {
            **dict.fromkeys(COLUMNS, None),
            "name": f"v{number}",
            "max": float(drawn.normal() * 10.0 ** drawn.integers(-30, 30)),
            "patient_id": texts[drawn.integers(len(texts))],
            "audit": ["a", "b", "c"][: drawn.integers(4)],
            "has_mask": bool(drawn.random() < 0.5),
            "seed": int(drawn.integers(2**63 - 1)),
        }
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 513])
def test_the_document_is_that_of_a_group_with_the_checksum_of_its_bytes(count):
    rows = make_rows(count)
    columns = {column: [row[column] for row in rows] for column in COLUMNS}
    written = b"".join(index_document(columns))
    verify_checksum(written)
    attributes = json.loads(written)["attributes"]
    checksum = attributes["crc32"]
    # a column that not every corpus has is left out where no row has a value
    optional = {column for column in columns if column not in attributes["columns"]}
    assert optional <= set(facts_where(always=False))
    assert attributes["columns"] == {column: values for column, values in columns.items() if column not in optional}
    blank = group_document(attributes | {"crc32": "0" * 8}, indent=None)
    assert checksum == f"{zlib.crc32(blank):08x}"
    assert written == group_document(attributes, indent=None)


def test_a_changed_digit_does_not_match_the_checksum():
    rows = make_rows(3)
    written = b"".join(index_document({column: [row[column] for row in rows] for column in COLUMNS}))
    with pytest.raises(ValueError, match="crc32"):
        verify_checksum(written.replace(b'"v1"', b'"v7"'))
    with pytest.raises(ValueError, match="crc32"):
        verify_checksum(b"{}")


def test_names_are_read_in_pieces_of_any_size(tmp_path, monkeypatch):
    store = make_corpus(tmp_path / "c")
    rows = make_rows(40)
    columns = {column: [row[column] for row in rows] for column in COLUMNS}
    store.storage.put(INDEX_KEY, b"".join(index_document(columns)))
    for size in (1, 2, 7, 9, 100, 1 << 20):
        monkeypatch.setattr("rephase.corpus.index_writer._PIECE_BYTES", size)
        assert list(read_names(store.storage)) == [f"v{number}" for number in range(40)]


@pytest.mark.parametrize("document", [b"", b"{", b'"name": ["a", "b', b'"name": ["a", "../b", "b', b"\xff" * 50])
def test_a_damaged_index_gives_the_names_that_are_whole(tmp_path, document):
    store = make_corpus(tmp_path / "c")
    store.storage.put(INDEX_KEY, document)
    assert list(read_names(store.storage)) == (["a"] if b'"a"' in document else [])
    store.storage.delete(INDEX_KEY)
    assert list(read_names(store.storage)) == []


def add_rows(builder: IndexBuilder, names: list[str], receipt: dict) -> None:
    for name in names:
        builder.add(name, receipt)


@pytest.fixture
def store(tmp_path):
    """Three volumes are committed; an index of two others is there."""
    return make_corpus(tmp_path / "c", a={"seed": 1}, b={"seed": 2}, c={"seed": 3})


def test_rows_come_in_the_order_of_the_manifest_then_of_the_index_then_by_name(store):
    write_index(store, ["c"])
    assert read_index(store.root).names == ["c", "a", "b"]
    write_index(store, ["b", "gone", "b"])
    assert read_index(store.root).names == ["b", "c", "a"]


def test_what_nobody_added_is_reported_with_whether_it_was_there_before(store):
    store.storage.put(INDEX_KEY, next_index(store, ["a"]))
    receipt = store.receipt("c")
    builder = IndexBuilder(store)
    add_rows(builder, ["c", "gone"], receipt)
    assert builder.write(["c", "gone", "a", "b", "open"]) == 3
    assert list(builder.unseen(["c", "gone", "a", "b", "open"])) == [("a", True), ("b", False)]
    assert builder.vanished() == ["gone"]
    add_rows(builder, ["b"], store.receipt("b"))
    store.discard("c")
    builder.write(["c", "gone", "a", "b"])
    assert builder.vanished() == ["c", "gone"]
    assert list(builder.unseen(["b"])) == []
    assert read_index(store.root).names == ["a", "b"]


def next_index(store, names: list[str]) -> bytes:
    rows = [index_row(name, store.receipt(name)) for name in names]
    return b"".join(index_document({column: [row[column] for row in rows] for column in COLUMNS}))


@pytest.mark.reliability
def test_a_hundred_thousand_rows_take_less_than_200_megabytes(tmp_path):
    store = make_corpus(tmp_path / "c")
    arrays = make_arrays(num_slices=1, height=8, width=8)
    document = json.dumps(index_row("v", store.commit_volume("v", arrays, make_attributes(arrays, name="v"))))
    rows, count = IndexRows(), 20_000
    tracemalloc.start()
    for number in range(count):  # parsed anew, as receipts come: no value is shared
        row = json.loads(document)
        rows.add(name := f"v{number:06d}", row | {"name": name})
    for _ in index_document(rows.columns(f"v{number:06d}" for number in range(count))):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak * (100_000 / count) < 200e6
