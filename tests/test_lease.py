from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from augment.errors import RequestError
from augment.lease import Lease

HOLD = """
import sys, time
from augment.lease import Lease
with Lease(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def hold_in_process(root: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def write_holder(root: Path, **changes: object) -> Path:
    path = root.with_name(root.name + ".run") / "lease.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    now = time.time()
    holder = {
        "host": "elsewhere",
        "pid": 7,
        "pid_space": "",
        "process_started": 1.0,
        "started": now,
        "renewed": now,
        "token": "t",
    }
    path.write_text(json.dumps(holder | changes))
    return path


def test_the_lease_stands_beside_the_corpus_and_goes_with_the_block(tmp_path):
    with Lease(tmp_path / "c.zarr"):
        holder = json.loads((tmp_path / "c.zarr.run/lease.json").read_text())
        assert holder["pid"] == os.getpid()
        assert holder["host"] == socket.gethostname()
    assert not (tmp_path / "c.zarr.run/lease.json").exists()
    assert not (tmp_path / "c.zarr").exists()
    with Lease(str(tmp_path / "c.zarr") + "/"):
        pass


def test_a_second_builder_is_told_who_holds_it_and_a_killed_one_is_succeeded(tmp_path):
    process = hold_in_process(tmp_path / "c.zarr")
    try:
        for break_lease in (False, True):
            with pytest.raises(RequestError) as caught, Lease(tmp_path / "c.zarr", break_lease=break_lease):
                pass
            message = str(caught.value)
            assert f"held by process {process.pid} on {socket.gethostname()} since 2" in message
            assert "wait for it, or stop it" in message
            assert "\n" not in message
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with Lease(tmp_path / "c.zarr") as lease:
        lease.check()


def test_a_process_id_that_was_given_to_another_process_does_not_hold(tmp_path):
    space = str(Path("/proc/self/ns/pid").readlink())
    write_holder(tmp_path / "c", host=socket.gethostname(), pid=os.getpid(), pid_space=space, process_started=12.0)
    with Lease(tmp_path / "c"):
        pass


def test_a_holder_elsewhere_is_waited_for_then_broken_only_when_asked(tmp_path):
    path = write_holder(tmp_path / "c")
    for break_lease in (False, True):
        with (
            pytest.raises(RequestError, match=r"held by process 7 on elsewhere .* alive"),
            Lease(tmp_path / "c", break_lease),
        ):
            pass
    path = write_holder(tmp_path / "c", renewed=time.time() - 100)
    with pytest.raises(RequestError, match="without a sign of life for 100 s; take it over with --break-lease"):
        Lease(tmp_path / "c").__enter__()
    with Lease(tmp_path / "c", break_lease=True):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_the_heartbeat_renews(tmp_path):
    with Lease(tmp_path / "c", heartbeat_s=0.02):
        path = tmp_path / "c.run/lease.json"
        first = json.loads(path.read_text())
        deadline = time.monotonic() + 10
        while json.loads(path.read_text())["renewed"] == first["renewed"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert json.loads(path.read_text())["started"] == first["started"]


def test_a_lost_lease_is_noticed_and_left_to_its_new_holder(tmp_path):
    with Lease(tmp_path / "c", heartbeat_s=0.02) as lease:
        lease.check()
        path = write_holder(tmp_path / "c")
        deadline = time.monotonic() + 10
        while not lease.lost:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(RequestError, match="took the lease over"):
            lease.check()
    assert json.loads(path.read_text())["host"] == "elsewhere"


def test_a_damaged_lease_holds_nobody_off(tmp_path):
    write_holder(tmp_path / "c").write_text("")
    with Lease(tmp_path / "c"):
        pass


def contend(root: str, start: float, won: str) -> None:
    time.sleep(max(start - time.time(), 0))
    try:
        with Lease(root, break_lease=True):
            Path(won, str(os.getpid())).touch()
            time.sleep(1.5)
    except RequestError:
        pass


def test_of_two_that_break_one_expired_lease_at_once_one_wins(tmp_path):
    write_holder(tmp_path / "c", renewed=time.time() - 100)
    (tmp_path / "won").mkdir()
    context = multiprocessing.get_context("spawn")
    start = time.time() + 1.0
    builders = [
        context.Process(target=contend, args=(str(tmp_path / "c"), start, str(tmp_path / "won"))) for _ in range(2)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert len(list((tmp_path / "won").iterdir())) == 1
