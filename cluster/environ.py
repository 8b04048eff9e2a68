"""Environment variables that a worker process must be started with, wherever it runs."""

from __future__ import annotations

import dask
import distributed  # noqa: F401  # brings its part of Dask's configuration along

WORKER_ENVIRON = {
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Of every worker process, set before it starts.

A network allocates and frees tens of megabytes in every layer. Dask's own setting (MALLOC_TRIM_THRESHOLD_=65536) gives
them back to the system each time, which then clears every page anew: half of the time went there. The arithmetic's own
threads are one, since a worker per core leaves no core for others.
"""


def dask_environ() -> dict[str, str]:
    """Give the variables that Dask itself would start a worker with."""
    return {name: str(value) for name, value in dask.config.get("distributed.nanny.pre-spawn-environ").items()}
