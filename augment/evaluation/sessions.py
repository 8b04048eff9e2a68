"""Real volumes of an evaluation, in sessions and folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rephase.diffusion.generators import Conditions
from rephase.errors import VolumeError
from rephase.evaluation.statistics import PhaseVolume
from rephase.manifests.record import ManifestRow
from rephase.pipeline.magnitude import object_support
from rephase.pipeline.sampling import conditions_of
from rephase.readers.registry import read_with_phase


@dataclass(frozen=True)
class RealVolume:
    """Slices of a volume with their real phase, and the conditions for a generator.

    `session` is the row's `subject_id`, else its `volume_id`; `group`, which may be wider, is never split between
    training and test. `source_sha256` is the digest of the source files.
    """

    volume_id: str
    session: str
    group: str
    anatomy: str | None
    real: PhaseVolume
    conditions: Conditions
    source_sha256: str


def read_real(row: ManifestRow, max_slices: int, group_column: str | None = None) -> RealVolume:
    """Read some slices of a row with real phase.

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
    session = row.subject_id or row.volume_id
    return RealVolume(
        row.volume_id,
        session,
        dict(row.extra).get(group_column or "") or session,
        row.anatomy or volume.anatomy,
        PhaseVolume(
            np.exp(1j * phase[chosen]).astype(np.complex64),
            np.ascontiguousarray(volume.magnitude[chosen]),
            support[chosen],
            volume.spacing_mm,
            slices,
        ),
        conditions_of(volume, magnitude=np.abs(volume.magnitude)),
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


def group_sessions(volumes: Iterable[RealVolume]) -> dict[str, list[RealVolume]]:
    """Return the volumes of each session, in order of appearance."""
    sessions: dict[str, list[RealVolume]] = {}
    for one in volumes:
        sessions.setdefault(one.session, []).append(one)
    return sessions


def comparable(volumes: Sequence[RealVolume]) -> list[tuple[RealVolume, RealVolume]]:
    """Return all pairs of volumes of a session, for the floor."""
    return [(one, other) for index, one in enumerate(volumes) for other in volumes[index + 1 :]]


def divide_groups(groups: Iterable[str], num_folds: int) -> list[frozenset[str]]:
    """Divide groups into folds with about equal numbers of members (grouped k-fold split).

    Some folds are empty if there are fewer groups than folds.

    Parameters
    ----------
    groups
        Group of each member.
    num_folds
        Number of folds.
    """
    folds: list[set[str]] = [set() for _ in range(num_folds)]
    sizes = [0] * num_folds
    for group, count in sorted(Counter(groups).items(), key=lambda pair: (-pair[1], pair[0])):
        smallest = sizes.index(min(sizes))
        folds[smallest].add(group)
        sizes[smallest] += count
    return [frozenset(fold) for fold in folds]
