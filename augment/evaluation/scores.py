"""Scores: how far each generator's phase is from the real one of a session, with the floor beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rephase.evaluation.circular import diversity
from rephase.evaluation.metrics import METRIC_NAMES, distances, measure_phase, summaries
from rephase.evaluation.phase_volume import PhaseVolume
from rephase.evaluation.sampling import decode
from rephase.evaluation.sessions import RealVolume, comparable

FLOOR = "real (other volume)"
REAL = "real"


@dataclass(frozen=True)
class Score:
    """One generator in one session.

    `distances` are from the session's real phase, lower is better; `values` say in one number what was measured.
    The generator `FLOOR` is the real phase of one volume of the session (another echo or run) against that of another,
    mean over the pairs; `REAL` has no distances. `diversity` is that of several draws; for `FLOOR`, of the real volumes
    of the session. `descriptive` sessions decide nothing.
    """

    session: str
    generator: str
    distances: Mapping[str, float]
    values: Mapping[str, float]
    diversity: float
    volumes: int
    slices: int
    descriptive: bool = False


def score_session(
    session: str,
    volumes: Sequence[RealVolume],
    generated: Iterable[tuple[str, Sequence[NDArray[np.uint16]], float]],
    descriptive: bool = False,
) -> list[Score]:
    """Score a session.

    Parameters
    ----------
    session
        Its name.
    volumes
        Its real volumes.
    generated
        For each generator its label, the phase codes of every volume, and its diversity.
    descriptive
        Whether it only is shown.
    """
    reals = [one.real for one in volumes]
    pooled = measure_phase(reals)
    counts = len(volumes), sum(len(one.slices) for one in reals)
    nothing = dict.fromkeys(METRIC_NAMES, float("nan"))
    scores = [Score(session, REAL, nothing, summaries(pooled), float("nan"), *counts, descriptive)]
    if len(volumes) > 1:
        apart = _floor(volumes)
        scores.append(Score(session, FLOOR, apart, nothing, real_diversity(volumes), *counts, descriptive))
    for label, codes, spread in generated:
        made = measure_phase([one.with_phasor(decode(c)) for one, c in zip(reals, codes, strict=True)])
        scores.append(Score(session, label, distances(made, pooled), summaries(made), spread, *counts, descriptive))
    return scores


def _floor(volumes: Sequence[RealVolume]) -> dict[str, float]:
    singles = {one.volume_id: measure_phase([one.real]) for one in volumes}
    pairs = [distances(singles[a.volume_id], singles[b.volume_id]) for a, b in comparable(volumes)]
    return {name: _mean([pair[name] for pair in pairs]) for name in METRIC_NAMES}


def real_diversity(volumes: Sequence[RealVolume]) -> float:
    """The circular variance of the real phase over volumes that show the same slices of the same matrix.

    Two at a time, mean over the pairs, so that it stands beside generators with two draws.
    """
    return _mean(
        [
            diversity([a.real, b.real])
            for a, b in comparable(volumes)
            if a.real.phasor.shape == b.real.phasor.shape and a.real.slices == b.real.slices
        ]
    )


def draws_diversity(
    volumes: Sequence[RealVolume],
    places: Sequence[Sequence[int]],
    draw: Callable[[RealVolume, Sequence[int], int], NDArray[np.complex64]],
    seeds: Sequence[int],
) -> float:
    """The circular variance over draws of the slices at `places` of each volume, all pairs of seeds, mean.

    `draw(volume, places, seed)` gives the phasors.
    """
    found = []
    for volume, chosen in zip(volumes, places, strict=True):
        part = slices_at(volume.real, chosen)
        draws = [part.with_phasor(draw(volume, chosen, seed)) for seed in seeds]
        found += [diversity([a, b]) for index, a in enumerate(draws) for b in draws[index + 1 :]]
    return _mean(found)


def slices_at(volume: PhaseVolume, places: Sequence[int]) -> PhaseVolume:
    """Some of the slices."""
    rows = list(places)
    return PhaseVolume(
        volume.phasor[rows],
        volume.magnitude[rows],
        volume.support[rows],
        volume.spacing_mm,
        tuple(volume.slices[row] for row in rows),
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
