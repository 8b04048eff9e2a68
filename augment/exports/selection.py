"""Which volumes of a corpus are exported, and where each of them goes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from rephase.corpus.index import CorpusIndex
from rephase.errors import RequestError

NO_SPLIT = "none"
"""The sub-folder of volumes without a split."""

_SHOWN = 10


@dataclass(frozen=True)
class Wanted:
    """One volume to export: its name, its receipt's checksum as the index has it, and the path of the export."""

    name: str
    receipt_sha256: str
    target: Path


def choose(
    index: CorpusIndex, folder: Path, suffix: str, by_split: bool, filters: Mapping[str, Collection[str] | None]
) -> list[Wanted]:
    """Choose volumes in the order of the index.

    Parameters
    ----------
    index
        Of the corpus.
    folder, suffix
        Where exports go and how their names end.
    by_split
        A sub-folder for every split.
    filters
        Index column to the values that are kept; None keeps all.

    Raises
    ------
    RequestError
        If no volume is left, a name is unknown, or the folder holds what no export of this corpus put there.
    """
    rows = list(range(len(index)))
    for column, words in filters.items():
        if words is not None:
            rows = _keep(index, rows, column, set(words))
    if not rows:
        raise RequestError(f"{index.root}: the corpus has no committed volumes; build it with 'rephase build'")
    targets = _targets(index, folder, suffix, by_split)
    _refuse_strangers(folder, set(targets), by_split)
    names, receipts = index.names, index.columns["receipt_sha256"]
    return [Wanted(names[row], receipts[row], targets[row]) for row in rows]


def _keep(index: CorpusIndex, rows: list[int], column: str, words: set[str]) -> list[int]:
    values = index.columns[column]
    kept = [row for row in rows if values[row] in words]
    unknown = words - {str(value) for value in values} if column == "name" else set()
    if kept and not unknown:
        return kept
    present = sorted({str(values[row]) for row in rows})
    shown = ", ".join(present[:_SHOWN]) + (", ..." if len(present) > _SHOWN else "")
    raise RequestError(
        f"{index.root}: no volumes with {column} {', '.join(sorted(unknown or words))}; there are: {shown}"
    )


def _targets(index: CorpusIndex, folder: Path, suffix: str, by_split: bool) -> list[Path]:
    splits = index.columns["split"]
    folders = [folder / (split or NO_SPLIT) if by_split else folder for split in splits]
    return [parent / f"{name}{suffix}" for parent, name in zip(folders, index.names, strict=True)]


def _refuse_strangers(folder: Path, targets: set[Path], by_split: bool) -> None:
    """Training code opens every file of a folder, so a stranger would stop it; and nothing of others is touched."""
    allowed = targets | ({target.parent for target in targets} if by_split else set())
    places = [folder, *sorted(allowed - targets)] if by_split else [folder]
    for place in places:
        strangers = sorted(entry.name for entry in place.iterdir() if entry not in allowed) if place.is_dir() else []
        strangers = [name for name in strangers if name != ".partial"]
        if strangers:
            raise RequestError(
                f"{place}: holds {strangers[0]}, which is no volume of this corpus; expected an empty folder or an "
                "earlier export, since training code opens whatever lies there; remove it or choose another folder"
            )
