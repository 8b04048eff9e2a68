"""How much of real phase the shipped fat network explains: `python tests/benchmarks/fat_fraction.py pairs.csv`.

Prints, for each volume whose echo resolves fat, the incoherence of small squares of its phase (per cent; see
`rephase.training.simulated.fat.incoherence`): as measured, without the phase of the fat that the network estimates from
the magnitude, and without that of the fat separated from the phase itself, which is a lower bound.
"""

from __future__ import annotations

import sys

import torch
from real_rows import given_volumes

from rephase.diffusion.processes.fat import shipped_fat_estimator
from rephase.evaluation.sessions import RealVolume
from rephase.training.simulated.fat import incoherence, resolves_fat, separate_fat


def compare(volume: RealVolume) -> list[float]:
    """Return the mean incoherence over slices: as measured, without estimated fat, without separated fat."""
    te_ms, field_t = volume.conditions.te_ms or 0.0, volume.conditions.field_t or 0.0
    magnitude = torch.from_numpy(volume.real.magnitude)
    image = magnitude * torch.from_numpy(volume.real.phasor)
    known = torch.tensor(volume.conditions.numbers()).expand(len(magnitude), -1)
    estimate = shipped_fat_estimator(torch.device("cpu"))(magnitude, known)
    shares = (torch.zeros_like(estimate), estimate, separate_fat(image, te_ms, field_t))
    return [100.0 * float(incoherence(image, share, te_ms, field_t).mean()) for share in shares]


def main() -> None:
    """Print the comparison for the rows of a split of a manifest with phase."""
    for volume in given_volumes(__doc__, "val"):
        if resolves_fat(volume.conditions.te_ms or 0.0, volume.conditions.field_t or 0.0):
            whole, estimated, separated = compare(volume)
            sys.stdout.write(
                f"{volume.volume_id}: {whole:.2f} %, estimated {estimated:.2f} %, separated {separated:.2f} %\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
