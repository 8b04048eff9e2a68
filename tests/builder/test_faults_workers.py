"""Workers and nannies that are killed at seeded moments: no volume is lost, and no byte differs."""

from __future__ import annotations

import json

import pytest
from build_process import assert_gone, build_arguments, descendants, kill, running, workers_of
from dask_programs import dask_program, dask_scheduler
from long_build import CASES, wait_for_moment


@pytest.mark.parametrize("seed", CASES)
def test_killed_worker_costs_time_only(long_build, tmp_path, seed, record_property):
    record_property("fault", "SIGKILL of a worker")
    root = tmp_path / "c.zarr"
    with running(*build_arguments(long_build.manifest, root), "--json") as process:
        choice = wait_for_moment(root, seed, process)
        workers = workers_of(process)
        kill([workers[int(choice.integers(len(workers)))]])
        output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert json.loads(output)["failed"] == {}
    assert "Traceback" not in errors
    long_build.check(root)


@pytest.mark.parametrize("seed", CASES)
def test_killed_nanny_costs_time_only(long_build, tmp_path, seed, record_property):
    record_property("fault", "SIGKILL of a nanny")
    root = tmp_path / "c.zarr"
    worker = ("--nthreads", "2", "--no-dashboard")
    with (
        dask_scheduler(tmp_path) as (address, _),
        dask_program("worker", address, *worker, log=tmp_path / "a") as nanny,
        dask_program("worker", address, *worker, "--no-nanny", log=tmp_path / "b"),
    ):
        arguments = ("build", str(long_build.manifest), str(root), "--phase", "smooth")
        arguments += ("--cluster", address, "--insecure")
        with running(*arguments, "--workers", "2", "--json") as process:
            wait_for_moment(root, seed, process)
            family = descendants(nanny.pid)
            nanny.kill()
            output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        assert json.loads(output)["failed"] == {}
        assert_gone(family)
    long_build.check(root)
