"""The lease that admits one builder at a time: `<corpus>.run/lease.json` next to the corpus, with a heartbeat.

Every change of the lease names the version that it replaces (`Storage.put_if`), so of two builders that start at the
same moment, or that both find an expired lease, one wins. No decision depends on wall clocks: clocks of different
machines differ, and may jump. The operating system reports whether a holder on this machine is alive; a holder
elsewhere is watched by a monotonic clock until its lease changes or expires.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from rephase.corpus.storage.open import open_run_folder, open_storage
from rephase.errors import LeaseLostError, RequestError, unwritable

HEARTBEAT_S = 10.0
EXPIRY_S = 60.0

_KEY = "lease.json"
_LOOKS = 12
"""Number of reads of a lease while it is watched."""


def _kernel_text(path: str) -> str:
    try:
        return str(Path(path).readlink()) if "/ns/" in path else Path(path).read_text().strip()
    except OSError:
        return ""


def _this_machine() -> dict[str, str]:
    """Return what process ids refer to: host names repeat, and each container numbers its own processes."""
    return {
        "host": socket.gethostname(),
        "boot": _kernel_text("/proc/sys/kernel/random/boot_id"),
        "pid_space": _kernel_text("/proc/self/ns/pid"),
    }


def _process_started(pid: int) -> float | None:
    """Return the start time of a process by a monotonic clock; None if it is not running."""
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return None
        after_name = _kernel_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return float(after_name[19]) if after_name else float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def _now() -> float:
    """Return seconds of a monotonic clock that also counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """Holds the lease of a corpus during a `with` block.

    A lease whose process died on this machine is taken over, so that the same command resumes a killed build. A lease
    from another machine is taken over with `break_lease`, after watching it for `expiry_s` without a heartbeat.

    Parameters
    ----------
    root
        Path or `s3://` URL of the corpus.
    break_lease
        Take over an expired lease.
    heartbeat_s, expiry_s
        Time between two heartbeats; time without one after which a lease has expired.

    Raises
    ------
    RequestError
        On entering, if another builder holds the lease (who, since when, how to fix it), or if the folder next to the
        corpus cannot be written.
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
        self._storage = open_run_folder(self._root)
        self._break = break_lease
        self._heartbeat_s = heartbeat_s
        self._expiry_s = expiry_s
        self._beats = 0
        self.token = uuid.uuid4().hex
        self._corpus = open_storage(self._root)
        self._holder: dict[str, Any] = {
            **_this_machine(),
            "pid": os.getpid(),
            "process_started": _process_started(os.getpid()),
            "started": time.time(),
            "token": self.token,
        }
        self._tag = ""
        self._renewed = 0.0
        self._renewing = threading.Lock()
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """Whether another builder has taken over the lease, or its file was removed."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise RequestError if the lease was lost: the caller must stop writing.

        If it could not be renewed until another builder may have taken it over (no network, a sleeping machine),
        it is renewed now, or counts as lost.
        """
        if not self.lost and _now() - self._renewed > self._expiry_s:
            try:
                self._renew()
            except OSError as error:
                raise RequestError(
                    f"{self._root}: the lease could not be renewed for {_now() - self._renewed:.0f} s ({error}); "
                    "another builder may take it over, so this one stops; run the same command again to resume"
                ) from None
        if self.lost:
            raise LeaseLostError(self._root)

    def __enter__(self) -> Lease:
        try:
            self._take()
            self._corpus.admit(self.token)
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
        try:
            if not self.lost:
                self._corpus.dismiss(self.token)
                self._storage.delete_if(_KEY, self._tag)
        except OSError:  # the lease remains, as after a kill: the next builder finds this process dead
            pass

    def _take(self) -> None:
        while True:
            found = self._storage.get_tagged(_KEY)
            holder = None if found is None else _parse(found[0])
            if found is not None and holder is not None:
                self._refuse(holder, found[1])
            started = _now()
            tag = self._storage.put_if(_KEY, self._document(), None if found is None else found[1])
            if tag is not None:  # otherwise another builder was faster
                self._tag, self._renewed = tag, started
                return

    def _refuse(self, holder: dict[str, Any], tag: str) -> None:
        """Raise RequestError unless the lease of this holder may be taken over."""
        here = {key: holder.get(key) for key in _this_machine()} == _this_machine()
        if here and _process_started(int(holder["pid"])) != holder.get("process_started"):
            return
        since = datetime.fromtimestamp(float(holder["started"]), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        who = f"{self._root}: held by process {holder['pid']} on {holder['host']} since {since}"
        if here:
            raise RequestError(f"{who}, still active; wait for it, or stop it")
        if not self._break:
            seen = time.time() - float(holder["renewed"])
            raise RequestError(
                f"{who}, last heartbeat {max(seen, 0):.0f} s ago (clocks may differ); wait for it, or if it is dead "
                f"take it over with --break-lease, which watches it for {self._expiry_s:.0f} s first"
            )
        if not self._silent(tag):
            raise RequestError(f"{who}, still active (heartbeat seen); wait for it, or stop it")

    def _silent(self, tag: str) -> bool:
        """Return False as soon as a watched lease changes, True once it has expired."""
        deadline = time.monotonic() + self._expiry_s
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(self._expiry_s / _LOOKS, left))
            found = self._storage.get_tagged(_KEY)
            if found is None:
                return True
            if found[1] != tag:
                return False
        return True

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            try:
                self._renew()
            except (OSError, RequestError):
                continue  # a full disk, an unreachable server: the next heartbeat may succeed
            if self.lost:
                return

    def _renew(self) -> None:
        with self._renewing:
            started = _now()
            tag = self._storage.put_if(_KEY, self._document(), self._tag)
            if tag is None:
                self._lost.set()
            else:
                self._tag, self._renewed = tag, started

    def _document(self) -> bytes:
        self._beats += 1
        return json.dumps(self._holder | {"renewed": time.time(), "beat": self._beats}, indent=2).encode() + b"\n"


def check_holder(root: str, token: str) -> None:
    """Check that the lease of a corpus is held with this token. Called by workers before they change a corpus.

    Raises
    ------
    LeaseLostError
        If another builder holds it, or none.
    OSError
        If that cannot be found out.
    """
    document = open_run_folder(root).get(_KEY)
    holder = None if document is None else _parse(document)
    if holder is None or holder.get("token") != token:
        raise LeaseLostError(root)


@dataclass(frozen=True)
class Holder:
    """The builder that holds the lease of a corpus.

    `alive` is None where only its heartbeat could tell, and that is older than `EXPIRY_S` by this machine's clock.
    """

    pid: int
    host: str
    alive: bool | None
    silent_s: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def find_holder(root: str) -> Holder | None:
    """Return the builder that holds the lease of a corpus; None if there is none."""
    document = open_run_folder(root.removeprefix("file://")).get(_KEY)
    holder = None if document is None else _parse(document)
    if holder is None:
        return None
    silent_s = max(time.time() - float(holder["renewed"]), 0.0)
    alive: bool | None = True if silent_s < EXPIRY_S else None
    if {key: holder.get(key) for key in _this_machine()} == _this_machine():
        alive = _process_started(int(holder["pid"])) == holder.get("process_started")
    return Holder(int(holder["pid"]), str(holder["host"]), alive, silent_s)


def _parse(document: bytes) -> dict[str, Any] | None:
    """Parse a lease; None if it is not one."""
    try:
        holder = json.loads(document)
        for key in ("pid", "started", "renewed"):
            float(holder[key])
        return holder if "host" in holder else None
    except (ValueError, TypeError, KeyError):
        return None
