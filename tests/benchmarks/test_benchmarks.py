"""The benchmarks of this folder: each can be imported, and the cheapest one runs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("test_"))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_still_fits_the_product(name):
    importlib.import_module(f"tests.benchmarks.{name}")


def test_a_benchmark_runs_from_its_command_line(tmp_path, monkeypatch, capsys):
    from tests.benchmarks.command_line import run_benchmark
    from tests.benchmarks.store import bench_store

    words = ("--slices", "3", "--size", "24", "--rounds", "1", "--model-slices", "0", "--folder", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["store", *words])
    assert run_benchmark(bench_store, lambda result: {result.tables[0].title: True}) == 0
    assert "Committing a volume: met" in capsys.readouterr().out
    assert run_benchmark(bench_store, lambda result: {"": False}) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_rows_of_a_corpus_are_measured(tmp_path):
    from tests.benchmarks.rows import hold_rows

    *grown, cpu_s, index_mb = hold_rows(tmp_path, 20)
    assert len(grown) == 3 and cpu_s > 0 and index_mb > 0
