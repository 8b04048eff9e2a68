"""A program whose child is killed while it holds a lock, as a worker may be; run by `test_cluster.py`."""

from __future__ import annotations

import multiprocessing
import os
import signal

from rephase.cluster.interrupts import interrupts_blocked


def die():
    lock = multiprocessing.get_context("spawn").Lock()
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    with interrupts_blocked():
        child = multiprocessing.get_context("spawn").Process(target=die)
        child.start()
        child.join()
