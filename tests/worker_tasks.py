"""Functions for the workers of tests, which import them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from rephase.cluster.worker_state import worker_state


def make_state(label: str) -> dict[str, Any]:
    return {"label": label, "pid": os.getpid(), "made": time.time_ns()}


def make_state_slowly(label: str) -> dict[str, Any]:
    time.sleep(1.5)
    return make_state(label)


def die_once(item: int, flag: Path) -> int:
    """Use the state; one item kills its worker, but only the first time."""
    worker_state("test")
    time.sleep(0.05)
    if item == 5 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def refuse() -> None:
    raise ValueError("this worker is not ready")


def read_state(item: object) -> dict[str, Any]:
    time.sleep(0.02)
    return {**worker_state("test"), "item": item, "seen_by": os.getpid()}


def die_on_poison(item: str) -> str:
    """One item kills the worker while other items are in progress."""
    time.sleep(0.1)
    if item == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    return item.upper()


def upper_when_told(item: str, folder: Path) -> str:
    """Wait for the file "0" in the folder in the first call, for "1" in the second."""
    call = len(list(folder.glob("begun*")))
    (folder / f"begun{call}").touch()
    while not (folder / str(call)).exists():
        time.sleep(0.01)
    return item.upper()


def raise_on_bad(item: str) -> str:
    if item == "bad":
        raise RuntimeError("bad item")
    return item


def blocked_signals() -> set[signal.Signals]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, []))


def describe_process() -> dict[str, Any]:
    """Return what a forked worker inherits, and what it does not."""
    import psutil
    import torch

    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "threads_of_parent": psutil.Process(os.getppid()).num_threads(),
        "cuda": torch.cuda.is_initialized(),
        "environ": dict(os.environ),
    }


def environ() -> dict[str, str]:
    """Return the environment at the start of the process, as the C library has it."""
    block = Path("/proc/self/environ").read_bytes()
    return dict(entry.split("=", 1) for entry in block.decode().split("\0") if "=" in entry)
