"""Fixtures of several test modules, the order of the test files, and the limit on the CPU time of a test."""

from __future__ import annotations

import logging
import resource
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import TESTS

# a pytest started in the background ignores SIGINT, and so would the commands that the tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = (
    "builder/test_repair.py", "builder/test_faults_client.py", "test_wheel.py", "cluster/test_cluster.py",
    "training/test_train.py", "test_fuzz.py", "builder/test_faults_volumes.py", "corpus/test_s3.py",
    "commands/test_bench.py", "builder/test_faults_workers.py", "training/test_distill.py", "data/test_stream.py",
    "builder/test_build.py", "exports/test_exports.py", "corpus/test_corruption.py",
)  # fmt: skip
"""Files that take longest. They start first, so that no process of pytest-xdist ends with one of them alone."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cpu-limit", type=float, metavar="S", help="fail a test without the mark slow that takes more CPU seconds"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {TESTS / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def cpu_seconds() -> float:
    """CPU seconds of this process and of all its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = cpu_seconds()
    yield
    taken = cpu_seconds() - before
    item.user_properties.append(("cpu_s", f"{taken:.2f}"))
    limit = item.config.getoption("--cpu-limit")
    if limit and taken > limit and item.get_closest_marker("slow") is None:
        pytest.fail(f"{taken:.1f} CPU s, limit {limit:g} s: make the test cheaper or mark it slow", pytrace=False)


@pytest.fixture(scope="session")
def scheduler() -> Iterator[str]:
    """Address of a scheduler with two worker processes, for `--cluster`; started once per pytest process.

    Its keys are in Dask's configuration from then on, as a user's would be.
    """
    from run_keys import keys_of

    from rephase.cluster.local import local_shape, start_local

    with warnings.catch_warnings():
        # Dask leaves the sockets of closing connections to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        with start_local(local_shape(2), "127.0.0.1:0", ("rephase.builder.workers",)) as cluster, keys_of(cluster):
            yield cluster.scheduler_address
    logging.getLogger("distributed").setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def consumer_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only corpus with one volume for each peculiarity that consumers of exports must handle."""
    from export_volumes import make_consumer_corpus

    root = tmp_path_factory.mktemp("consumers") / "c.zarr"
    make_consumer_corpus(root)
    return root
