"""Scores: distances between generated and real phase per session and family, and the floor between real phases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rephase.evaluation.curves import curves_of
from rephase.evaluation.metrics import METRIC_NAMES, distances, measure_phase, summaries
from rephase.evaluation.sampling import decode
from rephase.evaluation.sessions import RealVolume, comparable
from rephase.evaluation.statistics import PhaseVolume, diversity

FLOOR = "real (other volume)"
REAL = "real"


@dataclass(frozen=True)
class Score:
    """One generator in one session and family.

    `distances` are from the session's real phase, lower is better; `values` summarise each statistic in one number. The
    generator `FLOOR` is the real phase of one volume of the session (echo or run) against that of another, mean over
    the pairs; `REAL` has no distances. `diversity` is that of several samples; for `FLOOR`, of the real volumes of the
    session. `curves` are those of `rephase.evaluation.curves`, empty for `FLOOR`.
    """

    session: str
    family: str
    group: str
    generator: str
    distances: Mapping[str, float]
    values: Mapping[str, float]
    diversity: float
    volumes: int
    slices: int
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def unit(self) -> tuple[str, str]:
        """Session and family, by which scores of generators are paired."""
        return self.session, self.family


def score_session(
    volumes: Sequence[RealVolume], generated: Iterable[tuple[str, Sequence[NDArray[np.uint16]], float]]
) -> list[Score]:
    """Compute the scores of the candidates in a session and family.

    Parameters
    ----------
    volumes
        Real volumes of one session and family.
    generated
        Label, phase codes of every volume, and diversity of each candidate.
    """
    first, reals = volumes[0], [one.real for one in volumes]
    pooled = measure_phase(reals)
    counts = len(volumes), sum(len(one.slices) for one in reals)
    nothing = dict.fromkeys(METRIC_NAMES, math.nan)

    def score(
        label: str,
        apart: Mapping[str, float],
        values: Mapping[str, float],
        spread: float,
        curves: Mapping[str, Sequence[float]],
    ) -> Score:
        return Score(first.session, first.family, first.group, label, apart, values, spread, *counts, curves)

    scores = [score(REAL, nothing, summaries(pooled), math.nan, curves_of(pooled))]
    if len(volumes) > 1:
        scores.append(score(FLOOR, _floor(volumes), nothing, real_diversity(volumes), {}))
    for label, codes, spread in generated:
        made = measure_phase([one.with_phasor(decode(c)) for one, c in zip(reals, codes, strict=True)])
        scores.append(score(label, distances(made, pooled), summaries(made), spread, curves_of(made)))
    return scores


def _floor(volumes: Sequence[RealVolume]) -> dict[str, float]:
    singles = {one.volume_id: measure_phase([one.real]) for one in volumes}
    pairs = [distances(singles[a.volume_id], singles[b.volume_id]) for a, b in comparable(volumes)]
    return {name: _mean([pair[name] for pair in pairs]) for name in METRIC_NAMES}


def real_diversity(volumes: Sequence[RealVolume]) -> float:
    """Return the circular variance of the real phase over volumes with the same slices and matrix.

    Mean over pairs of volumes, comparable with that of two samples.
    """
    return _mean(
        [
            diversity([a.real, b.real])
            for a, b in comparable(volumes)
            if a.real.phasor.shape == b.real.phasor.shape and a.real.slices == b.real.slices
        ]
    )


def sample_diversity(
    volumes: Sequence[RealVolume],
    places: Sequence[Sequence[int]],
    sample: Callable[[RealVolume, Sequence[int], int], NDArray[np.complex64]],
    seeds: Sequence[int],
) -> float:
    """Return the circular variance over samples of the slices at `places` of each volume, mean over pairs of seeds.

    `sample(volume, places, seed)` returns the phasors.
    """
    found = []
    for volume, chosen in zip(volumes, places, strict=True):
        part = slices_at(volume.real, chosen)
        samples = [part.with_phasor(sample(volume, chosen, seed)) for seed in seeds]
        found += [diversity([a, b]) for index, a in enumerate(samples) for b in samples[index + 1 :]]
    return _mean(found)


def slices_at(volume: PhaseVolume, places: Sequence[int]) -> PhaseVolume:
    """Return the slices at some positions."""
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
