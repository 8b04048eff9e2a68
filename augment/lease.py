"""One builder at a time: a lease beside the corpus, `<corpus>.run/lease.json`, with a heartbeat.

Every look at the lease and every change of it happens under a lock on a file beside it, so two builders that start at
the same moment, or that both find an expired lease, cannot both win. The lock is held for moments; the heartbeat is
what tells builders on other machines that the holder is alive. Their clocks must agree to within some seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from augment.errors import RequestError, unwritable
from augment.storage import run_folder

HEARTBEAT_S = 10.0
EXPIRY_S = 60.0


def _pid_space() -> str:
    """Name the space in which process ids count: containers of one host name have one each."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _process_started(pid: int) -> float | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


class Lease:
    """Hold a corpus for building, for the time of a `with` block.

    A lease whose process died on this machine is taken over without asking, so a killed build is resumed by the same
    command. One that expired elsewhere is taken over with `break_lease`.

    Parameters
    ----------
    root
        The corpus. An object store has no exclusive create that every service keeps, so its lease is held on this
        machine, in the user's runtime folder: it does not keep builders on other machines away.
    break_lease
        Take over a lease that has expired.
    heartbeat_s, expiry_s
        Time between two signs of life, and after which a lease without one has expired.

    Raises
    ------
    RequestError
        On entering, if another builder holds the corpus: who, since when, and the mend. Also if nothing can be
        written beside the corpus.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        break_lease: bool = False,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        expiry_s: float = EXPIRY_S,
    ) -> None:
        self._root = os.fspath(root).removeprefix("file://")
        self._folder = _lease_folder(self._root)
        self._path = self._folder / "lease.json"
        self._break = break_lease
        self._heartbeat_s = heartbeat_s
        self._expiry_s = expiry_s
        self._token = uuid.uuid4().hex
        self._started = time.time()
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """True once another builder has taken the lease over, or its file has gone."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise RequestError where the lease was lost: stop writing, another builder is at work."""
        if self.lost:
            raise RequestError(f"{self._root}: another builder took the lease over; this one stops, the other goes on")

    def __enter__(self) -> Lease:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._take()
        except OSError as error:
            raise unwritable(self._root, error) from None
        self._thread = threading.Thread(target=self._beat, name="lease heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._locked():
            holder = self._read()
            if holder is not None and holder.get("token") == self._token:
                self._path.unlink(missing_ok=True)

    def _take(self) -> None:
        with self._locked():
            holder = self._read()
            if holder is not None:
                self._refuse(holder)
            self._started = time.time()
            self._write()

    def _refuse(self, holder: dict[str, Any]) -> None:
        """Raise unless this holder may be taken over."""
        here = holder.get("host") == socket.gethostname() and holder.get("pid_space") == _pid_space()
        if here and _process_started(int(holder["pid"])) != holder.get("process_started"):
            return
        silent_s = time.time() - float(holder["renewed"])
        expired = silent_s > self._expiry_s and not here
        if expired and self._break:
            return
        since = datetime.fromtimestamp(float(holder["started"]), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        who = f"{self._root}: held by process {holder['pid']} on {holder['host']} since {since}"
        if expired:
            raise RequestError(f"{who}, without a sign of life for {silent_s:.0f} s; take it over with --break-lease")
        mend = "wait for it, or stop it" if here else f"wait for it, or stop it and wait {self._expiry_s:.0f} s"
        raise RequestError(f"{who}, alive {max(silent_s, 0):.0f} s ago; {mend}")

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            try:
                with self._locked():
                    holder = self._read()
                    if holder is None or holder.get("token") != self._token:
                        self._lost.set()
                        return
                    self._write()
            except OSError:
                continue  # a full disk or a file server away for a while: the next beat may succeed

    def _read(self) -> dict[str, Any] | None:
        """Read the lease; None where there is none or it is no lease: it is only ever replaced whole."""
        try:
            holder = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        needed = ("host", "pid", "started", "renewed")
        return holder if isinstance(holder, dict) and all(key in holder for key in needed) else None

    def _write(self) -> None:
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pid_space": _pid_space(),
            "process_started": _process_started(os.getpid()),
            "started": self._started,
            "renewed": time.time(),
            "token": self._token,
        }
        fresh = self._path.with_suffix(f".{self._token}")
        fresh.write_text(json.dumps(holder, indent=2) + "\n")
        fresh.replace(self._path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "lease.lock").open("w") as file:
            with contextlib.suppress(OSError):  # a file system without locks: the window is some milliseconds wide
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _lease_folder(root: str) -> Path:
    if "://" not in root:
        return Path(run_folder(str(Path(root).absolute())))
    runtime = os.environ.get("XDG_RUNTIME_DIR") or str(Path.home() / ".cache")
    readable = "".join(letter if letter.isalnum() else "_" for letter in root)
    return Path(runtime) / "phasegen" / readable
