"""Rows of a manifest by split and by conditions on its cells."""

from __future__ import annotations

import numpy as np
import pytest

from rephase import api
from rephase.errors import RequestError
from rephase.evaluation.run import Request
from rephase.manifests.parse import read_manifest
from rephase.manifests.where import parse_where, rows_where, select

TEXT = """volume_id,path,split,contrast,field_t,te_ms
a,a.npy,train,T1,3,
b,b.npy,train,T2,1.5,80
c,c.npy,val,T1,0.3,10
d,d.npy,,T2star,,
"""


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "m.csv").write_text(TEXT)
    return read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("splits", "where", "expected"),
    [
        (("train",), None, "ab"), (("train", "val"), None, "abc"), ((), "contrast=T1,T2", "abc"),
        ((), "contrast!=T1", "bd"), ((), "field_t>=1.5", "ab"), ((), "field_t = 0.3", "c"), ((), "te_ms=", "ad"),
        ((), "split= and field_t=", "d"), (("train",), "contrast=T1 and field_t > 1", "a"),
        ((), "volume_id=b, c", "bc"),
        ((), "contrast!='T1'", "bd"), ((), 'contrast=="T1", T2 AND split!=val', "ab"),
        ((), "te_ms!=", "bc"), ((), "te_ms<20 and te_ms>=10", "c"),
    ],
)  # fmt: skip
def test_rows(manifest, splits, where, expected):
    chosen = select(manifest, splits, where)
    assert "".join(row.volume_id for row in chosen) == expected
    assert [row.line for row in chosen] == [row.line for row in manifest if row.volume_id in expected]
    assert (len(chosen), chosen[-1].volume_id, chosen.path) == (len(expected), expected[-1], manifest.path)
    assert [row.volume_id for row in select(chosen, (), "volume_id=" + expected[0])] == [expected[0]]
    if not splits:
        assert rows_where(manifest, where) == list(chosen)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("contrast", "'contrast' is no condition; expected COLUMN=VALUE"), ("x=1", "'x' is no column for a condition"),
        ("contrast>T1", "contrast is a text; expected = or !="), ("field_t>high", "field_t is compared with 'high'"),
        ("field_t>", "compared with ''; expected a number"), ("", "'' is no condition"),
        ("contrast!=T1 or contrast!=T2", "no value of a condition"), ("contrast!==T1", "no value of a condition"),
        ("field_t!=nan", "compared with 'nan'"), ("contrast!=T1 'T2'", "no value of a condition"),
        ("contrast=T1 and", "is no condition|no row"), ("path=x", "'path' is no column"),
    ],
)  # fmt: skip
def test_conditions_that_make_no_sense(where, message, tmp_path):
    if where != "contrast=T1 and":
        with pytest.raises(ValueError, match=message):
            parse_where(where)
        with pytest.raises(RequestError, match="--where: "):
            Request(tmp_path / "m.csv", where=where)
        with pytest.raises(RequestError, match="--where: "):
            api.plan(tmp_path / "m.csv", tmp_path / "c.zarr", where=where)


def test_nothing_left_is_one_line(manifest):
    with pytest.raises(
        RequestError, match=r"no row for --split test; expected one or more of 4 rows.*train \(2\)"
    ) as error:
        select(manifest, ("test",))
    assert "\n" not in str(error.value)
    with pytest.raises(RequestError, match="--split exam: expected some of train, val, test"):
        api.plan(manifest, "c.zarr", split="exam")


def test_a_plan_has_the_rows_of_a_split(tmp_path, manifest):
    for name in "abcd":
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).rayleigh(100, (2, 16, 16)).astype(np.float32))
    plan = api.plan(tmp_path / "m.csv", tmp_path / "c.zarr", split="train", where="contrast=T1", phase="zero")
    assert (plan.num_volumes, plan.num_slices) == (1, 2)
