"""What a worker that exceeded the time limit of a volume leaves behind: its place, and whose fault it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from volumes import write_volumes

from rephase.builder.workers import outcome_of_dead_worker
from rephase.cluster.window import Finished
from rephase.manifests.parse import read_manifest
from rephase.pipeline.task import Task
from rephase.pipeline.timeout import find_timeout

HANGS = """
import os, sys, time
from pathlib import Path
from rephase.pipeline.timeout import TimeLimit, Watchdog, timeout_folder
from rephase.corpus.storage.local import LocalStorage
root, what = sys.argv[1:]
os.fsync = lambda descriptor: time.sleep(60)
with Watchdog(TimeLimit(0.3), timeout_folder(root)).volume("v0"):
    if what == "storage":
        LocalStorage(root).put("volumes/v0/kspace/c.0.0.0", b"1")
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("what", "reason", "fault", "words"),
    [("storage", "storage", "storage", "run the same command again"), ("source", "timeout", None, "--retry-failed")],
)
def test_a_disk_of_the_corpus_that_hangs_is_not_the_volumes_fault(tmp_path, what, reason, fault, words):
    root = str(tmp_path / "c.zarr")
    done = subprocess.run([sys.executable, "-c", HANGS, root, what], capture_output=True, timeout=50, check=False)
    assert done.returncode == 1, done.stderr
    found = find_timeout(root, "v0")
    assert found is not None and found.in_storage == (what == "storage") and "(" in found.place
    (row,) = read_manifest(write_volumes(Path(tmp_path), 1))
    outcome = outcome_of_dead_worker(root, Finished(Task(row), worker_lost=True))
    assert (outcome.reason, outcome.fault) == (reason, fault)
    assert "time limit of 0.3 s" in str(outcome.message) and words in str(outcome.message)
    assert str(tmp_path) not in str(outcome.public)
