"""Jobs of a real SLURM of one node: submitted, cancelled in mid-run, refused, broken."""

from __future__ import annotations

import json
import socket
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from build_process import PROJECT, running, wait_until
from slurm_node import ask, jobs, slurm, why_not

from rephase.bench.phantom import make_magnitude
from rephase.builder.options import BuildOptions
from rephase.builder.run import build
from rephase.cluster.connect import ClusterRequest, connect
from rephase.cluster.errors import ClusterError
from rephase.manifests.parse import read_manifest

pytest.importorskip("rephase.cluster.slurm.jobs", reason="dask-jobqueue is not installed")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Environment variables by which SLURM's commands find the node."""
    if why := why_not():
        pytest.skip(why)
    with ExitStack() as stack:
        try:
            environment = stack.enter_context(slurm(tmp_path_factory.mktemp("node")))
        except RuntimeError as error:  # a version without auth/none, or a container that forbids something
            pytest.skip(" ".join(str(error).split())[:500])
        yield environment


@pytest.fixture
def here(node, monkeypatch):
    """SLURM's commands of this process find the node too, and its queue is asked often."""
    for name, value in node.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rephase.cluster.slurm.jobs.LOOK_S", 0.5)


def config(folder: Path, **keys) -> str:
    known = {
        "memory": "1GB",
        "walltime": "01:00:00",
        "cpus": 1,
        "interface": "lo",
        "shared_folder": str(folder / "keys"),
        "log_folder": str(folder / "logs"),
        "local_folder": str(folder),
    }
    path = folder / "slurm.toml"
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in {**known, **keys}.items()))
    return f"slurm:{path}"


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def counts(port: int) -> dict[str, int]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/counts.json", timeout=5) as answer:
            return json.load(answer)
    except OSError:
        return {"workers": 0, "processing": 0}


@pytest.mark.reliability
@pytest.mark.parametrize("end", ["cancelled", "walltime"])
def test_a_build_outlives_a_job_that_ends_and_counts_nothing_against_its_volumes(node, tmp_path, end):
    manifest = tmp_path / "m.csv"
    for name in ("waits", "v"):  # the reader of the first waits until it is told, so that the job ends in mid-run
        np.save(tmp_path / f"{name}.npy", make_magnitude(2, 16, len(name)))
    rows = [f"w{number},waits.npy" for number in range(12)] + [f"v{number},v.npy" for number in range(8)]
    manifest.write_text("\n".join(["volume_id,path", *rows]) + "\n")
    go = tmp_path / "go"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = node | {
        "DASK_DISTRIBUTED__WORKER__PRELOAD": str(PROJECT / "tests" / "faulty_reader.py"),
        "FAULTY_READER_GO": str(go),
    }
    times = {"walltime": "00:03:00", "leave": 80} if end == "walltime" else {}
    container = tmp_path / "container"
    container.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/contained\nexec "$@"\n')
    container.chmod(0o700)
    prologue = [f'echo "$CUDA_VISIBLE_DEVICES" >> {tmp_path}/gpus']
    gpu = {"gpu": "a100:1", "container": str(container), "prologue": prologue}
    spec = config(tmp_path, jobs=2, minimum=2, partition="test", **gpu, **times)
    root = tmp_path / "far.zarr"
    words = ("build", str(manifest), str(root), "--phase", "smooth", "--cluster", spec)
    with running(*words, "--dashboard-address", f"127.0.0.1:{port}", **environment) as process:

        def both_work():  # two workers of four threads hold five volumes each
            now = counts(port)
            return now["workers"] == 2 and now["processing"] >= 10 and len(jobs(node)) == 2

        wait_until(both_work, process)
        first = jobs(node)
        if end == "cancelled":
            ask(node, "scancel", first[0])
        wait_until(lambda: not set(first[:1]) & set(jobs(node)), process)
        wait_until(both_work, process)
        assert not list(root.glob("volumes/*/zarr.json"))
        go.touch()
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors and "distributed" not in errors, errors
    (log,) = (tmp_path / "far.zarr.run" / "runs").glob("*.jsonl")
    assert [line for line in log.read_text().splitlines() if '"event": "strike"' in line] == []
    assert list((tmp_path / "keys").iterdir()) == [], "a key was left behind"
    assert set((tmp_path / "gpus").read_text().split()) == {"0", "1"}, "SLURM gave each job another GPU"
    assert set((tmp_path / "contained").read_text().split()) == {sys.executable}
    near = tmp_path / "near.zarr"
    options = BuildOptions(phase="smooth", workers=1, dashboard_address="127.0.0.1:0")
    assert build(read_manifest(manifest), str(near), options, say=lambda _: None, progress=False).exit_status == 0
    assert files(root) == files(near)


@pytest.mark.reliability
def test_a_job_of_several_workers_is_replaced_as_a_whole_and_two_deaths_are_enough(here, node, tmp_path):
    def strikes(dask_scheduler):  # inside, so that it travels by value
        return dask_scheduler.allowed_failures

    def names(connection):
        info = connection.client.scheduler_info(n_workers=-1)
        return {worker["name"] for worker in info["workers"].values()}

    with connect(config(tmp_path, cpus=2), ClusterRequest(dashboard_address="127.0.0.1:0")) as connection:
        connection.client.wait_for_workers(2, timeout=300)
        assert connection.client.run_on_scheduler(strikes) == 0
        before = names(connection)
        assert before == {"rephase-0-0", "rephase-0-1"}
        ask(node, "scancel", *jobs(node))
        deadline = time.monotonic() + 300
        while (now := names(connection)) & before or len(now) < 2:
            assert time.monotonic() < deadline, now
            time.sleep(0.1)
    deadline = time.monotonic() + 60
    while ask(node, "squeue", "--noheader") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ask(node, "squeue", "--noheader") == "", "a job outlived its cluster"


def test_a_job_that_slurm_refuses_ends_it_with_slurms_own_words(here, tmp_path):
    spec = config(tmp_path, memory="900GB")
    with pytest.raises(ClusterError, match="SLURM refused the job: Memory specification can not be satisfied"):  # noqa: SIM117
        with connect(spec, ClusterRequest(dashboard_address="127.0.0.1:0")):
            pass


def test_jobs_that_end_before_a_worker_comes_are_not_waited_for(here, tmp_path):
    spec = config(tmp_path, python="/no/such/python")
    with pytest.raises(ClusterError) as caught, connect(spec, ClusterRequest(dashboard_address="127.0.0.1:0")):
        pass
    text = str(caught.value)
    assert "jobs in a row ended before a worker came" in text and "exit code 127" in text
    assert str(tmp_path / "logs") in text and text.endswith("/no/such/python: No such file or directory")
    assert "\n" not in text


def test_jobs_that_come_for_nothing_are_replaced_ever_more_slowly():
    from rephase.cluster.slurm.jobs import pause_s

    assert [pause_s(number) for number in range(6)] == [0, 0, 0, 30, 60, 120]
    assert pause_s(8) == pause_s(10_000) == 600


def test_where_no_jobs_can_be_submitted_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="sbatch"), connect(config(tmp_path)):
        pass
