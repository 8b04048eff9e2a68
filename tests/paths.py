"""Where things lie, whichever folder a test is in."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent
PROJECT = TESTS.parent
SHARED = PROJECT.parent / "shared" / "data"
"""Development data beside the project; tests that need it are skipped elsewhere."""
