"""Training data of a manifest: slices with real phase, their licences, and the linear phase of their volumes."""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from rephase.diffusion.physics.field_phase import TYPICAL_SPACING_MM
from rephase.diffusion.physics.gauge import estimate_ramp
from rephase.diffusion.seen import Seen, seen_in
from rephase.errors import RequestError, VolumeError
from rephase.files import file_sha256
from rephase.manifests.parse import read_manifest
from rephase.manifests.record import ManifestRow
from rephase.manifests.splits import rows_of_split
from rephase.pipeline.magnitude import prepare_magnitude
from rephase.pipeline.sampling import conditions_of, facts_of
from rephase.readers.registry import read_volume, read_with_phase
from rephase.readers.sources import join_digests
from rephase.readers.volume import Volume
from rephase.training.batches import TrainingSlice, complex_image, on_grid, slices_of
from rephase.training.simulated.anatomy import SimulationConfig, simulate
from rephase.training.simulated.phase import simulate_on

_MOST_RAMP = 2.0 * math.pi * 0.02
"""Largest linear phase in rad per pixel: the peak of k-space is 2 % of the matrix from its centre."""


@dataclass(frozen=True)
class TrainingSet:
    """Slices of one split. `gauge` is that of `measure_gauge`; `facts` and `seen` go into the model card."""

    slices: list[TrainingSlice]
    gauge: torch.Tensor
    facts: dict[str, Any]
    seen: Seen = field(default_factory=Seen)


def read_training_set(
    manifest: Path,
    split: str,
    licences: Collection[str] = (),
    simulation: SimulationConfig = SimulationConfig(),  # noqa: B008  # frozen
    grid_mm: float = 0.0,
    magnitudes: Path | None = None,
) -> TrainingSet:
    """Read the rows of a split that have real phase, and simulate; skipped rows are reported on standard error.

    Parameters
    ----------
    manifest
        Manifest with magnitude and phase.
    split
        Split of the rows; if empty, all but `test`.
    licences
        Licences of the rows; any if empty.
    simulation
        Simulated volumes to add; they do not enter the gauge.
    grid_mm
        Slices at least 25 % finer than this are resampled to it; 0 for none.
    magnitudes
        Manifest of further volumes for simulated phase.

    Raises
    ------
    RequestError
        If the manifest has errors, or none of its rows is usable for training.
    """
    slices: list[TrainingSlice] = []
    anatomies: list[Volume] = []
    gauges: dict[str, list[torch.Tensor]] = {}
    sources, acquired, found = [], [], Counter[str]()
    rows = list(read_manifest(manifest))
    chosen = rows_of_split(rows, split)
    for row, volume in _read([row for row in chosen if not licences or row.licence in licences]):
        whole = slices_of(volume, row.subject_id or row.volume_id)
        slices += whole
        if simulation.phases:
            anatomies.append(volume)
        gauges.setdefault(row.subject_id or row.volume_id, []).append(measure_gauge(volume))
        sources.append(volume.source_sha256)
        acquired.append(facts_of(volume, conditions_of(volume), row.anatomy or volume.anatomy))
        found[row.licence or "not stated"] += len(whole)
    if not slices:
        raise RequestError(_nothing(manifest, split, licences, rows))
    digest = file_sha256(manifest)
    facts = {"split": split, "slices": len(slices), "licences": dict(found), "manifest_sha256": digest}
    facts["sources_sha256"] = join_digests(sources)
    facts["sources"] = sorted(set(sources))
    if magnitudes is not None and simulation.phases:
        others = [volume for _, volume in _read(list(read_manifest(magnitudes)), read_volume)]
        anatomies += others
        facts["magnitudes_sha256"] = join_digests([volume.source_sha256 for volume in others])
        facts["sources"] = sorted({*sources, *(volume.source_sha256 for volume in others)})
    if simulation.volumes or simulation.phases:
        simulated = [one for volume in _simulate(simulation, anatomies) for one in volume]
        slices += simulated
        facts |= {"simulated_slices": len(simulated), "simulation": asdict(simulation)}
    return TrainingSet([on_grid(one, grid_mm) for one in slices], _pool(gauges.values()), facts, seen_in(acquired))


def _nothing(manifest: Path, split: str, licences: Collection[str], rows: list[ManifestRow]) -> str:
    which = f" of split {split!r}" if split else ""
    which += f" under {', '.join(licences)}" if licences else ""
    fix = ""
    if split and not any(row.split for row in rows):
        fix = '; expected a column split with train and val, divided by session; fill it in, or set split = ""'
    return f"{manifest}: no row{which} with phase could be read{fix}"


def measure_gauge(volume: Volume) -> torch.Tensor:
    """Measure the linear phase of a volume, `(5)`; see `rephase.diffusion.physics.gauge_pool`.

    In the plane, the median over the slices; through the slices, the power-weighted mean phase step between
    neighbouring slices, NaN with only one slice.

    Raises
    ------
    ValueError
        If the volume has no phase.
    """
    image = complex_image(volume)
    ramp = estimate_ramp(image) / torch.tensor(volume.spacing_mm[1:])
    phase_step = float((image[1:] * image[:-1].conj()).sum().angle()) if len(image) > 1 else math.nan
    dephasing_ms = conditions_of(volume).dephasing_ms
    te_ms = math.nan if dephasing_ms is None else dephasing_ms
    spacing = math.sqrt(volume.spacing_mm[1] * volume.spacing_mm[2])
    return torch.tensor([te_ms, spacing, *ramp.median(dim=0).values.tolist(), phase_step])


def _pool(gauges: Iterable[list[torch.Tensor]]) -> torch.Tensor:
    """Return the median gauge of each session, `(session 5)`, so that a scan of many echoes counts once.

    Linear phase is bounded: the peak of k-space stays within its middle 4 %, as in 98 % of real slices. Sessions of
    single slices, which have no phase step, are left out; if all are, their step is 0.
    """
    pool = torch.stack([torch.stack(session).nanmedian(dim=0).values for session in gauges])
    most = _MOST_RAMP / pool[:, 1:2].nan_to_num(nan=TYPICAL_SPACING_MM)
    pool[:, 2:4] = torch.maximum(torch.minimum(pool[:, 2:4], most), -most)
    known = pool[torch.isfinite(pool[:, -1])]
    return known if len(known) else torch.cat((pool[:, :-1], torch.zeros(len(pool), 1)), dim=1)


def _simulate(config: SimulationConfig, anatomies: list[Volume]) -> Iterator[list[TrainingSlice]]:
    made = itertools.chain(simulate(config), _simulate_phases(config, anatomies))
    yield from tqdm(made, desc="simulating", unit="volume", total=config.volumes + config.phases, disable=None)


def _simulate_phases(config: SimulationConfig, anatomies: list[Volume]) -> Iterator[list[TrainingSlice]]:
    """Simulate phases on magnitudes of the rows, each a function of seed and number alone."""
    for number in range(config.phases):
        random = np.random.Generator(np.random.Philox(key=[config.seed, (1 << 32) + number]))
        volume = anatomies[random.integers(len(anatomies))]
        yield simulate_on(torch.from_numpy(volume.magnitude), volume.spacing_mm, random)


def _with_phase(row: ManifestRow) -> Volume:
    return read_with_phase(row)[0]


def _read(
    rows: list[ManifestRow], read: Callable[[ManifestRow], Volume] = _with_phase
) -> Iterator[tuple[ManifestRow, Volume]]:
    for row in tqdm(rows, desc="reading", unit="volume", disable=None):
        try:
            volume = read(row)
            if not (volume.magnitude > 0).any():
                raise VolumeError("unsupported", f"{row.path}: is zero; expected an image; remove the row")
            # scaled: squares of very large or small values overflow or vanish in float32
            volume = replace(volume, magnitude=prepare_magnitude(volume.magnitude, "clip").stored)
        except VolumeError as error:
            print(f"skipped: {error}", file=sys.stderr)  # noqa: T201
            continue
        yield row, volume
