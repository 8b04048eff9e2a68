"""`phasegen evaluate phase`: every generator on the same real slices, against their real phase."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from augment.errors import RequestError, VolumeError
from augment.phase_metrics import (
    PhaseStatistics,
    gradient_distance,
    measure_phase,
    object_support,
    residue_distance,
    structure_distance,
)
from augment.readers import read_volume
from augment.volume import Volume
from diffusion.generators import Conditions, PhaseGenerator, SliceKey
from manifests.parse import read_manifest
from manifests.record import ManifestRow

FLOOR = "real (other volume)"


@dataclass(frozen=True)
class Score:
    """How far one generator's phase is from the real one of a session; lower is better.

    `gradient` in rad/mm, `structure` without unit, `residues` per 1,000 pixels. A generator named `FLOOR` is real phase
    of one volume of the session (another echo or run) against the real phase of another, mean over the pairs.
    """

    session: str
    generator: str
    gradient: float
    structure: float
    residues: float
    volumes: int
    slices: int


def evaluate_phase(
    volumes: Iterable[tuple[ManifestRow, Volume]], generators: Sequence[PhaseGenerator], seed: int
) -> list[Score]:
    """Score generators per session (the rows' `subject_id`).

    Parameters
    ----------
    volumes
        Rows with their volumes, which must hold real phase.
    generators
        What to judge.
    seed
        Of the generators' noise.
    """
    sessions: dict[str, list[tuple[ManifestRow, Volume]]] = {}
    for row, volume in volumes:
        sessions.setdefault(row.subject_id or row.volume_id, []).append((row, volume))
    scores = []
    for session, members in tqdm(sessions.items(), desc="sessions", unit="session", disable=None):
        scores += _score_session(session, members, generators, seed)
    return scores


def _score_session(
    session: str, members: list[tuple[ManifestRow, Volume]], generators: Sequence[PhaseGenerator], seed: int
) -> list[Score]:
    supports = [object_support(volume.magnitude) for _, volume in members]
    spacings = [(volume.spacing_mm[1], volume.spacing_mm[2]) for _, volume in members]
    phasors = [_real_phasor(volume) for _, volume in members]
    real = measure_phase(phasors, supports, spacings)
    num_slices = sum(len(support) for support in supports)

    def score(name: str, pairs: list[tuple[PhaseStatistics, PhaseStatistics]]) -> Score:
        gradient, structure, residues = (
            float(np.mean([distance(one, other) for one, other in pairs]))
            for distance in (gradient_distance, structure_distance, residue_distance)
        )
        return Score(session, name, gradient, structure, residues, len(members), num_slices)

    scores = []
    if len(members) > 1:
        singles = [measure_phase([z], [s], [mm]) for z, s, mm in zip(phasors, supports, spacings, strict=True)]
        scores.append(score(FLOOR, list(combinations(singles, 2))))
    for generator in generators:
        made = [_sample(generator, row, volume, seed) for row, volume in members]
        scores.append(score(generator_label(generator), [(real, measure_phase(made, supports, spacings))]))
    return scores


def generator_label(generator: PhaseGenerator) -> str:
    """The name, with the number of evaluations where a network is asked."""
    return f"{generator.name}, nfe {generator.nfe}" if generator.nfe else generator.name


def _real_phasor(volume: Volume) -> NDArray[np.complex64]:
    if volume.phase is None:
        raise ValueError("the volume has no phase")
    phasor: NDArray[np.complex64] = np.exp(1j * volume.phase).astype(np.complex64)
    return phasor


def _sample(generator: PhaseGenerator, row: ManifestRow, volume: Volume, seed: int) -> NDArray[np.complex64]:
    keys = [SliceKey(seed, row.volume_id, 0, index) for index in range(len(volume.magnitude))]
    conditions = Conditions(volume.spacing_mm[1:], volume.te_ms, volume.field_t, volume.spacing_mm[0])
    magnitude = torch.from_numpy(np.ascontiguousarray(np.abs(volume.magnitude)))
    phasor: NDArray[np.complex64] = generator.sample_phase(magnitude, keys, conditions).numpy()
    return phasor


def format_table(scores: Sequence[Score]) -> str:
    """A Markdown table, one line per session and generator."""
    lines = [
        "| session | generator | gradient W1 (rad/mm) | structure function | residues per 1,000 px |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.session} ({one.slices} slices) | {one.generator} | {one.gradient:.4f} | {one.structure:.3f} "
        f"| {one.residues:.2f} |"
        for one in scores
    ]
    return "\n".join(lines)


def evaluate_phase_command(
    manifest: Path, split: str | None, generators: Sequence[PhaseGenerator], seed: int, as_json: bool
) -> int:
    """Run `phasegen evaluate phase`: print a Markdown table, or JSON; the exit status."""
    rows = [row for row in read_manifest(manifest) if split is None or row.split == split]
    pairs, failures = [], []
    for row in tqdm(rows, desc="reading", unit="volume", disable=None):
        try:
            volume = read_volume(row)
            if volume.phase is None:
                raise VolumeError("mismatch", f"{row.volume_id}: no real phase; its row needs `phase` or `kspace`")
            pairs.append((row, volume))
        except VolumeError as error:
            failures.append(str(error))
    if not pairs:
        reasons = "\n".join(failures[:10])
        raise RequestError(f"{manifest}: no row{f' of split {split!r}' if split else ''} with real phase\n{reasons}")
    scores = evaluate_phase(pairs, generators, seed)
    text = json.dumps([asdict(one) for one in scores], indent=2) if as_json else format_table(scores)
    print(text)  # noqa: T201
    for failure in failures:
        print(f"left out: {failure}", file=sys.stderr)  # noqa: T201
    return 1 if failures else 0
