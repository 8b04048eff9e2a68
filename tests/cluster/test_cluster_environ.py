from __future__ import annotations

import worker_tasks

from rephase.cluster.connect import connect
from rephase.cluster.local import WORKER_ENVIRON
from rephase.cluster.worker_state import ask_workers


def test_worker_processes_start_with_the_environment_that_keeps_their_memory(scheduler):
    """The C library looks at it before Python runs, so setting it in a worker would be too late."""
    with connect(scheduler) as connection:
        seen = ask_workers(connection.client, worker_tasks.environ)
    assert len(seen) == 2
    for environ in seen.values():
        assert {name: environ.get(name) for name in WORKER_ENVIRON} == WORKER_ENVIRON
