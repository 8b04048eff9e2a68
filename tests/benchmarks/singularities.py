"""Singularities of real phase: `python tests/benchmarks/singularities.py pairs.csv --split train`.

Prints, per volume and on average, their density per 1,000 squares of the object, and the share of them in bright
squares, from which a sampler removes its own (`rephase.diffusion.physics.singularities`).
"""

from __future__ import annotations

import sys

import torch
from real_rows import given_volumes

from rephase.diffusion.physics.measurement import estimate_sigma
from rephase.diffusion.physics.singularities import bright_squares, find_singularities
from rephase.evaluation.statistics import PhaseVolume


def count(real: PhaseVolume) -> tuple[float, float, float]:
    """Return singularities per 1,000 squares, the share of them in bright squares, and the share of bright squares."""
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
        _print(volume.volume_id, found[-1])
    if found:
        _print(f"mean of {len(found)} volumes", tuple(sum(column) / len(found) for column in zip(*found, strict=True)))


def _print(name: str, counts: tuple[float, ...]) -> None:
    density, share, bright = counts
    sys.stdout.write(f"{name}: {density:.2f} per 1,000, {share:.1%} of them in the {bright:.0%} that are bright\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
