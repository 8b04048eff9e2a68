"""Where real phase has its singularities: `python tests/benchmarks/singularities.py pairs.csv --split train`.

Printed for every volume: how many there are per 1,000 squares of the object, and the share of them in bright squares,
from which a sampler removes its own (`diffusion.singularities`); at the end the means over the volumes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from augment.evaluation.sessions import read_real
from diffusion.measurement import estimate_sigma
from diffusion.singularities import bright_squares, find_singularities
from manifests.parse import read_manifest
from manifests.record import ManifestRow


def count(row: ManifestRow, max_slices: int) -> tuple[float, float, float]:
    """Singularities per 1,000 squares, share of them that is in bright squares, share of the squares that is bright."""
    real = read_real(row, max_slices).real
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, help="a manifest with the column phase")
    parser.add_argument("--split", default="train", help="default: %(default)s")
    parser.add_argument("--max-slices", type=int, default=8, help="of each volume; default: %(default)s")
    given = parser.parse_args()
    found = []
    for row in read_manifest(given.manifest):
        if row.split == given.split:
            found.append(count(row, given.max_slices))
            _say(row.volume_id, found[-1])
    if found:
        _say(f"mean of {len(found)} volumes", tuple(sum(column) / len(found) for column in zip(*found, strict=True)))


def _say(name: str, counts: tuple[float, ...]) -> None:
    density, share, bright = counts
    sys.stdout.write(f"{name}: {density:.2f} per 1,000, {share:.1%} of them in the {bright:.0%} that are bright\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
