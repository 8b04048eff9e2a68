"""What a manifest gives to train on: slices with real phase, their licences, and the linear phase of their volumes."""

from __future__ import annotations

import hashlib
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from augment.errors import RequestError, VolumeError
from augment.readers import read_with_phase
from augment.simulation import SimulationConfig, simulate
from augment.training_data import TrainingSlice, on_grid, slices_of
from augment.volume import Volume
from diffusion.gauge import estimate_ramp
from manifests.parse import read_manifest
from manifests.record import ManifestRow


@dataclass(frozen=True)
class TrainingSet:
    """Slices of the rows of one split. `gauge` is that of `measure_gauge`, `facts` what a model card tells of them."""

    slices: list[TrainingSlice]
    gauge: torch.Tensor
    facts: dict[str, Any]


def read_training_set(
    manifest: Path,
    split: str,
    licences: Collection[str] = (),
    simulation: SimulationConfig = SimulationConfig(),  # noqa: B008  # frozen
    grid_mm: float = 0.0,
) -> TrainingSet:
    """Read the rows of a split that have real phase, and simulate; say on standard error what is left out.

    Parameters
    ----------
    manifest
        Of magnitude and phase.
    split
        All rows where it is empty.
    licences
        Of the rows to take; all where it is empty.
    simulation
        Volumes to add; they have no say in the gauge.
    grid_mm
        Slices that are clearly finer are brought to this resolution; 0 for none.

    Raises
    ------
    RequestError
        The manifest is wrong, or no row of it can be trained on.
    """
    slices: list[TrainingSlice] = []
    ramps, found = [], Counter[str]()
    rows = [row for row in read_manifest(manifest) if not split or row.split == split]
    for row, volume in _read([row for row in rows if not licences or row.licence in licences]):
        slices += slices_of(volume)
        ramps.append(measure_gauge([volume]))
        found[row.licence or "not stated"] += len(volume.magnitude)
    if not slices:
        wanted = f" of split {split!r}" if split else ""
        wanted += f" under {', '.join(licences)}" if licences else ""
        raise RequestError(f"{manifest}: no row{wanted} with phase could be read")
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    facts = {"split": split, "slices": len(slices), "licences": dict(found), "manifest_sha256": digest}
    if simulation.volumes:
        simulated = [one for volume in _simulate(simulation) for one in volume]
        slices += simulated
        facts |= {"simulated_slices": len(simulated), "simulation": asdict(simulation)}
    return TrainingSet([on_grid(one, grid_mm) for one in slices], torch.cat(ramps), facts)


def measure_gauge(volumes: Iterable[Volume]) -> torch.Tensor:
    """The linear phase of each volume, median over its slices: `(volume 3)`, TE in ms (or NaN) and rad/mm."""
    rows = []
    for volume in volumes:
        if volume.phase is None:
            continue
        image = torch.polar(torch.from_numpy(volume.magnitude), torch.from_numpy(volume.phase))
        ramp = estimate_ramp(image) / torch.tensor(volume.spacing_mm[1:])
        te_ms = math.nan if volume.te_ms is None else volume.te_ms
        rows.append([te_ms, *ramp.median(dim=0).values.tolist()])
    return torch.tensor(rows)


def _simulate(config: SimulationConfig) -> Iterator[list[TrainingSlice]]:
    yield from tqdm(simulate(config), desc="simulating", unit="volume", total=config.volumes, disable=None)


def _read(rows: list[ManifestRow]) -> Iterator[tuple[ManifestRow, Volume]]:
    for row in tqdm(rows, desc="reading", unit="volume", disable=None):
        try:
            volume, _ = read_with_phase(row)
            if not np.isfinite(volume.magnitude).all():
                raise VolumeError("not_finite", f"{row.path}: is not finite somewhere; expected numbers; mend it")
        except VolumeError as error:
            print(f"left out: {error}", file=sys.stderr)  # noqa: T201
            continue
        yield row, volume
