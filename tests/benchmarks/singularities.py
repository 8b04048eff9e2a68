"""Where real phase has its singularities: `python tests/benchmarks/singularities.py pairs.csv --split train`.

Printed for every volume: how many there are per 1,000 squares of the object, and the share of them in bright squares,
from which a sampler removes its own (`rephase.diffusion.physics.singularities`); at the end the means over the volumes.
"""

from __future__ import annotations

import sys

import torch
from real_rows import given_volumes

from rephase.diffusion.physics.measurement import estimate_sigma
from rephase.diffusion.physics.singularities import bright_squares, find_singularities
from rephase.evaluation.statistics import PhaseVolume


def count(real: PhaseVolume) -> tuple[float, float, float]:
    """Singularities per 1,000 squares, share of them that is in bright squares, share of the squares that is bright."""
    magnitude = torch.from_numpy(real.magnitude)
    singular, counted = find_singularities(torch.from_numpy(real.phasor), torch.from_numpy(real.support))
    bright = bright_squares(magnitude, estimate_sigma(magnitude)) & counted
    number = int(singular.sum())
    return (
        1000.0 * number / max(int(counted.sum()), 1),
        int((singular & bright).sum()) / max(number, 1),
        int(bright.sum()) / max(int(counted.sum()), 1),
    )


def main() -> None:
    """Print the counts for the rows of a split of a manifest with phase."""
    found = []
    for volume in given_volumes(__doc__, "train"):
        found.append(count(volume.real))
        _say(volume.volume_id, found[-1])
    if found:
        _say(f"mean of {len(found)} volumes", tuple(sum(column) / len(found) for column in zip(*found, strict=True)))


def _say(name: str, counts: tuple[float, ...]) -> None:
    density, share, bright = counts
    sys.stdout.write(f"{name}: {density:.2f} per 1,000, {share:.1%} of them in the {bright:.0%} that are bright\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
