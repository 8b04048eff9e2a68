"""Processes that die, hang or are told to stop, at moments of a seeded schedule: nothing is lost, no byte differs."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from build_process import (
    PROJECT,
    assert_gone,
    build_arguments,
    descendants,
    kill,
    running,
    wait_until,
    workers_of,
)
from volumes import phantom, volume_bytes, write_manifest, write_volumes

from rephase.builder.options import BuildOptions
from rephase.builder.resolve import make_recipe
from rephase.builder.run import build
from rephase.builder.runlog import RunLog, read_failures, read_run, run_names
from rephase.cli import main
from rephase.corpus.index import read_index
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.manifests.parse import read_manifest
from rephase.pipeline.recipe import row_fingerprint

NUM_LONG = 8
"""Volumes of a build that takes long enough to be killed in the middle."""
NUM_OBJECTS = 5 * NUM_LONG
"""What a whole corpus has in its volumes: a receipt, two shards and their metadata each."""

CASES = [0, *(pytest.param(seed, marks=pytest.mark.reliability) for seed in range(1, 20))]
"""One seed in every run of the tests, the others by `make reliability`."""


@pytest.fixture(scope="module")
def long_build(scheduler, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A manifest whose build takes some seconds, and the bytes that it ends in when nothing happens."""
    folder = tmp_path_factory.mktemp("long")
    manifest = write_volumes(folder, NUM_LONG, shape=(12, 160, 160))
    options = BuildOptions(phase="smooth", cluster=scheduler)
    summary = build(read_manifest(manifest), str(folder / "c.zarr"), options, say=lambda _: None, progress=False)
    assert summary.exit_status == 0
    return manifest, volume_bytes(folder / "c.zarr")


def wait_for_moment(root: Path, seed: int, process: subprocess.Popen[str]) -> np.random.Generator:
    """Wait for a moment that the seed chooses: when so many objects of the corpus are there."""
    choice = np.random.default_rng(seed)
    count = int(choice.integers(1, NUM_OBJECTS - 10))
    wait_until(lambda: sum(path.is_file() for path in root.glob("volumes/*/**/*")) >= count, process)
    return choice


def carry_on(scheduler: str, manifest: Path, root: Path, expected: dict[str, str]) -> None:
    """The same build again ends in the bytes of one that nothing happened to."""
    committed = set(CorpusStore.open(root).names()) if (root / "zarr.json").exists() else set()
    options = BuildOptions(phase="smooth", cluster=scheduler)
    summary = build(read_manifest(manifest), str(root), options, say=lambda _: None, progress=False)
    assert summary.exit_status == 0, summary.lines()
    assert (summary.skipped, summary.built) == (len(committed), NUM_LONG - len(committed))
    assert volume_bytes(root) == expected
    assert verify_corpus(root).ok


@pytest.mark.parametrize("seed", CASES)
def test_killed_worker_costs_time_only(long_build, tmp_path, seed, record_property):
    record_property("fault", "SIGKILL of a worker")
    manifest, expected = long_build
    root = tmp_path / "c.zarr"
    with running(*build_arguments(manifest, root), "--json") as process:
        choice = wait_for_moment(root, seed, process)
        workers = workers_of(process)
        kill([workers[int(choice.integers(len(workers)))]])
        output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert json.loads(output)["failed"] == {}
    assert "Traceback" not in errors
    assert volume_bytes(root) == expected
    assert verify_corpus(root).ok


@pytest.mark.parametrize("seed", CASES)
def test_killed_build_is_carried_on_to_the_same_bytes(scheduler, long_build, tmp_path, seed, record_property):
    """The client; its scheduler and nannies live in the same process."""
    record_property("fault", "SIGKILL of the client")
    manifest, expected = long_build
    root = tmp_path / "c.zarr"
    with running(*build_arguments(manifest, root)) as process:
        wait_for_moment(root, seed, process)
        family = descendants(process.pid)
        process.kill()
        process.wait()
        assert_gone(family)
    carry_on(scheduler, manifest, root, expected)


@contextmanager
def dask_process(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A scheduler or worker as its users start it, with its children; nothing of it is left behind."""
    quiet = {"OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "60s"}
    command = [sys.executable, "-m", "dask", *words]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=PROJECT, env={**os.environ, **quiet}
    )
    try:
        yield process
    finally:
        family = descendants(process.pid)
        kill([one for one in [psutil.Process(process.pid)] if process.poll() is None] + family)
        process.wait()


@contextmanager
def own_cluster(num_nannies: int) -> Iterator[tuple[str, subprocess.Popen[str], list[subprocess.Popen[str]]]]:
    """Address, scheduler process and nanny processes; a worker process under each nanny."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    words = ("scheduler", "--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0")
    with dask_process(*words) as scheduler:
        wait_until(lambda: _answers(port), scheduler)
        worker = ("worker", address, "--nthreads", "2", "--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
        with dask_process(*worker, "--name", "a") as first, dask_process(*worker, "--name", "b") as second:
            yield address, scheduler, [first, second][:num_nannies]


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("seed", CASES)
def test_killed_nanny_costs_time_only(long_build, tmp_path, seed, record_property):
    record_property("fault", "SIGKILL of a nanny")
    manifest, expected = long_build
    root = tmp_path / "c.zarr"
    with own_cluster(2) as (address, _, nannies):
        arguments = ("build", str(manifest), str(root), "--phase", "smooth", "--cluster", address, "--workers", "2")
        with running(*arguments, "--json") as process:
            choice = wait_for_moment(root, seed, process)
            nanny = nannies[int(choice.integers(len(nannies)))]
            family = descendants(nanny.pid)
            nanny.kill()
            output, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        assert json.loads(output)["failed"] == {}
        assert_gone(family)
    assert volume_bytes(root) == expected
    assert verify_corpus(root).ok


@pytest.mark.parametrize("seed", CASES)
def test_killed_scheduler_is_named_and_the_build_is_carried_on(scheduler, long_build, tmp_path, seed, record_property):
    record_property("fault", "SIGKILL of the scheduler process")
    manifest, expected = long_build
    root = tmp_path / "c.zarr"
    with own_cluster(2) as (address, its_scheduler, nannies):
        arguments = ("build", str(manifest), str(root), "--phase", "smooth", "--cluster", address, "--workers", "2")
        with running(*arguments) as process:
            wait_for_moment(root, seed, process)
            its_scheduler.kill()
            output, errors = process.communicate(timeout=600)
        assert process.returncode == 1, errors
        assert "Traceback" not in output + errors
        assert "scheduler" in output and f"to carry on: rephase {shlex.join(arguments)}" in output
        kill([one for nanny in nannies for one in descendants(nanny.pid)])
    carry_on(scheduler, manifest, root, expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seed", CASES)
def test_an_interrupt_ends_in_one_line_and_tells_how_to_go_on(
    scheduler, long_build, tmp_path, number, seed, record_property
):
    record_property("fault", f"{number.name}")
    manifest, expected = long_build
    root = tmp_path / "c.zarr"
    with running(*build_arguments(manifest, root)) as process:
        wait_for_moment(root, seed, process)
        family = descendants(process.pid)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: everyone gets it
        else:
            process.send_signal(number)
        output, errors = process.communicate(timeout=600)
    assert process.returncode == 130, errors
    assert "Traceback" not in output + errors
    assert errors.count("interrupted") == 1
    assert f"to carry on: rephase build {manifest} {root} --phase smooth" in output
    assert_gone(family)
    committed = CorpusStore.open(root).names()
    assert re.search(rf": {len(committed)} of {NUM_LONG} volumes are committed", output), output
    assert read_index(root).names == sorted(committed, key=lambda name: int(name[1:]))
    assert verify_corpus(root).ok
    last = list(read_run(str(root), run_names(str(root))[-1]))[-1]
    assert last["event"] == "end" and last["interrupted"] and last["built"] == len(committed)
    carry_on(scheduler, manifest, root, expected)


@pytest.fixture
def faulty(tmp_path) -> tuple[Path, Path, dict[str, str]]:
    """A manifest of two good volumes and two that are not, the log of their readings, and the workers' environment."""
    manifest = write_volumes(tmp_path, 2)
    for name in ("crashes", "hangs"):
        np.save(tmp_path / f"{name}.npy", phantom(3))
    lines = ["v0,v0.npy", "crashes,crashes.npy", "hangs,hangs.npy", "v1,v1.npy"]
    log = tmp_path / "readings.txt"
    log.touch()
    preload = str(PROJECT / "tests" / "faulty_reader.py")
    environment = {
        "DASK_DISTRIBUTED__WORKER__PRELOAD": preload,
        "FAULTY_READER_LOG": str(log),
        # Dask closes a nanny whose worker is not there at the moment that it looks; soon enough, it never is
        "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1ms",
    }
    return write_manifest(manifest, lines), log, environment


def test_a_volume_that_kills_or_hangs_its_worker_twice_is_given_up(faulty, tmp_path, record_property):
    record_property("fault", "a volume that crashes or hangs its worker")
    manifest, log, environment = faulty
    root = tmp_path / "c.zarr"
    arguments = (*build_arguments(manifest, root, num_workers=1), "--time-limit", "10")
    with running(*arguments, "--json", **environment) as process:
        output, errors = process.communicate(timeout=600)
    assert process.returncode == 1, errors
    summary = json.loads(output)
    assert (summary["built"], list(summary["failed"])) == (2, ["crashes", "hangs"]), (summary["failed"], errors)
    assert summary["failed"]["crashes"]["reason"] == "worker_lost"
    assert summary["failed"]["hangs"]["reason"] == "timeout"
    assert (
        "than its limit of 10 s, with nothing beside it, and hung in _faulty" in summary["failed"]["hangs"]["message"]
    )
    assert "--time-limit" in summary["failed"]["hangs"]["message"]
    readings = [line.split()[0] for line in log.read_text().splitlines()]
    assert 3 <= len(readings) <= 4, readings  # each twice; one may not have got to its reading when the other crashed
    assert verify_corpus(root).ok

    with running(*arguments, "--json", **environment) as process:  # both are known by now
        output, errors = process.communicate(timeout=600)
    assert process.returncode == 1, errors
    assert set(json.loads(output)["not_retried"]) == {"crashes", "hangs"}
    assert log.read_text().count("\n") == len(readings)


def test_a_strike_counts_in_the_next_run_too(faulty, tmp_path, record_property):
    record_property("fault", "a volume that crashes or hangs its worker")
    manifest, log, environment = faulty
    write_manifest(manifest, ["crashes,crashes.npy", "v0,v0.npy"])
    root = tmp_path / "c.zarr"
    recipe = make_recipe(BuildOptions(phase="smooth"))
    (row, _) = read_manifest(manifest)
    with RunLog(str(root), {}) as earlier:
        earlier.strike("crashes", row_fingerprint(row), recipe.hash)
    with running(*build_arguments(manifest, root, num_workers=1), "--json", **environment) as process:
        output, errors = process.communicate(timeout=600)
    assert json.loads(output)["failed"]["crashes"]["reason"] == "worker_lost", errors
    assert len(log.read_text().splitlines()) == 1
    assert set(read_failures(str(root))) == {"crashes"}


SHAPES = {
    "zeros": (2, 16, 16),
    "one-slice": (1, 24, 20),
    "one-column": (3, 24, 1),
    "one-row": (3, 1, 24),
    "one-voxel": (1, 1, 1),
    "odd": (3, 31, 17),
    "two-thousand": (2000, 8, 8),
}


@pytest.mark.parametrize("phase", ["smooth", "diffusion"])
def test_volumes_of_strange_sizes_are_right(scheduler, tmp_path, phase, record_property, capsys):
    record_property("fault", "zeros, one slice, one column, odd sizes, 2,000 slices")
    shapes = {name: shape for name, shape in SHAPES.items() if phase == "smooth" or name != "two-thousand"}
    magnitudes = {name: phantom(number, shape) for number, (name, shape) in enumerate(shapes.items())}
    magnitudes["zeros"][:] = 0
    magnitudes["one-voxel"][:] = 3
    for name, magnitude in magnitudes.items():
        np.save(tmp_path / f"{name}.npy", magnitude)
    manifest = write_manifest(tmp_path / "m.csv", [f"{name},{name}.npy" for name in shapes])
    root = tmp_path / "c.zarr"
    status = main(["build", str(manifest), str(root), "--phase", phase, "--cluster", scheduler, "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert (status, summary["failed"]) == (0, {})
    assert verify_corpus(root).ok
    store = CorpusStore.open(root)
    import zarr

    for name, magnitude in magnitudes.items():
        receipt = store.receipt(name) or {}
        kspace = np.asarray(zarr.open_group(root, mode="r")[f"volumes/{name}/kspace"][:])
        image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
        assert kspace.shape == magnitude.shape
        error = np.abs(np.abs(image) * receipt["scale"] - magnitude).max()
        assert error <= 1e-5 * max(float(magnitude.max()), 1e-30)
