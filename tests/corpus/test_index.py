from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
import zarr
from paths import PROJECT
from phantom_corpus import make_arrays, make_attributes, make_corpus

from rephase.corpus.index import COLUMNS, INDEX_KEY, index_document, index_row, read_index
from rephase.corpus.index_writer import IndexBuilder, write_index
from rephase.corpus.layout import DTYPES, group_document
from rephase.corpus.receipt import OPTIONAL_KEYS, REQUIRED_KEYS, STORE_KEYS
from rephase.errors import RequestError


def test_index_holds_manifest_order_and_the_facts_of_the_receipts(tmp_path):
    store = make_corpus(
        tmp_path / "c",
        b={"num_slices": 2, "height": 8, "width": 10, "attributes": {"split": "val", "field_t": None, "audit": {}}},
        a={"num_slices": 5, "coils": 2},
    )
    assert write_index(store, ["b", "missing", "a"]) == 2
    index = read_index(tmp_path / "c")
    assert index.names == ["b", "a"]
    assert len(index) == 2
    assert index.attributes["seed"] == 7
    assert set(index.columns) == set(COLUMNS)
    first, second = index.rows()
    assert (first["num_slices"], first["num_coils"], first["height"], first["width"]) == (2, 0, 8, 10)
    assert (first["split"], first["field_t"], first["audit"], first["target"]) == (
        "val",
        None,
        [],
        "reconstruction_esc",
    )
    assert (second["num_coils"], second["target"], second["audit"]) == (2, "reconstruction_rss", ["interpolated"])
    assert second["max"] == float(make_arrays(num_slices=5, coils=2)["reconstruction_rss"].max())
    assert (first["spacing_slice_mm"], first["spacing_width_mm"]) == (4.0, 1.0)


def test_plain_zarr_reads_the_columns(tmp_path):
    store = make_corpus(tmp_path / "c", b={}, a={})
    write_index(store, ["b", "a"])
    assert zarr.open_group(tmp_path / "c", mode="r")["index"].attrs["columns"]["name"] == ["b", "a"]


def test_builder_writes_the_same_bytes_as_a_rebuild_from_receipts(tmp_path):
    store = make_corpus(tmp_path / "c")
    builder = IndexBuilder(store)
    for seed, name in enumerate(["c", "a", "b"]):
        arrays = make_arrays(seed=seed)
        builder.add(name, store.commit_volume(name, arrays, make_attributes(arrays, name=name)))
    builder.write(["a", "b", "c"])
    incremental = store.storage.get(INDEX_KEY)
    write_index(store, ["a", "b", "c"])
    assert store.storage.get(INDEX_KEY) == incremental


def test_builder_does_not_read_receipts_that_it_was_given(tmp_path, monkeypatch):
    store = make_corpus(tmp_path / "c", a={}, b={})
    builder = IndexBuilder(store)
    builder.add("a", store.receipt("a"))
    read = []
    receipt = store.receipt
    monkeypatch.setattr(store, "receipt", lambda name: (read.append(name), receipt(name))[1])
    assert builder.write(["a", "b"]) == 2
    assert read == ["b"]


def test_volumes_of_an_earlier_manifest_stay_and_discarded_ones_go(tmp_path):
    store = make_corpus(tmp_path / "c", z={}, y={}, x={})
    write_index(store, ["z", "y"])
    assert read_index(tmp_path / "c").names == ["z", "y", "x"]
    write_index(store, ["x"])
    assert read_index(tmp_path / "c").names == ["x", "z", "y"]
    store.discard("z")
    write_index(store, ["x"])
    assert read_index(tmp_path / "c").names == ["x", "y"]


def test_a_new_corpus_has_an_empty_index(tmp_path):
    make_corpus(tmp_path / "c")
    assert len(read_index(tmp_path / "c")) == 0


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (None, "the corpus has no index; rebuild it with 'rephase repair"),
        (b"{", "not JSON"),
        (group_document({"num_volumes": 1, "columns": {"name": ["a"]}}), "does not have 1 rows"),
        (group_document({"num_volumes": 1}), "no columns"),
    ],
)
def test_a_damaged_index_is_one_clear_line_and_is_made_anew(tmp_path, document, expected):
    store = make_corpus(tmp_path / "c", a={})
    store.storage.delete(INDEX_KEY) if document is None else store.storage.put(INDEX_KEY, document)
    with pytest.raises(RequestError, match=expected) as caught:
        read_index(tmp_path / "c")
    assert "\n" not in str(caught.value)
    write_index(store, ["a"])
    assert read_index(tmp_path / "c").names == ["a"]


@pytest.mark.parametrize(
    "name", ["/etc/x", "../v", "a/b", "..", ".hidden", "__x", "Zarr.JSON", "", "v@0", "v" * 129, 7, None]
)
def test_an_index_of_somebody_else_names_nothing_outside_of_the_corpus(tmp_path, name):
    """Its checksum is right: whoever made the corpus made that, too."""
    root = tmp_path / "c.zarr"
    write_index(make_corpus(root, v={}, w={}), ["v", "w"])
    columns = {key: list(values) for key, values in read_index(root).columns.items()}
    columns["name"][1] = name
    (root / INDEX_KEY).write_bytes(b"".join(index_document(columns)))
    with pytest.raises(RequestError, match="cannot be the name of a volume") as caught:
        read_index(root)
    assert "\n" not in str(caught.value)


def test_no_corpus_is_named(tmp_path):
    with pytest.raises(RequestError, match="no corpus here"):
        read_index(tmp_path / "none")


@pytest.mark.reliability
def test_a_hundred_thousand_rows_open_in_little_more_than_the_time_of_their_json(tmp_path):
    store = make_corpus(tmp_path / "c", a={})
    row = index_row("a", store.receipt("a"))
    columns = {column: [row[column]] * 100_000 for column in COLUMNS}
    columns["name"] = [f"volume-{number:06d}" for number in range(100_000)]
    document = b"".join(index_document(columns))
    store.storage.put(INDEX_KEY, document)
    opening, parsing = [], []
    for _ in range(3):  # in turn, so that a busy machine slows both
        opening.append(cpu_seconds(lambda: read_index(tmp_path / "c")))
        parsing.append(cpu_seconds(lambda: json.loads(document)))
    assert len(read_index(tmp_path / "c")) == 100_000
    assert min(opening) < 5 * min(parsing)


def cpu_seconds(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def test_the_written_format_names_every_key_column_and_array():
    text = (PROJECT / "augment" / "FORMAT.md").read_text()
    named = set(re.findall(r"`(\w+)`", text))
    for words in (REQUIRED_KEYS, OPTIONAL_KEYS, STORE_KEYS, COLUMNS, DTYPES):
        assert set(words) - named == set()


def test_the_written_example_reads_a_corpus(tmp_path, monkeypatch):
    write_index(make_corpus(tmp_path / "corpus.zarr", a={"num_slices": 4}), ["a"])
    text = (PROJECT / "augment" / "FORMAT.md").read_text()
    script = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    result: dict[str, Any] = {}
    exec(script, result)  # noqa: S102
    assert result["kspace"].tobytes() == make_arrays(num_slices=4)["kspace"][3].tobytes()
    assert result["target"].tobytes() == make_arrays(num_slices=4)["reconstruction_esc"][3].tobytes()
