"""Index rows on disk: what comes out is what was put in, in the order of the manifest, in bounded memory."""

from __future__ import annotations

import errno
import sqlite3
import tracemalloc

import numpy as np
import pytest
from phantom_corpus import make_arrays, make_attributes, make_corpus

from rephase.corpus.index import COLUMNS, INDEX_KEY, check_seal, index_row, sealed_document
from rephase.corpus.index_writer import IndexBuilder, IndexDocument, RowSpool, read_names, row_cells


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


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513])
def test_the_document_is_byte_for_byte_the_one_written_at_once(count):
    rows = make_rows(count)
    columns = {column: [row[column] for row in rows] for column in COLUMNS}
    with IndexDocument(COLUMNS) as document:
        for row in rows:
            document.add(row_cells(row))
        written = b"".join(document.blocks())
    assert written == sealed_document({"num_volumes": count, "columns": columns})
    check_seal(written)


def test_names_are_read_in_pieces_of_any_size(tmp_path, monkeypatch):
    store = make_corpus(tmp_path / "c")
    rows = make_rows(40)
    columns = {column: [row[column] for row in rows] for column in COLUMNS}
    store.storage.put(INDEX_KEY, sealed_document({"num_volumes": 40, "columns": columns}))
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


def test_rows_come_in_the_order_asked_for_then_earlier_then_by_name():
    spool = RowSpool()
    names = [f"n{number:04d}" for number in range(700)]
    for name in np.random.default_rng(0).permutation(names).tolist():
        spool.add(name, f"cells of {name}")
    spool.arrange(["n0005", "gone", "n0001", "n0005"], ["n0009", "n0001", "gone too"], names)
    first = ["n0005", "n0001", "n0009"]
    assert list(spool.cells()) == [f"cells of {name}" for name in [*first, *(n for n in names if n not in first)]]
    spool.arrange([], [], ["n0003"])
    assert list(spool.cells()) == ["cells of n0003"]
    spool.close()


def test_what_nobody_added_is_told_with_whether_it_was_there_before():
    spool = RowSpool(before=["old"])
    spool.add("seen", "1")
    spool.add("gone", "2")
    spool.arrange(["seen", "gone", "old", "new", "open"], [], ["foreign", "new", "old", "seen"])
    assert list(spool.names_without_row()) == ["old", "new", "foreign"]
    for name in ("old", "new", "foreign"):
        spool.add(name, "3", added=False)
    assert list(spool.unseen(["seen", "gone", "old", "new", "open"])) == [("old", True), ("new", False)]
    assert spool.vanished() == ["gone"]
    spool.add("new", "4")
    spool.add("gone", "2")
    spool.arrange(["gone", "new"], [], ["gone", "new", "old", "seen"])
    assert (spool.vanished(), list(spool.unseen(["new"]))) == ([], [])
    spool.close()


def test_a_temporary_folder_that_is_full_is_an_error_of_files():
    spool = RowSpool()
    pages = spool._tables.execute("PRAGMA page_count").fetchone()[0]
    spool._tables.execute(f"PRAGMA max_page_count = {pages + 20}")
    with pytest.raises(OSError, match=r"temporary folder \(TMPDIR\): database or disk is full") as caught:
        for number in range(1000):
            spool.add(f"v{number}", "x" * 1000)
    assert caught.value.errno == errno.ENOSPC and isinstance(caught.value.__cause__, sqlite3.Error)
    spool.close()


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """What Python holds, and what SQLite does: both are far less than the rows of which they are told."""
    store = make_corpus(tmp_path / "c")
    arrays = make_arrays(num_slices=1, height=8, width=8)
    receipt = store.commit_volume("v", arrays, make_attributes(arrays))
    row_bytes = len(row_cells(index_row("v", receipt)))
    builder, count = IndexBuilder(store), 6000
    tracemalloc.start()
    for number in range(count):
        builder.add(f"v{number:06d}", receipt)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 0.2 * count * row_bytes
    builder.close()
