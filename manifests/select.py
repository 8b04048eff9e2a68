"""Choose among the volumes that a scan found, and assign them to splits by subject."""

from __future__ import annotations

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from rephase.facts import SPLITS
from rephase.manifests.header import SeriesHeader

_DIGITS = 13  # a float has 53 bits


@dataclass(frozen=True)
class Selection:
    """Which volumes a scan writes.

    Attributes
    ----------
    include, exclude
        Patterns of paths relative to the scanned folder, or of file names; `*` matches any characters. A volume is
        written if one of `include` matches, if there are any, and none of `exclude`.
    contrast
        Patterns of contrasts; an unknown contrast is an empty text.
    frames
        Most time points of one series, evenly spaced from the first one; None for all.
    split
        Fraction of the subjects in each split; they add up to 1. Empty: no split.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    contrast: tuple[str, ...] = ()
    frames: int | None = None
    split: Mapping[str, float] = field(default_factory=dict)

    def choose(self, root: Path, headers: Sequence[SeriesHeader]) -> list[SeriesHeader]:
        """Return the headers that are written, in their order."""
        kept = [header for header in headers if self._takes(root, header)]
        return kept if self.frames is None else _spread(kept, self.frames)

    def _takes(self, root: Path, header: SeriesHeader) -> bool:
        path = header.path.relative_to(root).as_posix() if header.path.is_relative_to(root) else str(header.path)
        named = (path, header.path.name)
        return (
            (not self.include or _matches(named, self.include))
            and not _matches(named, self.exclude)
            and (not self.contrast or _matches((header.contrast or "",), self.contrast))
        )

    def split_of(self, subject: str, salt: str) -> str | None:
        """Return the split of a subject, by a hash: it does not depend on the other subjects of an archive."""
        digest = hmac.new(f"split\0{salt}".encode(), subject.encode("utf-8", "surrogateescape"), hashlib.sha256)
        place = int(digest.hexdigest()[:_DIGITS], 16) / 16**_DIGITS
        end = 0.0
        for name, fraction in self.split.items():
            end += fraction
            if place < end and fraction > 0:
                return name
        return max(self.split, key=lambda name: self.split[name], default=None)


def _matches(texts: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)


def _spread(headers: Sequence[SeriesHeader], most: int) -> list[SeriesHeader]:
    series: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, header in enumerate(headers):
        if header.frame is not None:
            series[header.path, header.series, header.dataset, header.echo].append(number)
    dropped: set[int] = set()
    for numbers in series.values():
        ordered = sorted(numbers, key=lambda number: headers[number].frame or 0)
        kept = {ordered[k * len(ordered) // most] for k in range(min(most, len(ordered)))}
        dropped.update(number for number in ordered if number not in kept)
    return [header for number, header in enumerate(headers) if number not in dropped]


def parse_split(text: str) -> dict[str, float]:
    """Parse `train=0.8,val=0.1,test=0.1`; ValueError if it is not that."""
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            fraction = float(number)
        except ValueError:
            fraction = -1.0
        if name not in SPLITS or name in fractions or not 0 <= fraction <= 1:
            raise ValueError(f"{part.strip()!r}; expected a fraction of each, such as train=0.8,val=0.1,test=0.1")
        fractions[name] = fraction
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"{text!r} adds up to {sum(fractions.values()):g}; expected 1")
    return fractions


def parse_frames(text: str) -> int:
    """Parse `first` or a number of time points; ValueError for anything else."""
    if text == "first":
        return 1
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ValueError(f"{text!r}; expected first, or a whole number of 1 or more")
    return int(text)
