"""One builder at a time: a lease beside the corpus, `<corpus>.run/lease.json`, with a heartbeat.

Every change of the lease names the version that it replaces (`Storage.put_if`), so two builders
that start at the same moment, or that both find a silent holder, cannot both win. No decision trusts a clock that shows
the time of day: clocks of two machines differ, and all of them jump. Whether a process on this machine lives is asked
of the machine; whether a holder elsewhere lives is watched, for as long as a lease may be silent, by a clock that only
counts.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from rephase.corpus.storage.open import open_run_folder
from rephase.errors import RequestError, unwritable

HEARTBEAT_S = 10.0
EXPIRY_S = 60.0

_KEY = "lease.json"
_LOOKS = 12
"""Looks at a lease while it is watched."""


def _kernel_text(path: str) -> str:
    try:
        return str(Path(path).readlink()) if "/ns/" in path else Path(path).read_text().strip()
    except OSError:
        return ""


def _this_machine() -> dict[str, str]:
    """Name the place in which process ids count: host names repeat, and containers have ids of their own."""
    return {
        "host": socket.gethostname(),
        "boot": _kernel_text("/proc/sys/kernel/random/boot_id"),
        "pid_space": _kernel_text("/proc/self/ns/pid"),
    }


def _process_started(pid: int) -> float | None:
    """When a living process was started, by a clock that does not jump; None where there is no such process."""
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return None
        after_name = _kernel_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        return float(after_name[19]) if after_name else float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def _now() -> float:
    """Seconds of a clock that only counts, also while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """Hold a corpus for building, for the time of a `with` block.

    A lease whose process died on this machine is taken over without asking, so a killed build is resumed by the same
    command. One whose holder was elsewhere is taken over with `break_lease`, once it was watched in vain for a sign
    of life.

    Parameters
    ----------
    root
        Path or `s3://` URL of the corpus.
    break_lease
        Take over a lease whose holder is dead.
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
        self._storage = open_run_folder(self._root)
        self._break = break_lease
        self._heartbeat_s = heartbeat_s
        self._expiry_s = expiry_s
        self._beats = 0
        self._holder: dict[str, Any] = {
            **_this_machine(),
            "pid": os.getpid(),
            "process_started": _process_started(os.getpid()),
            "started": time.time(),
            "token": uuid.uuid4().hex,
        }
        self._tag = ""
        self._renewed = 0.0
        self._renewing = threading.Lock()
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> bool:
        """True once another builder has taken the lease over, or its document has gone."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raise RequestError where the lease was lost: stop writing, another builder is at work.

        Where it could not be renewed for so long that another builder may have taken it (the network was away, the
        machine slept), it is renewed here and now, or counts as lost.
        """
        if not self.lost and _now() - self._renewed > self._expiry_s:
            try:
                self._renew()
            except OSError as error:
                raise RequestError(
                    f"{self._root}: the lease could not be renewed for {_now() - self._renewed:.0f} s ({error}); "
                    "another builder may take it over, so this one stops; run the same command again to carry on"
                ) from None
        if self.lost:
            raise RequestError(
                f"{self._root}: another builder took the lease over, or its file was removed; this one stops; where no "
                "other builds there, run the same command again to carry on"
            )

    def __enter__(self) -> Lease:
        try:
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
        try:
            if not self.lost:
                self._storage.delete_if(_KEY, self._tag)
        except OSError:  # it stays behind, as after a kill: the next builder finds this process dead
            pass

    def _take(self) -> None:
        while True:
            found = self._storage.get_tagged(_KEY)
            holder = None if found is None else _parse(found[0])
            if found is not None and holder is not None:
                self._refuse(holder, found[1])
            started = _now()
            tag = self._storage.put_if(_KEY, self._document(), None if found is None else found[1])
            if tag is not None:  # otherwise another builder was faster: look who
                self._tag, self._renewed = tag, started
                return

    def _refuse(self, holder: dict[str, Any], tag: str) -> None:
        """Raise unless this holder may be taken over."""
        here = {key: holder.get(key) for key in _this_machine()} == _this_machine()
        if here and _process_started(int(holder["pid"])) != holder.get("process_started"):
            return
        since = datetime.fromtimestamp(float(holder["started"]), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        who = f"{self._root}: held by process {holder['pid']} on {holder['host']} since {since}"
        if here:
            raise RequestError(f"{who}, alive; wait for it, or stop it")
        if not self._break:
            seen = time.time() - float(holder["renewed"])
            raise RequestError(
                f"{who}, last sign of life {max(seen, 0):.0f} s ago by the clocks of both; wait for it, or where it is "
                f"dead take it over with --break-lease, which watches it for {self._expiry_s:.0f} s first"
            )
        if not self._silent(tag):
            raise RequestError(f"{who}, alive: it gave a sign of life just now; wait for it, or stop it")

    def _silent(self, tag: str) -> bool:
        """Watch a lease: False as soon as it changes, True where it does not for as long as a living one may not."""
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
                continue  # a full disk or a server away for a while: the next beat may succeed
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


def _parse(document: bytes) -> dict[str, Any] | None:
    """Read a lease; None where it is none: it is only ever replaced whole."""
    try:
        holder = json.loads(document)
        for key in ("pid", "started", "renewed"):
            float(holder[key])
        return holder if "host" in holder else None
    except (ValueError, TypeError, KeyError):
        return None
