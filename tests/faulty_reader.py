"""A preload of Dask workers whose reader crashes, hangs or waits for volumes with such file names.

`DASK_DISTRIBUTED__WORKER__PRELOAD=<this file>`; every crash and hang adds a line to `$FAULTY_READER_LOG`. A reader that
waits continues when the file `$FAULTY_READER_GO` exists.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

from rephase.readers import npy

_read = npy.read


def _faulty(row, limit_bytes):
    name = Path(row.path).stem
    if name in ("crashes", "hangs"):
        with Path(os.environ["FAULTY_READER_LOG"]).open("a", encoding="utf-8") as log:
            log.write(f"{name} {os.getpid()}\n")
    if name == "crashes":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "hangs":
        ctypes.PyDLL(None).sleep(3600)  # in C, and the interpreter's lock is not given up
    while name == "waits" and not Path(os.environ["FAULTY_READER_GO"]).exists():
        time.sleep(0.05)
    return _read(row, limit_bytes)


def dask_setup(worker):
    npy.read = _faulty
