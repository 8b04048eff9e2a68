"""What the shipped guess of fat explains of real phase: `python tests/benchmarks/fat_guess.py pairs.csv --split val`.

Printed for every volume whose echo tells fat from water: how incoherent small squares of its phase are (per cent; see
`rephase.training.simulated.fat.incoherence`) as they are, without the phase of the fat that the network guesses from
the magnitude, and without that of the fat found from the phase itself, which is the least that can be reached.
"""

from __future__ import annotations

import sys

import torch
from real_rows import given_volumes

from rephase.diffusion.processes.fat import shipped_fat_map
from rephase.evaluation.sessions import RealVolume
from rephase.training.simulated.fat import incoherence, separate_fat, tells_fat


def compare(volume: RealVolume) -> list[float]:
    """Mean incoherence over the slices: as it is, without the guessed fat, without the fat found."""
    te_ms, field_t = volume.conditions.te_ms or 0.0, volume.conditions.field_t or 0.0
    magnitude = torch.from_numpy(volume.real.magnitude)
    image = magnitude * torch.from_numpy(volume.real.phasor)
    known = torch.tensor(volume.conditions.numbers()).expand(len(magnitude), -1)
    guess = shipped_fat_map(torch.device("cpu"))(magnitude, known)
    shares = (torch.zeros_like(guess), guess, separate_fat(image, te_ms, field_t))
    return [100.0 * float(incoherence(image, share, te_ms, field_t).mean()) for share in shares]


def main() -> None:
    """Print the comparison for the rows of a split of a manifest with phase."""
    for volume in given_volumes(__doc__, "val"):
        if tells_fat(volume.conditions.te_ms or 0.0, volume.conditions.field_t or 0.0):
            whole, guessed, found = compare(volume)
            sys.stdout.write(f"{volume.volume_id}: {whole:.2f} %, guessed {guessed:.2f} %, found {found:.2f} %\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
