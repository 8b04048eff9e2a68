"""The benchmark of `make scale`, small: it must run to its end and add up; the targets are judged by the long run."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.scale import TARGETS, bench_scale, figures, watch_command


def test_a_small_run_gives_every_figure_that_has_a_target(tmp_path):
    result = bench_scale(24, 1, 8, workers=1, rows=500, folder=tmp_path)
    found = figures(result)
    assert set(found) == set(TARGETS)
    assert found["commit_ms"] > 0 and found["dask_ms"] > 0 and found["plan_mb"] > 50
    assert [row[0] for row in result.tables[2].rows] == [5, 50]
    cost = dict(result.tables[0].rows)
    assert cost["commit to the store"] < cost["a volume in one process, no Dask"]
    json.dumps(result.to_json())
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_fails_is_told_with_what_it_said(tmp_path):
    with pytest.raises(RuntimeError, match=r"rephase plan: exit status 2: .*none.csv"):
        watch_command(["plan", str(tmp_path / "none.csv"), str(tmp_path / "c.zarr")], lambda: True)
