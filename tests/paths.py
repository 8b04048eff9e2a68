"""Folders of the project, for tests in any folder."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
PROJECT = TESTS.parent
SHARED = PROJECT.parent / "shared" / "data"
"""Development data next to the project; tests that need it are skipped without it."""
