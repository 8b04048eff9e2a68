"""Builders that want one corpus at the same moment, each in a process of its own."""

from __future__ import annotations

import multiprocessing
from typing import Any

from rephase.corpus.lease import Lease
from rephase.errors import RequestError


def num_winners(root: str, num_builders: int, **options: Any) -> int:
    """Let builders take a corpus's lease at once, and count those that get it; no one lets go before all have tried."""
    context = multiprocessing.get_context("spawn")
    start, won, everyone_tried = context.Barrier(num_builders), context.SimpleQueue(), context.Event()
    arguments = (root, options, start, won, everyone_tried)
    builders = [context.Process(target=_contend, args=arguments) for _ in range(num_builders)]
    for builder in builders:
        builder.start()
    results = [won.get() for _ in builders]
    everyone_tried.set()
    for builder in builders:
        builder.join()
    return sum(results)


def _contend(root: str, options: dict[str, Any], start: Any, won: Any, everyone_tried: Any) -> None:
    start.wait()
    try:
        with Lease(root, **options):
            won.put(True)
            everyone_tried.wait()
    except RequestError:
        won.put(False)
