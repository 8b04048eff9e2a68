"""The undisturbed build that several modules compare with."""

from __future__ import annotations

import pytest
from long_build import LongBuild


@pytest.fixture(scope="session")
def long_build(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> LongBuild:
    return LongBuild(tmp_path_factory.mktemp("long"), scheduler)
