"""What an experiment is asked for, whatever it trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """The data and the place of an experiment; see `rephase evaluate reconstruction --help`."""

    manifest: Path
    train_split: str
    test_split: str
    output: Path
    arms: tuple[str, ...] = ()
    magnitudes: Path | None = None
    checkpoint: Path | None = None
    device: str = "cpu"
    workers: int | None = None
