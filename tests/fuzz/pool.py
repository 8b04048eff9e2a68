"""Run cases in child processes, so that a crash, a hang or excessive memory is detected and ends one case."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from fuzz.judge import LIMIT_BYTES, Verdict

SECONDS = 60.0
"""Wall time for one case, on a busy machine; no case needs a second alone."""
CPU_SECONDS = 15.0
PEAK_BYTES = 4 * LIMIT_BYTES + (64 << 20)
"""Memory of one case: the file, unpacked, the decoded values, the volume; and libraries."""
_ADDRESS_BYTES = 6 << 30


@dataclass(frozen=True)
class Result:
    """The verdict of a case with its time and memory."""

    number: int
    verdict: Verdict
    seconds: float = 0.0
    peak_bytes: int = 0


def run_cases(
    seed: int,
    numbers: Sequence[int],
    workers: int,
    watch: Callable[[], object] = lambda: None,
    seconds: float = SECONDS,
) -> Iterator[Result]:
    """Run cases in `workers` child processes; yield results in the order in which they end."""
    with tempfile.TemporaryDirectory(prefix="rephase-fuzz-") as folder:
        waiting = iter(numbers)
        children = [_Child(seed, Path(folder), seconds) for _ in range(min(workers, len(numbers)))]
        try:
            busy = {child for child in children if child.start(next(waiting, None))}
            while busy:
                ready = wait([child.pipe for child in busy], timeout=1.0)
                for child in list(busy):
                    result = child.result(child.pipe in ready)
                    if result is None:
                        continue
                    yield result
                    watch()
                    if not child.start(next(waiting, None)):
                        busy.discard(child)
        finally:
            for child in children:
                child.stop()


class _Child:
    """One child process, restarted after a crash or a hang."""

    def __init__(self, seed: int, folder: Path, seconds: float) -> None:
        self._arguments = (seed, folder)
        self._seconds = seconds
        self._number = -1
        self._since = 0.0
        self._make()

    def _make(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, *self._arguments), daemon=True)
        self._process.start()
        other.close()
        self._ready = False

    def start(self, number: int | None) -> bool:
        """Start a case; return False where none is left."""
        if number is None:
            return False
        self._number, self._since = number, time.monotonic()
        self.pipe.send(number)
        return True

    def result(self, readable: bool) -> Result | None:
        """Return the result of a case that has ended or exceeded its limits, else None."""
        elapsed = time.monotonic() - self._since
        if readable:
            try:
                found: Result = self.pipe.recv()
            except (EOFError, ConnectionError):
                self._process.join()
                code = self._process.exitcode or 0
                cause = signal.Signals(-code).name if code < 0 else f"exit {code}"
                self._make()
                return Result(self._number, Verdict("died", f"the process died ({cause})"), elapsed)
            self._ready = True
            return found
        if elapsed > (self._seconds if self._ready else 4 * SECONDS):  # the first case waits for imports
            self.stop()
            self._make()
            return Result(self._number, Verdict("hang", f"no end after {elapsed:.0f} s"), elapsed)
        return None

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, seed: int, folder: Path) -> None:
    from fuzz.cases import make_case, run_case

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_BYTES, _ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return
        case = make_case(seed, max(number, 0))
        meter = _Meter()
        verdict = run_case(case, folder, meter.begin) if number >= 0 else MISDEEDS[number]()
        peak, cpu = _status("VmHWM") - meter.resident, time.process_time() - meter.cpu
        if verdict.fault is None and peak > PEAK_BYTES:
            verdict = Verdict(verdict.outcome, f"took {peak >> 20} MiB more than before; allowed {PEAK_BYTES >> 20}")
        if verdict.fault is None and cpu > CPU_SECONDS:
            verdict = Verdict(verdict.outcome, f"took {cpu:.0f} s of processor time")
        pipe.send(Result(number, verdict, time.monotonic() - meter.start, peak))


class _Meter:
    """Memory, CPU time and time at the start of a case, after its files were written."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start counting."""
        self.resident, self.start, self.cpu = _reset_peak(), time.monotonic(), time.process_time()


def _reset_peak() -> int:
    """Reset the peak of resident memory to its current value."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _hang() -> Verdict:
    while True:
        time.sleep(60)


def _take_memory() -> Verdict:
    held = bytearray(PEAK_BYTES + (64 << 20))
    held[::4096] = b"x" * len(held[::4096])
    return Verdict("read")


MISDEEDS: dict[int, Callable[[], Verdict]] = {-1: os.abort, -2: _hang, -3: _take_memory}
"""Cases that the pool must detect, to test it."""
