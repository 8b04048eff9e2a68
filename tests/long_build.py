"""A build that takes long enough to be interrupted, and what must hold after it was resumed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from build_process import wait_until
from volumes import volume_bytes, write_volumes

from rephase.builder.options import BuildOptions
from rephase.builder.run import build
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.manifests.parse import read_manifest

NUM_VOLUMES = 8
_NUM_OBJECTS = 5 * NUM_VOLUMES
"""A receipt, two shards and their metadata per volume."""

CASES = [0, *(pytest.param(seed, marks=pytest.mark.reliability) for seed in range(1, 5))]
"""One seed in every run of the tests, the others in `make reliability`."""


class LongBuild:
    """A manifest, and the bytes of the corpus that an undisturbed build makes of it on the session's cluster."""

    def __init__(self, folder: Path, scheduler: str) -> None:
        self.scheduler = scheduler
        self.manifest = write_volumes(folder, NUM_VOLUMES, shape=(12, 160, 160))
        self._build(folder / "c.zarr")
        self.expected = volume_bytes(folder / "c.zarr")

    def _build(self, root: Path) -> tuple[int, int]:
        options = BuildOptions(phase="smooth", cluster=self.scheduler)
        summary = build(read_manifest(self.manifest), str(root), options, say=lambda _: None, progress=False)
        assert summary.exit_status == 0, summary.lines()
        return summary.skipped, summary.built

    def check(self, root: Path) -> None:
        """Check that a corpus is whole and has the expected bytes."""
        assert volume_bytes(root) == self.expected
        assert verify_corpus(root).ok

    def resume(self, root: Path) -> None:
        """Build again: what is committed is skipped, and the corpus ends with the expected bytes."""
        committed = len(CorpusStore.open(root).names()) if (root / "zarr.json").exists() else 0
        assert self._build(root) == (committed, NUM_VOLUMES - committed)
        self.check(root)


def wait_for_moment(root: Path, seed: int, process: subprocess.Popen[str]) -> np.random.Generator:
    """Wait until the corpus has as many objects as the seed chooses; returns the seed's generator."""
    choice = np.random.default_rng(seed)
    count = int(choice.integers(1, _NUM_OBJECTS - 10))
    wait_until(lambda: sum(path.is_file() for path in root.glob("volumes/*/**/*")) >= count, process)
    return choice
