from __future__ import annotations

import argparse
import json
import math

import numpy as np
import pytest
import torch

from augment.bench.build import bench_build
from augment.bench.loader import bench_loader
from augment.bench.measure import BenchResult, Table, describe_machine, seconds_per_call
from augment.bench.phantom import build_here, make_magnitude, write_volumes
from augment.bench.rivals import Hdf5Slices, PlainZarrSlices, copy_to_hdf5
from augment.bench.sampler import bench_sampler
from augment.commands.bench import register
from augment.errors import RequestError
from augment.loader import KSpaceSlices
from diffusion.checkpoint import save_checkpoint
from diffusion.network import ComplexUNet, NetworkConfig

TINY = NetworkConfig(channels=(4, 8), blocks=1, patch=2, groups=2, embedding=8)


def check_shape(result: BenchResult) -> dict:
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert {"cpu", "cores", "device", "torch", "load"} <= set(document["machine"])
    assert document["machine"]["torch"] == torch.__version__
    text = "\n".join(result.lines())
    for table, shown in zip(result.tables, document["tables"], strict=True):
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert [tuple(row) for row in shown["rows"]] == [table.columns] * len(table.rows)
        assert table.title in text
    assert document["machine"]["cpu"] in text
    return document


def test_sampler_has_a_line_for_every_generator_size_and_number_of_evaluations(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(ComplexUNet(TINY), torch.tensor([[math.nan, 0.01, 0.02]]), {"name": "tiny"}, path)
    threads = torch.get_num_threads()
    document = check_shape(bench_sampler((8, 12), (1, 4), path, budget_s=0.001))
    assert torch.get_num_threads() == threads
    rows = document["tables"][0]["rows"]
    lines = [(row["generator"], row["evaluations"], row["size"]) for row in rows]
    names = [("smooth", 0), ("sinus", 0), ("zero", 0), ("white", 0), ("diffusion", 1), ("diffusion", 4)]
    assert sorted(lines) == sorted((name, nfe, size) for size in (8, 12) for name, nfe in names)
    assert {row["paper's evaluations / ours"] for row in rows} == {None, 1000, 250}
    for row in rows:
        assert row["ms/slice"] * row["slices/s"] == pytest.approx(1000, rel=1e-3)
        if row["generator"] == "smooth":
            assert row["time / smooth"] == 1


def test_sampler_without_weights_says_so(monkeypatch):
    monkeypatch.setattr("augment.bench.sampler.default_checkpoint", lambda: None)
    result = bench_sampler((8,), budget_s=0.001)
    assert "diffusion" not in {row[0] for row in result.tables[0].rows}
    assert "no weights" in result.notes[0]


def test_build_compares_one_process_with_a_cluster(tmp_path):
    document = check_shape(bench_build(2, 2, 16, workers=(1,), folder=tmp_path))
    speed, stages = document["tables"]
    assert [row["workers"] for row in speed["rows"]] == ["this process, no cluster", "1 worker"]
    assert speed["rows"][0]["times the first line"] == 1
    assert {"read", "sample", "kspace", "commit"} <= {row["stage"] for row in stages["rows"]}
    assert document["settings"]["volumes"] == 2
    assert list(tmp_path.iterdir()) == []


def test_loader_compares_three_ways_and_leaves_nothing_behind(tmp_path):
    document = check_shape(bench_loader(2, 3, 16, workers=(0,), epochs=1, folder=tmp_path))
    reading, stored = document["tables"]
    assert [(row["read through"], row["workers"]) for row in reading["rows"]] == [
        ("KSpaceSlices", 0), ("plain zarr", 0), ("HDF5, uncompressed", 0)
    ]  # fmt: skip
    assert [row["times HDF5"] for row in reading["rows"]][2] == 1
    assert stored["rows"][1]["MB"] * 1e6 > 2 * 3 * 16 * 16 * 12
    assert list(tmp_path.iterdir()) == []


def test_every_way_of_the_loader_benchmark_reads_the_same_arrays(tmp_path):
    build_here(write_volumes(tmp_path, 2, 3, 12), tmp_path / "c.zarr")
    ours = KSpaceSlices(tmp_path / "c.zarr")
    copy_to_hdf5(tmp_path / "c.zarr", tmp_path, ours.volumes)
    ways = [Hdf5Slices(tmp_path, ours.volumes, 3), PlainZarrSlices(tmp_path / "c.zarr", ours.volumes, 3)]
    assert [len(way) for way in ways] == [len(ours)] * 2 == [6, 6]
    for index in range(6):
        kspace, _, target, _, fname, slice_index = ours[index]
        source = np.load(tmp_path / f"{fname}.npy")[slice_index]
        assert np.corrcoef(target.ravel(), source.ravel())[0, 1] > 0.99999
        for way in ways:
            assert np.array_equal(way[index][0], kspace)
            assert np.array_equal(way[index][1], target)


def test_phantom_is_the_same_every_time_with_air_around_it():
    one, two = make_magnitude(2, 32), make_magnitude(2, 32)
    assert np.array_equal(one, two)
    assert one.shape == (2, 32, 32)
    assert one.min() >= 0
    assert one[:, 16, 16].min() > 20 * one[:, 0, 0].max()
    assert not np.array_equal(one, make_magnitude(2, 32, seed=1))


def test_calls_take_turns_after_each_was_warmed_up():
    order: list[str] = []
    seconds = seconds_per_call([lambda: order.append("a"), lambda: order.append("b")], 0.0, rounds=2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert len(seconds) == 2
    assert all(one >= 0 for one in seconds)


def test_table_in_text_and_json():
    table = Table("T", ("name", "value"), [("a", 1234.5), ("long", None), ("b", 0.12345)])
    assert table.lines() == ["T", "name  value", "----  -----", "a      1234", "long      -", "b     0.123"]
    assert table.to_json()["rows"][1] == {"name": "long", "value": None}
    assert describe_machine()["cores"] >= 1


def run(*words: str):
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    arguments = parser.parse_args(["bench", *words])
    return arguments.handler(arguments)


def test_command_gives_text_and_json(tmp_path):
    size = ("--volumes", "1", "--slices", "1", "--size", "8", "--folder", str(tmp_path))
    answer = run("loader", *size, "--workers", "0", "--json")
    assert answer.status == 0
    assert answer.lines[0] == "phasegen bench loader"
    assert answer.data["benchmark"] == "loader"
    answer = run("sampler", "--sizes", "8", "--steps", "1", "--seconds", "0.001", "--device", "cpu")
    assert answer.data["tables"][0]["rows"][0]["size"] == 8
    with pytest.raises(RequestError, match="no such folder"):
        run("build", "--folder", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit):
        run("loader", "--workers", "-1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_gpu_is_refused_where_there_is_none():
    with pytest.raises(RequestError, match="no usable GPU"):
        run("sampler", "--device", "cuda")
