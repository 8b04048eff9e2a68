from __future__ import annotations

import json
import re
import zlib

import numpy as np
import pytest
from phantom_corpus import make_corpus

from rephase.corpus.index import INDEX_KEY, read_index
from rephase.corpus.index_writer import write_index
from rephase.data.columns import _scan, open_columns
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError


@pytest.fixture
def root(tmp_path):
    store = make_corpus(
        tmp_path / "c",
        a={"attributes": {"patient_id": "Jürgen", "audit": {}, "contrast": None, "field_t": None}},
        b={"coils": 2, "attributes": {"audit": {"filtered": ["FIL"], "lossy": "x"}, "te_ms": 4, "split": "val"}},
        c={"num_slices": 1, "attributes": {"replica": 1, "phase_generator": "diffusion", "nfe": 4}},
    )
    write_index(store, ["a", "b", "c"])
    return tmp_path / "c"


def sealed(document: bytes) -> bytes:
    """The same document with the checksum of its bytes, as augment/FORMAT.md says it."""
    blank = re.sub(rb'"crc32": "[0-9a-f]{8}"', b'"crc32": "00000000"', document)
    return blank.replace(b'"crc32": "00000000"', b'"crc32": "%08x"' % zlib.crc32(blank))


def test_columns_say_what_the_index_says(root):
    index = read_index(root)
    where, columns = open_columns(root)
    assert where == index.root
    assert len(columns) == 3
    for position in range(3):
        row, expected = columns.row(position), index.row(position)
        for column, value in row.items():
            want = expected[column]
            if column == "audit":
                assert value == tuple(want)
            elif want is None:
                assert value == "" or value is False or np.isnan(value)
            else:
                assert value == want
    assert columns.texts("patient_id") == ["Jürgen", "s1", "s1"]
    assert columns.different("audit") == ["", "filtered", "interpolated", "lossy"]
    assert columns.take(np.array([2, 0])).texts("name") == ["c", "a"]


def test_an_index_in_another_spelling_is_read_too(root):
    path = root / INDEX_KEY
    document = json.loads(path.read_text())

    def rows() -> str:
        return repr([sorted(open_columns(root)[1].row(position).items()) for position in range(3)])

    expected = rows()
    assert _scan(path.read_bytes()) is not None
    path.write_bytes(sealed(json.dumps(document, indent=1).encode()))
    assert _scan(path.read_bytes()) is None
    assert rows() == expected
    path.write_bytes(path.read_bytes().replace(b'"lossy"', b'"lousy"'))
    with pytest.raises(RequestError, match="its bytes do not match its crc32"):
        open_columns(root)
    document["attributes"]["columns"]["max"].pop()
    path.write_bytes(sealed(json.dumps(document, sort_keys=True).encode()))
    with pytest.raises(RequestError, match="column max is missing or does not have 3 rows"):
        open_columns(root)
    path.write_text(path.read_text()[:-200])
    with pytest.raises(RequestError, match="not JSON"):
        open_columns(root)


def test_filters_of_the_loader(root):
    def volumes(**filters):
        return KSpaceSlices(root, **filters).volumes

    assert volumes(audit="filtered") == ["b"]
    assert volumes(audit=["lossy", "interpolated"]) == ["b", "c"]
    assert volumes(without_audit="filtered") == ["a", "c"]
    assert volumes(without_audit="any") == ["a"]
    assert volumes(subjects=["s1"], split="train") == ["c"]
    assert volumes(phase_generator="diffusion") == ["c"]
    assert volumes(acquisition="AXT1", contrast="T1") == ["b", "c"]
    assert volumes(where=lambda row: row["te_ms"] > 2 or row["nfe"] == 4) == ["b", "c"]
    assert volumes(where=lambda row: "lossy" in row["audit"]) == ["b"]
    for filters in ({"where": lambda row: False}, {"without_audit": "any", "split": "val"}):
        with pytest.raises(RequestError, match=r"no volumes .*; [13] were considered"):
            volumes(**filters)
    with pytest.raises(RequestError, match="no volumes with patient_id nobody"):
        volumes(subjects=["nobody"])
    with pytest.raises(RequestError, match=r"no volumes with audit odd; the corpus has: \(none\), filtered"):
        volumes(audit="odd")
    assert KSpaceSlices(root, suffix=".h5", volumes=["b"])[0][4] == "b.h5"
