"""Real volumes of an evaluation, in sessions and folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rephase.diffusion.generators import Conditions
from rephase.errors import VolumeError
from rephase.evaluation.statistics import PhaseVolume
from rephase.manifests.record import ManifestRow
from rephase.pipeline.magnitude import object_support
from rephase.pipeline.sampling import conditions_of
from rephase.readers.registry import read_with_phase

UNKNOWN = "unknown"
"""Family of volumes whose sequence is neither stated nor inferred."""
WITHHOLDABLE = ("sequence", "te_ms", "contrast", "field_t")
"""Facts that can be withheld from the generators, as if the header did not state them."""


@dataclass(frozen=True)
class RealVolume:
    """Slices of a volume with their real phase, and the conditions for a generator.

    `session` is the row's `subject_id`, else its `volume_id`; `group`, which may be wider, is never split between
    training and test. `family` is that of the pulse sequence, stated or inferred, else `UNKNOWN`. `source_sha256` is
    the digest of the source files.
    """

    volume_id: str
    session: str
    group: str
    family: str
    real: PhaseVolume
    conditions: Conditions
    source_sha256: str


def read_real(
    row: ManifestRow, max_slices: int, group_column: str | None = None, withheld: Collection[str] = ()
) -> RealVolume:
    """Read some slices of a row with real phase.

    Parameters
    ----------
    row
        Row of the manifest.
    max_slices
        Slices to read, in neighbouring pairs; 0 for all.
    group_column
        Manifest column of the group, None for the session.
    withheld
        Facts (of `WITHHOLDABLE`) that the conditions leave out; the family remains that of the volume.

    Raises
    ------
    VolumeError
        If it cannot be read, or has no real phase or no object.
    """
    volume, phase = read_with_phase(row)
    support = object_support(volume.magnitude)
    if not support.any():
        raise VolumeError("unsupported", f"{row.volume_id}: magnitude is zero; expected an object; remove the row")
    slices = choose_slices(len(volume.magnitude), max_slices)
    chosen = list(slices)
    nothing: dict[str, Any] = dict.fromkeys(withheld)
    session = row.subject_id or row.volume_id
    return RealVolume(
        row.volume_id,
        session,
        dict(row.extra).get(group_column or "") or session,
        conditions_of(volume).sequence or UNKNOWN,
        PhaseVolume(
            np.exp(1j * phase[chosen]).astype(np.complex64),
            np.ascontiguousarray(volume.magnitude[chosen]),
            support[chosen],
            volume.spacing_mm,
            slices,
        ),
        conditions_of(replace(volume, **nothing), magnitude=np.abs(volume.magnitude)),
        volume.source_sha256,
    )


def choose_slices(count: int, limit: int) -> tuple[int, ...]:
    """Return the indices of at most `limit` of `count` slices (0: all): neighbouring pairs, evenly spread.

    Pairs, because the through-slice gradient needs neighbours; with an odd limit the last pair is incomplete.
    """
    if limit == 0 or limit >= count:
        return tuple(range(count))
    pairs = (limit + 1) // 2
    starts = np.floor((np.arange(pairs) + 0.5) * count / pairs - 0.5).astype(int).clip(0, count - 2)
    chosen = sorted({int(start) + step for start in starts for step in (0, 1)})
    return tuple(chosen[:limit])


def group_sessions(volumes: Iterable[RealVolume]) -> dict[tuple[str, str], list[RealVolume]]:
    """Return the volumes of each (session, family), in order of appearance.

    A session with gradient and spin echoes is judged as two, because their phases differ.
    """
    sessions: dict[tuple[str, str], list[RealVolume]] = {}
    for one in volumes:
        sessions.setdefault((one.session, one.family), []).append(one)
    return sessions


def comparable(volumes: Sequence[RealVolume]) -> list[tuple[RealVolume, RealVolume]]:
    """Return all pairs of volumes of a session, for the floor."""
    return [(one, other) for index, one in enumerate(volumes) for other in volumes[index + 1 :]]


def divide_groups(groups: Iterable[str], num_folds: int, kinds: Iterable[str] | None = None) -> list[frozenset[str]]:
    """Divide groups into folds with about equal numbers of members (grouped k-fold split).

    Some folds are empty if there are fewer groups than folds.

    Parameters
    ----------
    groups
        Group of each member.
    num_folds
        Number of folds.
    kinds
        Kind of each member; the members of each kind are divided about equally. None if all are of one kind.
    """
    names = list(groups)
    labels = [""] * len(names) if kinds is None else list(kinds)
    totals = Counter(labels)
    members: dict[str, Counter[str]] = {}
    for name, label in zip(names, labels, strict=True):
        members.setdefault(name, Counter())[label] += 1
    folds: list[set[str]] = [set() for _ in range(num_folds)]
    filled: list[Counter[str]] = [Counter() for _ in range(num_folds)]

    def load(fold: int, group: Counter[str]) -> tuple[float, int]:
        overlap = sum(count * filled[fold][label] / totals[label] ** 2 for label, count in group.items())
        return overlap, filled[fold].total()

    # groups with much of a rare kind first: they are the hardest to place
    weight = {name: sum(count / totals[label] for label, count in found.items()) for name, found in members.items()}
    for name in sorted(members, key=lambda one: (-weight[one], one)):
        emptiest = min(range(num_folds), key=lambda fold: load(fold, members[name]))
        folds[emptiest].add(name)
        filled[emptiest].update(members[name])
    return [frozenset(fold) for fold in folds]
