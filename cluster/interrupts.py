"""Handle Ctrl-C and log lines while Dask runs: only the client responds to the user."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Defer Ctrl-C, and SIGTERM if it has a handler, to the end of the block.

    Dask cannot close a cluster or client that is still starting: it fails, or leaves processes behind. Blocking the
    signals would not be enough, since another thread could receive them, and Python then handles them in this one.
    """
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():  # Python runs signal handlers in this thread only
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C in all threads and processes that are started inside the block.

    A terminal sends it to the entire process group, but only the client may react. Threads and processes inherit the
    signal mask of the thread that starts them, so workers that are restarted later are covered as well.
    """
    _start_resource_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_resource_tracker() -> None:
    """Start multiprocessing's resource tracker, without its warnings.

    If it started later, it would unblock the signal in the thread that starts the workers. It would also warn about
    resources of killed workers, which it cleans up anyway.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, "ignore:resource_tracker:UserWarning")))
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Dask's log lines (lost workers, closed connections) inside the block; the build reports them itself."""
    names = ("distributed", "tornado", "asyncio")
    # loggers with an explicit level
    inner = [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]
    loggers = [logging.getLogger(name) for name in (*names, *inner)]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
