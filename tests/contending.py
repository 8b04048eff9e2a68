"""Builders that take the lease of one corpus at the same moment, each in its own process."""

from __future__ import annotations

import os
from typing import Any

from forks import FORKS

from rephase.corpus.lease import Lease
from rephase.errors import RequestError


def num_winners(root: str, num_builders: int, **options: Any) -> int:
    """Start builders that take the lease at once; return how many get it. None releases it before all have tried."""
    start, won, everyone_tried = FORKS.Barrier(num_builders), FORKS.SimpleQueue(), FORKS.Event()
    arguments = (dict(os.environ), root, options, start, won, everyone_tried)
    builders = [FORKS.Process(target=_contend, args=arguments) for _ in range(num_builders)]
    for builder in builders:
        builder.start()
    results = [won.get() for _ in builders]
    everyone_tried.set()
    for builder in builders:
        builder.join()
    return sum(results)


def _contend(
    environment: dict[str, str], root: str, options: dict[str, Any], start: Any, won: Any, everyone_tried: Any
) -> None:
    os.environ.update(environment)
    start.wait()
    try:
        with Lease(root, **options):
            won.put(True)
            everyone_tried.wait()
    except RequestError:
        won.put(False)
