"""Rows of an experiment by split and subject, and nested shares of the training subjects."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from rephase.data.order import shuffled
from rephase.errors import RequestError
from rephase.files import replacing
from rephase.manifests.manifest import PATH_COLUMNS, Manifest
from rephase.manifests.parse import read_manifest
from rephase.manifests.record import ManifestRow


@dataclass(frozen=True)
class Rows:
    """Rows of the training and of the test data; `magnitudes` are those of the synthetic arms."""

    train: list[ManifestRow]
    test: list[ManifestRow]
    magnitudes: list[ManifestRow]
    manifest: Path
    magnitudes_manifest: Path


def subject_of(row: ManifestRow) -> str:
    """Return the subject of a row: `subject_id`, else `volume_id`."""
    return row.subject_id or row.volume_id


def read_rows(
    manifest: Path, train_split: str, test_split: str, magnitudes: Path | None = None, volumes_per_subject: int = 0
) -> Rows:
    """Read the rows of an experiment.

    Parameters
    ----------
    manifest
        Rows with real phase.
    train_split, test_split
        The splits to train on and to test on.
    magnitudes
        Manifest of the magnitudes of the synthetic arms, of which the rows of `train_split` are taken, or all if it has
        no splits; None for those of the training rows.
    volumes_per_subject
        Rows of each subject to keep, evenly spread; 0 for all.

    Raises
    ------
    RequestError
        If a split is empty, or a subject is in both.
    """
    if train_split == test_split:
        raise RequestError(f"--train-split and --test-split are both {train_split!r}; expected two different splits")
    found = read_manifest(manifest)
    train, test = (
        _of_split(manifest, found, split, option)
        for split, option in ((train_split, "--train-split"), (test_split, "--test-split"))
    )
    _check_apart(manifest, train, test)
    synthetic, source = train, manifest
    if magnitudes is not None:
        others, source = read_manifest(magnitudes), magnitudes
        has_splits = any(row.split for row in others)
        synthetic = _of_split(magnitudes, others, train_split, "--train-split") if has_splits else list(others)
        _check_apart(magnitudes, synthetic, test)
    kept = [_spread(rows, volumes_per_subject) for rows in (train, test, synthetic)]
    return Rows(kept[0], kept[1], kept[2], manifest, source)


def draw_subjects(subjects: Iterable[str], percent: float, seed: int) -> list[str]:
    """Draw a share of the subjects, at least one: equal seeds draw nested sets, so that more is never less.

    Parameters
    ----------
    subjects
        All training subjects, in any order.
    percent
        Above 0, to 100.
    seed
        Another seed draws other subjects.
    """
    names = sorted(set(subjects))
    count = max(1, int(Fraction(repr(percent)) * len(names) / 100 + Fraction(1, 2)))
    return [names[place] for place in shuffled(len(names), seed)[:count]]


def write_rows(manifest: Path, rows: Iterable[ManifestRow], path: Path) -> Path:
    """Write some rows of a manifest with all of their columns, and absolute paths, as a manifest of their own."""
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        lines = {line["volume_id"].strip(): line for line in csv.DictReader(file, skipinitialspace=True)}
    fields = list(next(iter(lines.values())))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            paths = {name: getattr(row, name) or "" for name in PATH_COLUMNS if name in fields}
            writer.writerow(lines[row.volume_id] | paths)
    return path


def _of_split(path: Path, rows: Manifest, split: str, option: str) -> list[ManifestRow]:
    chosen = [row for row in rows if row.split == split]
    if not chosen:
        known = sorted({row.split for row in rows if row.split})
        has = f"it has {', '.join(known)}; change {option}" if known else "no row has a split; fill in the column split"
        raise RequestError(f"{path}: no row of split {split!r}; {has}")
    return chosen


def _check_apart(path: Path, train: Sequence[ManifestRow], test: Sequence[ManifestRow]) -> None:
    both = sorted({subject_of(row) for row in train} & {subject_of(row) for row in test})
    if both:
        shown = ", ".join(both[:5]) + (f" and {len(both) - 5} more" if len(both) > 5 else "")
        raise RequestError(
            f"{path}: {shown}: in training and in test data; expected each subject in one split; correct the column "
            "split"
        )


def _spread(rows: Sequence[ManifestRow], limit: int) -> list[ManifestRow]:
    """Keep at most `limit` rows of each subject, evenly spread over its rows, in the order of the manifest."""
    if not limit:
        return list(rows)
    members: dict[str, list[ManifestRow]] = {}
    for row in rows:
        members.setdefault(subject_of(row), []).append(row)
    kept = {
        own[place].volume_id
        for own in members.values()
        for place in np.linspace(0, len(own) - 1, min(limit, len(own))).round().astype(int)
    }
    return [row for row in rows if row.volume_id in kept]
