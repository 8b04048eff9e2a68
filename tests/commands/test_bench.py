from __future__ import annotations

import argparse
import json
import math
import time

import numpy as np
import pytest
import torch
from tiny_network import TINY

from rephase.bench.build import bench_build
from rephase.bench.loader import bench_loader
from rephase.bench.measure import BenchResult, Table, seconds_per_call
from rephase.bench.phantom import make_arrays, make_magnitude, write_arrays, write_volumes
from rephase.bench.plain import build_plainly
from rephase.bench.rivals import Hdf5Slices, PlainZarrSlices, copy_to_hdf5, fastmri_slices
from rephase.bench.sampler import bench_sampler, measure_submitters
from rephase.commands.bench import register
from rephase.data.kspace_slices import KSpaceSlices
from rephase.diffusion.checkpoint import save_checkpoint
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.phases import baseline_phases
from rephase.diffusion.shipped import shipped_weights
from rephase.errors import RequestError
from rephase.pipeline.environment import machine_facts


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
    save_checkpoint(ComplexUNet(TINY), torch.tensor([[math.nan, 2.0, 0.01, 0.02, 0.1]]), {"name": "tiny"}, path)
    threads = torch.get_num_threads()
    document = check_shape(bench_sampler((8, 12), (1, 4), path, budget_s=0.001))
    assert torch.get_num_threads() == threads
    rows = document["tables"][0]["rows"]
    lines = [(row["generator"], row["evaluations"], row["size"]) for row in rows]
    names = [(name, 0) for name in baseline_phases()] + [("diffusion", 1), ("diffusion", 4)]
    assert {"smooth", "sinus", "zero", "white"} <= set(baseline_phases())
    assert sorted(lines) == sorted((name, nfe, size) for size in (8, 12) for name, nfe in names)
    assert {row["paper's evaluations / ours"] for row in rows} == {None, 1000, 250}
    for row in rows:
        assert row["ms/slice"] * row["slices/s"] == pytest.approx(1000, rel=1e-3)
        if row["generator"] == "smooth":
            assert row["time / smooth"] == 1


def test_sampler_without_weights_says_so(monkeypatch):
    monkeypatch.setattr("rephase.bench.sampler.default_checkpoint", lambda: None)
    result = bench_sampler((8,), budget_s=0.001)
    assert "diffusion" not in {row[0] for row in result.tables[0].rows}
    assert "no weights" in result.notes[0]


def test_submitters_are_measured_in_turn_with_the_same_volume():
    sent: list[tuple[str, int, int]] = []

    class Named:
        ahead = 1

        def __init__(self, name, device_s):
            self.name, self.device_s = name, device_s

        def send(self, magnitude, keys, conditions):
            sent.append((self.name, keys[0].slice_index, len(magnitude)))
            time.sleep(0.01)  # so that the share below is one of something
            return lambda: (np.ones(magnitude.shape, np.complex64), self.device_s)

    figures = measure_submitters([Named("a", 0.001), Named("b", 0.0)], np.ones((5, 2, 2), np.float32), 2, 0.0)
    parts = [(0, 2), (2, 2), (4, 1)]
    assert sent == 4 * [(name, *part) for name in "ab" for part in parts]  # one round warms up
    (speed, busy), (_, idle) = figures
    assert speed < 5 / 0.03
    assert busy == pytest.approx(0.003 * speed / 5)
    assert idle == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_sampler_on_a_gpu_says_how_busy_it_is():
    document = check_shape(bench_sampler((64,), (1, 3), shipped_weights("teacher"), "cuda", 0.5))
    rows = document["tables"][1]["rows"]
    assert [(row["evaluations"], row["copies"]) for row in rows] == [
        (steps, copies) for steps in (1, 3) for copies in ("in turn", "overlapped")
    ]
    assert all(row["slices/s"] > 0 and 0 < row["GPU busy (%)"] <= 101 for row in rows)
    assert "GPU busy" in document["notes"][-1]


def test_build_compares_one_process_with_a_cluster(tmp_path):
    document = check_shape(bench_build(2, 2, 16, workers=(1,), folder=tmp_path))
    speed, scaling, stages = document["tables"]
    (only,) = scaling["rows"]
    assert (only["processes"], only["Dask, gain"], only["plain, gain"]) == (1, 1, 1)
    assert only["Dask's workers (slices/s)"] == pytest.approx(only["plain (slices/s)"] * only["Dask / plain"], rel=0.01)
    assert [row["workers"] for row in speed["rows"]] == ["this process, no cluster", "1 worker"]
    assert speed["rows"][0]["speed-up"] == 1
    assert {"read", "sample", "kspace", "commit"} <= {row["stage"] for row in stages["rows"]}
    assert document["settings"]["volumes"] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.reliability
def test_a_plain_process_that_fails_is_told_and_leaves_no_other_waiting(tmp_path):
    manifest = write_volumes(tmp_path, 2, 1, 16)
    (tmp_path / "v0001.npy").unlink()
    with pytest.raises(RuntimeError, match="v0001"):
        build_plainly(manifest, tmp_path, 2)


@pytest.mark.reliability
def test_loader_compares_every_way_and_leaves_nothing_behind(tmp_path):
    document = check_shape(bench_loader(2, 3, 16, (0,), 1, tmp_path, coils=(0, 2), index_volumes=50))
    reading, stored, memory, binding, opening = document["tables"]
    ways = ["KSpaceSlices", "KSpaceStream", "plain zarr", "fastMRI, uncompressed", "fastMRI, gzip"]
    assert [(row["coils"], row["page cache"], row["read through"]) for row in reading["rows"]] == [
        (coils, cache, way) for coils in (0, 2) for cache in ("cold", "warm") for way in ways
    ]
    assert {row["times fastMRI, uncompressed"] for row in reading["rows"] if row["read through"] == ways[3]} == {1}
    assert [row["MB"] * 1e6 > 6 * 16 * 16 * (8 * max(row["coils"], 1)) for row in stored["rows"][1::3]] == [True, True]
    assert [row["epoch"] for row in memory["rows"]] == [1, 2, 3]
    assert memory["rows"][0]["first slice after the start of the workers (s)"] > 0
    assert [(row["volumes"], row["slices"]) for row in binding["rows"]] == [(2, 6), (2, 6)]
    assert (opening["rows"][0]["volumes"], opening["rows"][0]["slices"]) == (50, 1600)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("coils", [0, 3])
def test_every_way_of_the_loader_benchmark_reads_the_same_arrays(tmp_path, coils):
    write_arrays(tmp_path / "c.zarr", 2, 3, 12, coils)
    ours = KSpaceSlices(tmp_path / "c.zarr")
    target = "reconstruction_rss" if coils else "reconstruction_esc"
    for compression in (None, "gzip"):
        copy_to_hdf5(tmp_path / "c.zarr", tmp_path / str(compression), ours.volumes, compression)
    ways = [
        PlainZarrSlices(tmp_path / "c.zarr", ours.volumes, 3, target),
        *(Hdf5Slices(tmp_path / kind, ours.volumes, 3, target) for kind in ("None", "gzip")),
    ]
    theirs, _ = fastmri_slices(tmp_path / "gzip", ours.volumes, 3, target)
    assert [len(way) for way in (*ways, theirs)] == [len(ours)] * 4 == [6] * 4
    for index in range(6):
        kspace, _, image, _, fname, slice_index = ours[index]
        arrays = make_arrays(3, 12, coils, int(fname[1:]))
        assert np.array_equal(kspace, arrays["kspace"][slice_index])
        for way in ways:
            assert np.array_equal(way[index][0], kspace)
            assert np.array_equal(way[index][1], image)
        assert np.array_equal(theirs[index][0], kspace)
    axes = (-2, -1)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes), norm="ortho"), axes)
    magnitude = np.sqrt((np.abs(images) ** 2).sum(axis=0)) if coils else np.abs(images)
    assert np.abs(magnitude - image).max() < 1e-5 * image.max()


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
    assert machine_facts()["cores"] >= 1


def run(*words: str):
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    arguments = parser.parse_args(["bench", *words])
    return arguments.handler(arguments)


def test_command_gives_text_and_json(tmp_path, monkeypatch):
    given = {}

    def benchmark(*values):
        given.update(enumerate(values))
        return BenchResult("loader", machine_facts(), {}, [], [])

    monkeypatch.setattr("rephase.bench.loader.bench_loader", benchmark)
    size = ("--volumes", "1", "--slices", "2", "--size", "8", "--folder", str(tmp_path))
    few = ("--workers", "0", "--coils", "0", "4", "--epochs", "3", "--index-volumes", "5")
    answer = run("loader", *size, *few, "--json")
    assert list(given.values()) == [1, 2, 8, [0], 3, tmp_path, [0, 4], 5]
    assert answer.status == 0
    assert answer.lines[0] == "rephase bench loader"
    assert answer.data["benchmark"] == "loader"
    answer = run("sampler", "--sizes", "8", "--seconds", "0.001", "--device", "cpu")
    assert answer.data["tables"][0]["rows"][0]["size"] == 8
    with pytest.raises(RequestError, match="--folder"):
        run("build", "--folder", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit):
        run("loader", "--workers", "-1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_gpu_is_refused_where_there_is_none():
    with pytest.raises(RequestError, match="no usable GPU"):
        run("sampler", "--device", "cuda")
