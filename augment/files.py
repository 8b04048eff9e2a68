"""Files that somebody may look at while they are written: the old one or the new one, never a half."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside to write to; it takes the place of `path` unless an error leaves the block."""
    partial = path.with_name(f"{path.name}.partial")
    yield partial
    partial.replace(path)
