"""Select the volumes to export and the path of each."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from rephase.corpus.index import CorpusIndex
from rephase.errors import RequestError

_FOLDER = re.compile(r"[\w .,+@-]{1,128}")
NO_SPLIT = "none"
"""Sub-directory of volumes without a split."""

_SHOWN = 10


@dataclass(frozen=True)
class ExportItem:
    """One volume to export: its name, the checksum of its receipt according to the index, and the path to write."""

    name: str
    receipt_sha256: str
    target: Path


def select_volumes(
    index: CorpusIndex, folder: Path, suffix: str, by_split: bool, filters: Mapping[str, Collection[str] | None]
) -> list[ExportItem]:
    """Select volumes, in the order of the index.

    Parameters
    ----------
    index
        Index of the corpus.
    folder, suffix
        Directory of the exports and the end of their names.
    by_split
        Whether each split has its own sub-directory.
    filters
        Index column to the values to keep; None keeps all.

    Raises
    ------
    RequestError
        If no volume is selected, a name is unknown, or the directory contains files that are not exports of this
        corpus.
    """
    rows = list(range(len(index)))
    for column, words in filters.items():
        if words is not None:
            rows = _keep(index, rows, column, set(words))
    if not rows:
        raise RequestError(
            f"{index.root}: the corpus has no committed volumes; expected at least one; build it with 'rephase build'"
        )
    targets = _targets(index, folder, suffix, by_split)
    _refuse_foreign_files(folder, set(targets), by_split)
    names, receipts = index.names, index.columns["receipt_sha256"]
    return [ExportItem(names[row], receipts[row], targets[row]) for row in rows]


def _keep(index: CorpusIndex, rows: list[int], column: str, words: set[str]) -> list[int]:
    values = index.columns[column]
    kept = [row for row in rows if values[row] in words]
    unknown = words - {str(value) for value in values} if column == "name" else set()
    if kept and not unknown:
        return kept
    present = sorted({str(values[row]) for row in rows})
    shown = ", ".join(present[:_SHOWN]) + (", ..." if len(present) > _SHOWN else "")
    raise RequestError(
        f"{index.root}: no volumes with {column} {', '.join(sorted(unknown or words))}; expected one of {shown}"
    )


def _targets(index: CorpusIndex, folder: Path, suffix: str, by_split: bool) -> list[Path]:
    splits = index.columns["split"]
    if by_split:
        for split in {str(split) for split in splits if split}:
            if split in (".", "..") or not _FOLDER.fullmatch(split):
                raise RequestError(
                    f"{index.root}: --by-split: split {split[:80]!r} cannot be the name of a folder; expected at most "
                    "128 letters, digits, spaces and .,_-+@; export without --by-split"
                )
    folders = [folder / (split or NO_SPLIT) if by_split else folder for split in splits]
    return [parent / f"{name}{suffix}" for parent, name in zip(folders, index.names, strict=True)]


def _refuse_foreign_files(folder: Path, targets: set[Path], by_split: bool) -> None:
    """Refuse a directory with other files, since training code opens every file of a directory."""
    allowed = targets | ({target.parent for target in targets} if by_split else set())
    for place in [folder, *sorted(allowed - targets)]:
        entries = place.iterdir() if place.is_dir() else ()
        foreign = sorted(entry.name for entry in entries if entry not in allowed and entry.name != ".partial")
        if foreign:
            raise RequestError(
                f"{place}: contains {foreign[0]}, which is no volume of this corpus; expected an empty directory or an "
                "earlier export, since training code opens every file in it; remove it or choose another directory"
            )
