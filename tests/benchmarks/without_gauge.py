"""Phase without its gauge: `python tests/benchmarks/without_gauge.py spin-echoes.csv zero spin-echo`.

Global and linear phase of a spin echo follow from the coil combination and the position of the echo. Prints, per
volume, distances from the real phase after both are removed from every slice: of the structure function over lags of
1 to 16 pixels, and of the wrapped gradient in rad/pixel; mean of three seeds.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from rephase.diffusion.registry import make_generator
from rephase.evaluation.candidates import Candidate
from rephase.evaluation.metrics import mean_difference
from rephase.evaluation.sampling import Sampler
from rephase.evaluation.sessions import RealVolume, read_real
from rephase.evaluation.statistics import LAGS, PhaseVolume, gradient_quantiles, structure_function
from rephase.manifests.parse import read_manifest

SEEDS = (0, 1, 2)
_LAGS = sum(lag <= 16 for lag in LAGS)


def without_gauge(volume: PhaseVolume) -> list[PhaseVolume]:
    """Return the volume with the phase of its image without gauge, in pixels instead of mm."""
    return [replace(volume, phasor=volume.fixed_phasor, spacing_mm=(1.0, 1.0, 1.0))]


def distances(made: NDArray[np.complex64], volume: RealVolume) -> tuple[float, float]:
    """Return the distances of the structure function and of the gradient from those of the real phase."""
    real, other = without_gauge(volume.real), without_gauge(volume.real.with_phasor(made))
    structure = np.abs(structure_function(other) - structure_function(real))[:_LAGS].mean()
    return float(structure), mean_difference(gradient_quantiles(other), gradient_quantiles(real))


def main() -> None:
    """Print the distances of the rows of a manifest with phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, help="a manifest with the column phase")
    parser.add_argument("generators", nargs="+", help="names of phases")
    parser.add_argument("--split", default="", help="of the rows; default: all")
    given = parser.parse_args()
    candidates = [Candidate(name, make_generator(name)) for name in given.generators]
    for row in read_manifest(given.manifest):
        if given.split and row.split != given.split:
            continue
        volume = read_real(row, max_slices=8)
        for one in candidates:
            pairs = [distances(Sampler(None).sample(one, volume, seed), volume) for seed in SEEDS]
            structure, gradient = (fmean(values) for values in zip(*pairs, strict=True))
            sys.stdout.write(f"{volume.volume_id} {one.label}: structure {structure:.4f}, gradient {gradient:.4f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
