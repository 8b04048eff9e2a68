"""Steepness of simulated and real phase of the same volumes: `python tests/benchmarks/simulated_phase.py pairs.csv`.

The simulated phase has the magnitude, echo time and field strength of the volume; volumes without the latter are
skipped. Prints the structure function, the mean wrapped gradient (rad/mm) and the residues (per 1,000 squares of the
object), of the real phase and averaged over several simulated ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from rephase.evaluation.sessions import read_real
from rephase.evaluation.statistics import LAGS, PhaseVolume, gradient_quantiles, residue_density, structure_function
from rephase.manifests.parse import read_manifest
from rephase.manifests.record import ManifestRow
from rephase.pipeline.magnitude import object_support
from rephase.training.simulated import phase as simulated_phase
from rephase.training.simulated.anatomy import Echo


def measure(volume: PhaseVolume) -> list[float]:
    """Return the structure function, mean gradient, and residues."""
    return [
        *structure_function([volume]),
        float(np.abs(gradient_quantiles([volume])).mean()),
        *residue_density([volume]),
    ]


def simulate_volume(volume: PhaseVolume, echo: Echo, seed: int) -> PhaseVolume:
    """Simulate a phase on the magnitude of a volume at an echo."""
    random = np.random.Generator(np.random.Philox(key=[0, seed]))
    with mock.patch.object(simulated_phase, "sample_echo", lambda random: echo):
        made = simulated_phase.simulate_on(torch.from_numpy(volume.magnitude), volume.spacing_mm, random)
    image = torch.stack([one.image for one in made])
    magnitude = image.abs().numpy()
    phasor = torch.polar(torch.ones_like(image.abs()), image.angle()).numpy()
    return PhaseVolume(phasor, magnitude, object_support(magnitude), volume.spacing_mm, volume.slices)


def compare(rows: Iterable[ManifestRow], draws: int, max_slices: int) -> None:
    """Print the figures of the real phase and of the simulated one for each row."""
    lags = " ".join(f"{lag:4d}px" for lag in LAGS)
    sys.stdout.write(f"  {'structure':12s}{lags}, gradient, residues\n")
    for row in rows:
        volume = read_real(row, max_slices)
        te_ms, field_t = volume.conditions.te_ms, volume.conditions.field_t
        if te_ms is None or field_t is None:
            continue
        echo = Echo(te_ms, te_ms, field_t)
        drawn = np.array([measure(simulate_volume(volume.real, echo, seed)) for seed in range(draws)])
        sys.stdout.write(f"{row.volume_id}, {te_ms:g} ms, {field_t:g} T\n")
        for kind, figures in (("real", measure(volume.real)), ("simulated", drawn.mean(axis=0))):
            sys.stdout.write(f"  {kind:12s}" + " ".join(f"{figure:6.3f}" for figure in figures) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Print the comparison for the `train` rows of a manifest with phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, help="a manifest with the columns phase, te_ms, field_t")
    parser.add_argument("--split", default="train", help="default: %(default)s")
    parser.add_argument("--draws", type=int, default=8, help="simulated phases of each volume; default: %(default)s")
    parser.add_argument("--max-slices", type=int, default=5, help="of each volume; default: %(default)s")
    given = parser.parse_args()
    rows = (row for row in read_manifest(given.manifest) if row.split == given.split)
    compare(rows, given.draws, given.max_slices)


if __name__ == "__main__":
    main()
