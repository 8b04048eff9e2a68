"""Fixtures that several test modules share."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

# tests send Ctrl-C to commands; a run of the tests that was started in the background ignores it, and so would they
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """Address of a running scheduler with two worker processes, as `--cluster` takes it; started once."""
    from rephase.cluster.local import local_shape, start_local

    with warnings.catch_warnings():
        # Dask's own: sockets of closing connections are left to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        with start_local(local_shape(2), "127.0.0.1:0") as cluster:
            yield cluster.scheduler_address
    logging.getLogger("distributed").setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def consumer_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of what consumers of exports may stumble over; only to be read."""
    from export_volumes import make_consumer_corpus

    root = tmp_path_factory.mktemp("consumers") / "c.zarr"
    make_consumer_corpus(root)
    return root
