"""A client or scheduler that is killed or interrupted at seeded moments: the resumed build has the same bytes."""

from __future__ import annotations

import os
import re
import shlex
import signal

import pytest
from build_process import assert_gone, build_arguments, descendants, running
from dask_programs import dask_program, dask_scheduler
from long_build import CASES, NUM_VOLUMES, wait_for_moment

from rephase.builder.runlog import read_run, run_names
from rephase.corpus.index import read_index
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus


@pytest.mark.parametrize("seed", CASES)
def test_killed_build_is_resumed_to_the_same_bytes(long_build, tmp_path, seed, record_property):
    """The client; its scheduler and nannies live in the same process."""
    record_property("fault", "SIGKILL of the client")
    root = tmp_path / "c.zarr"
    with running(*build_arguments(long_build.manifest, root)) as process:
        wait_for_moment(root, seed, process)
        family = descendants(process.pid)
        process.kill()
        process.wait()
        assert_gone(family)
    long_build.resume(root)


@pytest.mark.parametrize("seed", CASES)
def test_killed_scheduler_is_named_and_the_build_is_resumed(long_build, tmp_path, seed, record_property):
    record_property("fault", "SIGKILL of the scheduler process")
    root = tmp_path / "c.zarr"
    worker = ("--nthreads", "2", "--no-nanny", "--no-dashboard")
    with (
        dask_scheduler(tmp_path) as (address, scheduler),
        dask_program("worker", address, *worker, log=tmp_path / "a"),
        dask_program("worker", address, *worker, log=tmp_path / "b"),
    ):
        arguments = ("build", str(long_build.manifest), str(root), "--phase", "smooth")
        arguments += ("--cluster", address, "--insecure")
        with running(*arguments, "--workers", "2") as process:
            wait_for_moment(root, seed, process)
            scheduler.kill()
            output, errors = process.communicate(timeout=600)
        assert process.returncode == 1, errors
        assert "Traceback" not in output + errors
        assert "scheduler" in output and f"rephase {shlex.join([*arguments, '--workers', '2'])}" in output
    long_build.resume(root)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.reliability)])
@pytest.mark.parametrize("seed", CASES)
def test_an_interrupt_ends_in_one_line_and_shows_how_to_resume(long_build, tmp_path, number, seed, record_property):
    record_property("fault", f"{number.name}")
    root = tmp_path / "c.zarr"
    with running(*build_arguments(long_build.manifest, root)) as process:
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
    assert f"rephase build {long_build.manifest} {root} --phase smooth" in output
    assert_gone(family)
    committed = CorpusStore.open(root).names()
    assert re.search(rf": {len(committed)} of {NUM_VOLUMES} volumes committed", output), output
    assert read_index(root).names == sorted(committed, key=lambda name: int(name[1:]))
    assert verify_corpus(root).ok
    last = list(read_run(str(root), run_names(str(root))[-1]))[-1]
    assert last["event"] == "end" and last["interrupted"] and last["built"] == len(committed)
    long_build.resume(root)
