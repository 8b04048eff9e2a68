"""What a scan found: the volumes that become rows, and what was left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from manifests.header import SeriesHeader


@dataclass(frozen=True)
class ScannedVolume:
    """One row to be: what the probe told, its names, and where its phase lies (with `pairs`)."""

    header: SeriesHeader
    volume_id: str
    subject_id: str | None
    phase: Path | None = None
    kspace: Path | None = None


@dataclass(frozen=True)
class ScanResult:
    """What a scan found.

    Attributes
    ----------
    volumes
        In the order of their paths and selectors.
    left_out
        How many volumes of each other kind were found and left out.
    unreadable
        Files that could not be understood and folders that could not be looked into, with the reason.
    unpaired
        With `pairs`: magnitude volumes without phase, which are left out too.
    """

    volumes: list[ScannedVolume] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)
    unpaired: int = 0
