"""Coherence through slices: `python tests/benchmarks/through_slices.py pairs.csv field diffusion`.

Prints, per volume of at least eight slices and generator, the Wasserstein-1 distance of the through-slice gradients
from the real ones (rad/mm), when the slices are those of one volume and when each is drawn independently, and the mean
`1 - cos` of the phase step between neighbouring slices after its mean: real, generated, independent.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.generators import PhaseGenerator, SliceKey
from rephase.diffusion.registry import make_generator
from rephase.evaluation.metrics import mean_difference
from rephase.evaluation.sessions import RealVolume, read_real
from rephase.evaluation.statistics import PhaseVolume, through_slice_quantiles
from rephase.manifests.parse import read_manifest

SEEDS = (0, 1)
_FEWEST_SLICES = 8


def sample(generator: PhaseGenerator, volume: RealVolume, seed: int, independent: bool) -> PhaseVolume:
    """Return a generated volume, or one whose slices are drawn as those of different volumes, alone."""
    magnitude = torch.from_numpy(np.abs(volume.real.magnitude))
    if not independent:
        keys = [SliceKey(seed, volume.volume_id, 0, index) for index in volume.real.slices]
        return volume.real.with_phasor(generator.sample_phase(magnitude, keys, volume.conditions).numpy())
    alone = replace(volume.conditions, volume=None)
    drawn = [
        generator.sample_phase(one[None], [SliceKey(seed, f"{volume.volume_id}-{index}", 0, index)], alone)[0]
        for one, index in zip(magnitude, volume.real.slices, strict=True)
    ]
    return volume.real.with_phasor(torch.stack(drawn).numpy())


def step_incoherence(volume: PhaseVolume) -> float:
    """Return the mean `1 - cos` of the phase steps between neighbouring slices, without the mean step of each pair."""
    values: list[NDArray[np.float64]] = []
    for near in range(len(volume.slices) - 1):
        if volume.slices[near + 1] - volume.slices[near] == 1:
            inside = volume.support[near] & volume.support[near + 1]
            product = (volume.phasor[near + 1] * volume.phasor[near].conj())[inside]
            values.append(1.0 - (product * np.exp(-1j * np.angle(product.sum()))).real)
    return float(np.concatenate(values).mean())


def main() -> None:
    """Print the distances of the rows of a manifest with phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, help="a manifest with the column phase")
    parser.add_argument("generators", nargs="+", help="names of phases")
    parser.add_argument("--max-slices", type=int, default=8, help="of each volume; default: %(default)s")
    given = parser.parse_args()
    totals: dict[str, list[tuple[float, ...]]] = {}
    generators = {name: make_generator(name) for name in given.generators}
    for row in read_manifest(given.manifest):
        volume = read_real(row, given.max_slices)
        if len(volume.real.slices) < _FEWEST_SLICES:
            continue
        real = through_slice_quantiles([volume.real])
        for name, generator in generators.items():
            found = []
            for seed in SEEDS:
                made, alone = (sample(generator, volume, seed, independent) for independent in (False, True))
                apart = (mean_difference(through_slice_quantiles([one]), real) for one in (made, alone))
                found.append((*apart, *map(step_incoherence, (volume.real, made, alone))))
            means = tuple(map(fmean, zip(*found, strict=True)))
            totals.setdefault(name, []).append(means)
            sys.stdout.write(_line(volume.volume_id, name, means))
            sys.stdout.flush()
    for name, rows in totals.items():
        sys.stdout.write(_line("mean", name, tuple(map(fmean, zip(*rows, strict=True)))))


def _line(what: str, name: str, means: tuple[float, ...]) -> str:
    together, apart, *steps = means
    shown = ", ".join(f"{value:.3f}" for value in steps)
    return f"{what} {name}: volume {together:.4f}, independent {apart:.4f} rad/mm ({together / apart:.2f}); {shown}\n"


if __name__ == "__main__":
    main()
