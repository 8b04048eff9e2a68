from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from distributed import Client

from rephase.bench.phantom import open_smooth_worker, write_volumes
from rephase.builder.options import BuildOptions
from rephase.builder.resolve import make_recipe
from rephase.cluster.local import LocalShape, local_shape, start_local
from rephase.cluster.worker_state import install_state
from rephase.manifests.parse import read_manifest
from rephase.pipeline.build_volume import build_volume
from rephase.pipeline.environment import environment_class
from rephase.pipeline.gpu import device_clock, fitting_tile
from rephase.pipeline.task import Task
from rephase.pipeline.worker import open_worker


class Small:
    """Memory for so many slices at once, as a GPU has; phase is zero."""

    name, nfe, device, families = "diffusion", 1, "cpu", None

    def __init__(self, tile, room):
        self.tile, self.room, self.calls = tile, room, []

    def sample_phase(self, magnitude, keys, conditions):
        assert len(keys) == len(magnitude)
        self.calls.append(self.tile)
        if self.tile > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.ones_like(magnitude, dtype=torch.complex64)


@pytest.mark.parametrize(("room", "fits"), [(16, 8), (8, 8), (5, 4), (1, 1), (0, 0)])
def test_the_tile_that_fits_is_found_by_halving(room, fits):
    generator = Small(16, room)

    def call(slices):
        generator.tile = slices
        generator.sample_phase(torch.ones(slices, 2, 2), [None] * slices, None)

    assert fitting_tile(16, call) == fits


@pytest.mark.parametrize(("room", "said"), [(4, "tiles of 4 would fit"), (0, "not even one slice fits")])
def test_a_volume_without_memory_names_the_tile_that_would_fit_and_keeps_the_recipes(tmp_path, room, said):
    row = read_manifest(write_volumes(tmp_path, 1, 20, 8))[0]
    generator = Small(16, room)
    outcome = build_volume(Task(row), replace(open_smooth_worker(tmp_path / "c.zarr"), generator=generator))
    assert (outcome.status, outcome.reason) == ("failed", "too_large")
    assert said in outcome.message and "tiles of 16 slices" in outcome.message and "v0000" in outcome.message
    assert generator.tile == 16 and generator.calls[0] == 16
    assert not list((tmp_path / "c.zarr").glob("volumes/*/zarr.json"))


def test_a_cpu_has_no_device_time():
    for device in (None, "cpu", torch.device("cpu")):
        with device_clock(device) as busy:
            torch.ones(8).sum()
        assert busy.seconds == 0


def test_every_local_worker_has_its_own_gpu_and_one_thread_for_the_arithmetic(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # what a user has set goes to the workers, but not to the arithmetic
    store = open_smooth_worker(tmp_path / "c.zarr").store
    recipe = make_recipe(BuildOptions(phase="smooth"))
    with start_local(LocalShape(2, 1, 2 * 10**9, ("3", "GPU-5")), "127.0.0.1:0") as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        workers = sorted(client.run(os.getenv, "CUDA_VISIBLE_DEVICES").items(), key=lambda pair: pair[1])
        assert [named for _, named in workers] == ["3", "GPU-5"]
        install_state(client, "worker", open_worker, (store.root, recipe, environment_class("cpu")))
        threads = [client.submit(torch.get_num_threads, workers=[one], pure=False).result() for one, _ in workers]
        assert threads == [recipe.tile.threads] * 2 == [1, 1]


def test_gpus_are_shared_out_among_more_workers_and_named_as_they_are_visible(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for named, gpus in (("", ("0", "1")), ("GPU-a, GPU-b", ("GPU-a", "GPU-b")), ("5,3,-1,7", ("5", "3"))):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert local_shape().gpus == gpus
        assert local_shape(3).gpus == (*gpus, gpus[0])
        assert local_shape(1).gpus == gpus[:1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_a_gpu_is_busy_while_it_multiplies():
    matrix = torch.ones(2048, 2048, device="cuda")
    with device_clock("cuda") as busy:
        for _ in range(10):
            matrix = matrix @ matrix / 2048
    assert 0 < busy.seconds < 60
