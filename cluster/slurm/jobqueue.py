"""dask-jobqueue, loaded so that Ctrl-C stays what it was.

As the package is loaded it sets a handler of its own for the whole process, by which a build would end in SystemExit.
"""

from __future__ import annotations

import signal
from typing import Any


def _load() -> tuple[Any, Any]:
    before = signal.getsignal(signal.SIGINT)
    try:
        from dask_jobqueue.slurm import SLURMCluster, SLURMJob
    finally:
        signal.signal(signal.SIGINT, before)
    return SLURMCluster, SLURMJob


SLURMCluster, SLURMJob = _load()
