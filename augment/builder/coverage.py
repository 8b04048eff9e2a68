"""Count the pulse sequences of a manifest, and the volumes that the weights have not seen the like of."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rephase.diffusion.seen import Facts, Seen
from rephase.facts import VolumeFacts, known_facts
from rephase.manifests.header import SeriesHeader
from rephase.manifests.manifest import Manifest
from rephase.manifests.record import ManifestRow
from rephase.readers.registry import probe
from rephase.sequences import assume_sequence, dephasing_time_ms
from rephase.text import is_url

MOST_ROWS = 128
UNKNOWN = "unknown"


@dataclass
class Coverage:
    """Rows by the family of their pulse sequence, and outside of what the weights have seen.

    Attributes
    ----------
    num_rows, num_examined
        Rows of the manifest, and those of them, spread evenly, that are counted.
    sequences
        Rows by family, stated or assumed.
    assumed
        Rows whose family was guessed from contrast and echo time, by family.
    outside
        Rows outside by fact (`rephase.diffusion.seen.Seen.outside`).
    num_outside
        Rows outside in any fact: those whose `out_of_distribution` is above 0.
    judged
        Whether the weights state what they have seen.
    """

    num_rows: int = 0
    num_examined: int = 0
    sequences: Counter[str] = field(default_factory=Counter)
    assumed: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    num_outside: int = 0
    judged: bool = False

    def lines(self) -> list[str]:
        """Format as lines of a plan."""
        every = self.num_examined == self.num_rows
        of = "" if every else f" (of {self.num_examined} rows of {self.num_rows})"
        found = [
            f"{name} {count}" + (f" ({self.assumed[name]} assumed)" if self.assumed[name] else "")
            for name, count in self.sequences.most_common()
        ]
        lines = [f"sequence: {', '.join(found)}{of}"]
        if self.judged and self.num_outside:
            facts = ", ".join(f"{name} {count}" for name, count in self.outside.most_common())
            lines.append(
                f"outside:  {self.num_outside} rows{of} unlike what the weights have seen ({facts}); their "
                "out_of_distribution is above 0"
            )
        elif self.judged:
            lines.append(f"outside:  no row{of} is unlike what the weights have seen")
        return lines


def examine(manifest: Manifest, seen: Seen | None) -> Coverage:
    """Count at most `MOST_ROWS` rows by their own facts, else by those of their headers."""
    step = -(-len(manifest) // MOST_ROWS)
    found = Coverage(num_rows=len(manifest), judged=seen is not None)
    headers: dict[str, list[SeriesHeader]] = {}
    for number in range(0, len(manifest), step):
        row = manifest[number]
        if row.path not in headers:
            headers = {row.path: _headers(row)}  # rows of one file or folder follow each other
        header = next((one for one in headers[row.path] if _matches(row, one)), None)
        _count(found, row, header, seen)
    return found


def _count(found: Coverage, row: ManifestRow, header: SeriesHeader | None, seen: Seen | None) -> None:
    facts = VolumeFacts(**known_facts(row, *([] if header is None else [header])))
    family = facts.sequence or assume_sequence(facts.contrast, facts.te_ms)
    found.num_examined += 1
    found.sequences[family or UNKNOWN] += 1
    if family is not None and facts.sequence is None:
        found.assumed[family] += 1
    if seen is not None:
        spacing = None if header is None else header.spacing_mm
        in_plane, slice_mm = (None, None) if spacing is None else (math.sqrt(spacing[1] * spacing[2]), spacing[0])
        dephasing_ms = dephasing_time_ms(family, facts.te_ms)
        outside = seen.outside(Facts(family, facts.anatomy, facts.field_t, dephasing_ms, in_plane, slice_mm))
        found.outside.update(outside.keys())
        found.num_outside += bool(outside)


def _headers(row: ManifestRow) -> list[SeriesHeader]:
    """Return the headers of a row's file or folder; none if it cannot be read, which sizes and build report."""
    if is_url(row.path):
        return []
    path = Path(row.path)
    try:
        files = [one for one in sorted(path.iterdir()) if one.is_file()] if path.is_dir() else [path]
        return probe(files).headers
    except Exception:  # no file may stop a plan
        return []


def _matches(row: ManifestRow, header: SeriesHeader) -> bool:
    keys = ("series", "echo", "frame", "dataset")
    return all(getattr(row, key) in (None, getattr(header, key)) for key in keys)
