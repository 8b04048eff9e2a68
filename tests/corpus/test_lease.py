from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from build_process import wait_until
from contending import num_winners

from rephase.corpus.lease import Lease, _this_machine
from rephase.errors import RequestError

HOLD = """
import sys
from rephase.corpus.lease import Lease
with Lease(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold_in_process(root: Path) -> subprocess.Popen[str]:
    """Held until the process is killed, or its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


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


LONG_S = 6.0
"""A living holder is seen at the first look, after a twelfth of this; on a busy machine it has all of it."""


@contextmanager
def beating(path: Path, ahead_s: float = 0.0) -> Iterator[None]:
    """A holder elsewhere that lives: its lease changes. Its clock is wrong by so much."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.05):
            fresh = path.with_suffix(".fresh")
            fresh.write_text(json.dumps(json.loads(path.read_text()) | {"renewed": time.time() + ahead_s}))
            fresh.replace(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_the_lease_stands_beside_the_corpus_and_goes_with_the_block(tmp_path):
    with Lease(tmp_path / "c.zarr"):
        holder = json.loads((tmp_path / "c.zarr.run/lease.json").read_text())
        assert holder["pid"] == os.getpid()
        assert holder["host"] == socket.gethostname()
    assert not (tmp_path / "c.zarr.run/lease.json").exists()
    assert not (tmp_path / "c.zarr").exists()
    with Lease(str(tmp_path / "c.zarr") + "/"):
        pass


def test_a_second_builder_is_told_who_holds_it_and_a_killed_one_is_succeeded(tmp_path, record_property):
    record_property("fault", "two builders on one corpus")
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
        end(process)
    with Lease(tmp_path / "c.zarr") as lease:
        lease.check()


def test_a_process_id_that_was_given_to_another_process_does_not_hold(tmp_path):
    write_holder(tmp_path / "c", **_this_machine(), pid=os.getpid(), process_started=12.0)
    with Lease(tmp_path / "c"):
        pass


def test_a_holder_elsewhere_is_waited_for_then_broken_only_when_asked(tmp_path):
    path = write_holder(tmp_path / "c")
    for break_lease in (False, True):
        with (
            beating(path),
            pytest.raises(RequestError, match=r"held by process 7 on elsewhere since 2.*; wait for it"),
            Lease(tmp_path / "c", break_lease, expiry_s=LONG_S),
        ):
            pass
    path = write_holder(tmp_path / "c", renewed=time.time() - 100)
    with pytest.raises(RequestError, match=r"last heartbeat 10. s ago .* take it over with --break-lease, which wat"):
        Lease(tmp_path / "c").__enter__()
    with Lease(tmp_path / "c", break_lease=True, expiry_s=0.1):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("jump_s", [-1e9, -4000.0, 4000.0, 1e9])
def test_jumping_clocks_neither_kill_a_living_holder_nor_keep_a_dead_one_alive(tmp_path, jump_s, record_property):
    record_property("fault", "clock jumps, read-only places, paths and names of any kind")
    path = write_holder(tmp_path / "c", renewed=time.time() + jump_s)
    with beating(path, jump_s), pytest.raises(RequestError, match="heartbeat seen"):
        Lease(tmp_path / "c", break_lease=True, expiry_s=LONG_S).__enter__()
    with Lease(tmp_path / "c", break_lease=True, expiry_s=0.1) as lease:
        lease.check()


def test_a_clock_that_jumps_here_does_not_make_a_living_process_dead(tmp_path, monkeypatch, record_property):
    record_property("fault", "clock jumps, read-only places, paths and names of any kind")
    process = hold_in_process(tmp_path / "c")
    try:
        # what psutil derives from the time of day moves when the clock is set; what the lease goes by must not
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: 12.0)
        monkeypatch.setattr(time, "time", lambda: 4e9)
        with pytest.raises(RequestError, match=f"held by process {process.pid} .* still active; wait for it"):
            Lease(tmp_path / "c", break_lease=True).__enter__()
    finally:
        end(process)


def test_another_machine_of_the_same_name_is_not_this_one(tmp_path):
    write_holder(tmp_path / "c", **(_this_machine() | {"boot": "another"}), pid=os.getpid(), process_started=12.0)
    with pytest.raises(RequestError, match="take it over with --break-lease"):
        Lease(tmp_path / "c").__enter__()


def test_a_holder_that_could_not_renew_for_too_long_renews_or_stops(tmp_path):
    with Lease(tmp_path / "c", heartbeat_s=1000.0, expiry_s=0.0) as lease:
        path = tmp_path / "c.run/lease.json"
        first = json.loads(path.read_text())["beat"]
        lease.check()
        assert json.loads(path.read_text())["beat"] > first
        path.unlink()
        path.mkdir()
        with pytest.raises(RequestError, match=r"could not be renewed for .* run the same command again"):
            lease.check()
        path.rmdir()
        write_holder(tmp_path / "c")
        with pytest.raises(RequestError, match="took the lease over"):
            lease.check()


def test_the_heartbeat_renews(tmp_path):
    with Lease(tmp_path / "c", heartbeat_s=0.02):
        path = tmp_path / "c.run/lease.json"
        first = json.loads(path.read_text())
        wait_until(lambda: json.loads(path.read_text())["renewed"] != first["renewed"])
        assert json.loads(path.read_text())["started"] == first["started"]


def test_a_lost_lease_is_noticed_and_left_to_its_new_holder(tmp_path):
    with Lease(tmp_path / "c", heartbeat_s=0.02) as lease:
        lease.check()
        path = write_holder(tmp_path / "c")
        wait_until(lambda: lease.lost)
        with pytest.raises(RequestError, match="took the lease over"):
            lease.check()
    assert json.loads(path.read_text())["host"] == "elsewhere"


def test_a_damaged_lease_holds_nobody_off(tmp_path):
    write_holder(tmp_path / "c").write_text("")
    with Lease(tmp_path / "c"):
        pass


def test_of_two_that_break_one_expired_lease_at_once_one_wins(tmp_path, record_property):
    record_property("fault", "two builders on one corpus")
    write_holder(tmp_path / "c", renewed=time.time() - 100)
    assert num_winners(str(tmp_path / "c"), 2, break_lease=True, expiry_s=2.0) == 1
