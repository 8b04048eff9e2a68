"""One head in two corpora, multi-coil: as image and coefficients, and as k-space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scans import build_scan, write_head


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the manifest of one head of 4 slices of 48 x 40."""
    return write_head(tmp_path_factory.mktemp("head"), (4, 48, 40))


@pytest.fixture(scope="session")
def lazy(head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_scan(head, tmp_path_factory.mktemp("lazy") / "c.zarr", coils="6")


@pytest.fixture(scope="session")
def stored(head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_scan(head, tmp_path_factory.mktemp("stored") / "c.zarr", coils="6", storage="kspace")


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)
