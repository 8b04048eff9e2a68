from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from functools import partial

import dask
import psutil
import pytest
import worker_tasks
from build_process import assert_gone, wait_until
from paths import TESTS
from run_keys import keys_of

from rephase.cluster.connect import ClusterRequest, check_spec, connect, wait_for_workers
from rephase.cluster.errors import ClusterError
from rephase.cluster.local import LocalShape, free_address, local_shape, start_local
from rephase.cluster.window import PER_THREAD, run_window
from rephase.cluster.worker_state import ask_workers, install_state, remove_state, worker_state


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("slurm:none.toml", "none.toml: cannot be read"),
        ("slurm:", "expected local, slurm:CONFIG.toml"),
        ("local:", "expected local"),
        ("ssh:,", "no hosts"),
        ("kubernetes", "expected local, slurm:CONFIG.toml, ssh:HOST,HOST, .* or tls://HOST:PORT"),
        ("tcp:10.0.0.1", "expected tcp://HOST:PORT"),
        ("tls://", "expected tls://HOST:PORT"),
        ("", "expected local"),
    ],
)
def test_unknown_values_are_refused_before_anything_starts(spec, match):
    with pytest.raises(ClusterError, match=match):
        check_spec(spec)
    with pytest.raises(ClusterError, match=match), connect(spec):
        pass


def test_a_scheduler_that_does_not_answer_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    with (
        pytest.raises(ClusterError, match=f"--cluster {address}: no answer within 0.5 s"),
        connect(address, ClusterRequest(timeout=0.5)),
    ):
        pass


def test_a_server_that_never_answers_times_out():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"--cluster {address}: no answer within 0.5 s"):  # noqa: SIM117
            with connect(address, ClusterRequest(timeout=0.5)):
                pass


def test_the_address_of_a_worker_is_refused(scheduler):
    with connect(scheduler) as connection:
        worker = next(iter(connection.client.scheduler_info()["workers"]))
    with pytest.raises(ClusterError, match=f"--cluster {worker}: is a Dask worker; expected the scheduler's address"):  # noqa: SIM117
        with connect(worker, ClusterRequest(timeout=30)):
            pass


def test_tls_without_certificates_is_refused():
    with (
        dask.config.set({"distributed.comm.tls.ca-file": None}),
        pytest.raises(ClusterError, match="certificates"),
        connect("tls://127.0.0.1:1", ClusterRequest(timeout=0.5)),
    ):
        pass


def test_missing_workers_are_counted(scheduler):
    with connect(scheduler) as connection, pytest.raises(ClusterError, match=r"2 of 3 workers came within 0.3 s"):
        wait_for_workers(connection.client, 3, 0.3, scheduler)  # the scheduler itself may take as long as it likes


def test_a_shape_shares_the_machine():
    one, four = local_shape(1), local_shape(4)
    assert (four.num_workers, one.threads) == (4, four.threads)
    assert abs(four.memory_limit * 4 - one.memory_limit) <= 4
    assert one.memory_limit < psutil.virtual_memory().total
    assert local_shape(2, memory_limit=10**9).memory_limit == 10**9


def test_a_taken_port_gives_way():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_address(f"127.0.0.1:{port}") == "127.0.0.1:0"
    assert free_address(f"127.0.0.1:{port}") == f"127.0.0.1:{port}"


@pytest.mark.parametrize("address", ["here", "127.0.0.1:", "127.0.0.1:99999", "no.such.host.invalid:8787"])
def test_an_impossible_dashboard_address_is_refused(address):
    with pytest.raises(ClusterError, match="expected HOST:PORT"):
        free_address(address)


def test_state_is_created_once_per_process_and_shared(scheduler):
    with connect(scheduler) as connection:
        install_state(connection.client, "test", worker_tasks.make_state, ("x",))
        answers = [one.value for one in run_window(connection, worker_tasks.read_state, iter(range(40)), str) if one]
        remove_state(connection.client, "test")
        assert sorted(answer["item"] for answer in answers) == list(range(40))
        assert all(answer["pid"] == answer["seen_by"] and answer["label"] == "x" for answer in answers)
        assert len({answer["pid"] for answer in answers}) == 2
        assert len({answer["made"] for answer in answers}) == 2
        gone = [one.error for one in run_window(connection, worker_tasks.read_state, iter([0]), str) if one]
        assert isinstance(gone[0], ClusterError)


def test_an_error_in_a_workers_setup_is_raised(scheduler):
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with connect(scheduler) as connection:
        with pytest.raises(ValueError, match="this worker is not ready"):
            install_state(connection.client, "broken", worker_tasks.refuse)
        remove_state(connection.client, "broken")


def test_state_outside_of_a_task_is_an_error():
    with pytest.raises(ClusterError, match="'test'"):
        worker_state("test")


def test_a_function_runs_on_every_worker(scheduler):
    with connect(scheduler) as connection:
        answers = ask_workers(connection.client, worker_tasks.os.getpid)
        assert len(set(answers.values())) == connection.num_workers() == 2


def test_the_window_is_bounded(scheduler):
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    with connect(scheduler) as connection:
        returned = 0
        for finished in run_window(connection, abs, items(), str):
            assert len(taken) - returned <= PER_THREAD * connection.num_threads()
            returned += finished is not None
    assert returned == len(taken) == 100


def test_an_error_in_the_function_is_returned_with_its_item(scheduler):
    with connect(scheduler) as connection:
        found = [one for one in run_window(connection, worker_tasks.raise_on_bad, iter(["a", "bad"]), str) if one]
    by_item = {one.item: one for one in found}
    assert by_item["a"].value == "a"
    assert str(by_item["bad"].error) == "bad item" and not by_item["bad"].worker_lost


def test_an_item_that_kills_workers_is_found_and_others_finish():
    """One cluster of its own, because its workers die."""
    items = ["poison", *(f"item{number}" for number in range(12))]
    with connect("local", ClusterRequest(num_workers=2, dashboard_address="127.0.0.1:0")) as connection:
        install_state(connection.client, "test", worker_tasks.make_state, ("again",))
        before = set(ask_workers(connection.client, worker_tasks.os.getpid).values())
        found = [one for one in run_window(connection, worker_tasks.die_on_poison, iter(items), str) if one]
        assert sorted(one.value for one in found if one.value) == sorted(item.upper() for item in items[1:])
        lost = [one for one in found if one.worker_lost]
        assert [one.item for one in lost] == ["poison"] and len(found) == len(items)
        connection.client.wait_for_workers(2, timeout=300)
        after = ask_workers(connection.client, worker_tasks.os.getpid)
        assert set(after.values()) - before, "no worker was started again"
        answers = [one.value for one in run_window(connection, worker_tasks.read_state, iter(range(20)), str) if one]
        assert {answer["pid"] for answer in answers} <= set(after.values())
        children = {child.pid: child for child in psutil.Process().children(recursive=True)}
        assert set(after.values()) <= set(children)
    assert_gone([children[pid] for pid in after.values()])


def test_a_result_lost_with_its_worker_is_computed_again(tmp_path):
    """Dask keeps a result on the worker that made it until it is fetched."""
    with connect("local", ClusterRequest(num_workers=1, dashboard_address="127.0.0.1:0")) as connection:
        install_state(connection.client, "test", worker_tasks.make_state, ("again",))
        (pid,) = ask_workers(connection.client, worker_tasks.os.getpid).values()
        window = run_window(connection, partial(worker_tasks.upper_when_told, folder=tmp_path), iter(["item"]), str)
        assert next(window) is None  # it is handed out, and cannot have come back
        (future,) = connection.client.futures.values()
        (tmp_path / "0").touch()
        wait_until(lambda: future.status == "finished")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: future.status != "finished")
        (tmp_path / "1").touch()
        assert [one.value for one in window if one] == ["ITEM"]


def test_a_worker_that_is_not_ready_yet_keeps_its_tasks_waiting(tmp_path):
    """The scheduler gives tasks to a new worker while its state is still being made."""
    work = partial(worker_tasks.die_once, flag=tmp_path / "flag")
    with connect("local", ClusterRequest(num_workers=1, dashboard_address="127.0.0.1:0")) as connection:
        install_state(connection.client, "test", worker_tasks.make_state_slowly, ("slow",))
        found = [one for one in run_window(connection, work, iter(range(20)), str) if one]
    assert (tmp_path / "flag").exists()
    assert [one.error for one in found if one.error] == []
    assert sorted(one.value for one in found) == list(range(20))


def test_work_is_given_up_when_no_worker_comes_back():
    with (
        start_local(local_shape(1), "127.0.0.1:0") as cluster,
        keys_of(cluster),
        connect(cluster.scheduler_address) as connection,
    ):
        naps = run_window(connection, time.sleep, itertools.repeat(0.05), lambda _: "nap", workerless_s=0.5)
        next(nap for nap in naps if nap is not None)
        cluster.scale(0)
        with pytest.raises(ClusterError, match=r"no worker came back within 0.5 s"):
            list(naps)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_workers_are_forked_from_one_process_without_threads_or_a_gpu(monkeypatch):
    """The second cluster's workers are forked from the process of the first, and get what has changed since."""
    seen = []
    for value, gpus in (("first", ("7", "MIG-b")), ("second", ("3", "4"))):
        monkeypatch.setenv("REPHASE_TEST", value)
        shape = LocalShape(2, 1, 2**30, gpus)
        with (
            start_local(shape, "127.0.0.1:0", ("rephase.builder.workers",)) as cluster,
            keys_of(cluster),
            connect(cluster.scheduler_address, ClusterRequest(num_workers=2)) as connection,
        ):
            answers = list(ask_workers(connection.client, worker_tasks.describe_process).values())
        seen += answers
        assert {answer["environ"]["CUDA_VISIBLE_DEVICES"] for answer in answers} == set(gpus)
        assert {answer["environ"]["REPHASE_TEST"] for answer in answers} == {value}
    assert len({answer["pid"] for answer in seen}) == 4
    (parent,) = {answer["parent"] for answer in seen}
    assert parent != os.getpid() and psutil.Process(parent).ppid() == os.getpid()
    assert not any(answer["cuda"] for answer in seen)
    assert {answer["threads_of_parent"] for answer in seen} == {1}


def test_workers_ignore_ctrl_c(scheduler):
    with connect(scheduler) as connection:
        blocked = ask_workers(connection.client, worker_tasks.blocked_signals)
    assert all(signal.SIGINT in signals for signals in blocked.values())


START = """
import os, signal, sys, threading
import distributed.deploy.spec as spec
from rephase.cluster.local import local_shape, start_local

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, interrupt)
correct = spec.SpecCluster._correct_state_internal

async def interrupted(self):
    if self.scheduler is not None and not self.workers:  # the scheduler is up, and no worker is yet
        os.kill(os.getpid(), int(sys.argv[1]))
    await correct(self)

spec.SpecCluster._correct_state_internal = interrupted
threading.Thread(target=threading.Event().wait, daemon=True).start()  # one that does not block the signals
try:
    with start_local(local_shape(1), "127.0.0.1:0"):
        print("started")
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.reliability), signal.SIGTERM])
def test_an_interrupt_while_the_cluster_starts_ends_in_one_line_and_leaves_no_process(number):
    environment = {**os.environ, "REPHASE_TEST": uuid.uuid4().hex}
    command = [sys.executable, "-c", START, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    left = [
        one for one in psutil.process_iter() if _environment(one).get("REPHASE_TEST") == environment["REPHASE_TEST"]
    ]
    assert left == []


def _environment(process):
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_a_killed_worker_causes_no_warning_about_shared_resources():
    program = TESTS / "leaves_a_lock.py"
    environment = dict(os.environ)
    environment.pop("PYTHONWARNINGS", None)  # what a user asks to see is shown
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
