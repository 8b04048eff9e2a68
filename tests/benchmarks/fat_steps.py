"""Steps of fat and water: `python tests/benchmarks/fat_steps.py judged.csv field`.

Prints, by split and for real and generated phase of the gradient echoes at 1.5 to 3 T: neighbours that differ by more
than 1 rad, per 1,000 pairs of bright pixels, and the share of the largest of three successive differences in their sum
(moduli), where that is a change of more than 1.5 rad: near 1 for a step, 1/3 for a ramp. Means over sessions.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.generators import SliceKey
from rephase.diffusion.registry import make_generator
from rephase.evaluation.sessions import read_real
from rephase.manifests.parse import read_manifest

SEEDS = (0, 1)
_BRIGHT = 0.15


def steps(phasor: NDArray[np.complex64], magnitude: NDArray[np.float32]) -> tuple[float, float]:
    """Return steps per 1,000 pairs, and their sharpness, of `(slice height width)`."""
    least = _BRIGHT * float(np.percentile(magnitude, 99.0))
    found = []
    for axis in (1, 2):
        count = phasor.shape[axis] - 3
        four = [np.take(phasor, range(i, i + count), axis) for i in range(4)]
        bright = np.minimum.reduce([np.take(magnitude, range(i, i + count), axis) for i in range(4)]) > least
        found.append(np.stack([np.angle(b * a.conj())[bright] for a, b in pairwise(four)]))
    turns = np.concatenate(found, axis=1)
    wide = np.abs(turns[:, np.abs(turns.sum(axis=0)) > 1.5])
    sharp = float(np.median(wide.max(axis=0) / wide.sum(axis=0))) if wide.size else float("nan")
    return 1000.0 * float((np.abs(turns[1]) > 1.0).mean()), sharp


def main() -> None:
    """Print the figures of the rows of a manifest with phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, help="a manifest with the column phase")
    parser.add_argument("generator", help="name of a phase")
    given = parser.parse_args()
    generator = make_generator(given.generator)
    totals: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    for row in read_manifest(given.manifest):
        if row.sequence != "gradient-echo" or not 1.0 < (row.field_t or 0.0) < 4.0:
            continue
        volume = read_real(row, max_slices=4)
        magnitude = volume.real.magnitude
        keys = [[SliceKey(seed, volume.volume_id, 0, index) for index in volume.real.slices] for seed in SEEDS]
        made = [generator.sample_phase(torch.from_numpy(magnitude), one, volume.conditions).numpy() for one in keys]
        for name, phasors in (("real", [volume.real.phasor]), (given.generator, made)):
            sessions = totals.setdefault((row.split or "no split", name), {})
            sessions.setdefault(volume.session, []).extend(steps(one, magnitude) for one in phasors)
    for (split, name), sessions in sorted(totals.items()):
        count, sharp = np.nanmean([np.nanmean(rows, axis=0) for rows in sessions.values()], axis=0)
        sys.stdout.write(f"{split}, {name}: {count:.1f} steps per 1,000 pairs, sharpness {sharp:.2f}\n")


if __name__ == "__main__":
    main()
