"""Location of steep real phase: `python tests/benchmarks/steep_places.py pairs.csv --split train`.

Prints, per volume, the median phase gradient (rad/mm) within 145 mm of the estimated axis of the magnet, beyond it, and
beyond it where the mean over a centimetre is above 0.9 of the 99th percentile of the magnitude (`-`: too few pixels).
"""

from __future__ import annotations

import sys

import torch
from real_rows import given_volumes
from torch import Tensor

from rephase.diffusion.physics.anatomy import estimate_axis, local_mean
from rephase.diffusion.physics.magnet import Places
from rephase.diffusion.physics.measurement import bright_level, estimate_sigma
from rephase.evaluation.statistics import PhaseVolume

_FAR_MM = 145.0
_TOO_BRIGHT = 0.9
_FEWEST_PIXELS = 50
_SNR = 8.0


def measure(real: PhaseVolume) -> list[str]:
    """Return the median gradients within, beyond, and beyond where it is bright."""
    magnitude, phasor = torch.from_numpy(real.magnitude), torch.from_numpy(real.phasor)
    spacing = real.spacing_mm[1:]
    here = phasor[:, :-1, :-1].conj()
    slopes = (phasor[:, 1:, :-1] * here).angle() / spacing[0], (phasor[:, :-1, 1:] * here).angle() / spacing[1]
    gradient = torch.hypot(*slopes)
    relative = magnitude / bright_level(magnitude)
    axis = estimate_axis(relative, torch.full((len(relative),), 2))
    places = Places(magnitude.shape, torch.tensor([spacing]), torch.zeros(1, 3))
    far = places.from_axis(axis)[:, :-1, :-1] > _FAR_MM
    counted = (magnitude > _SNR * estimate_sigma(magnitude)[:, None, None]) & torch.from_numpy(real.support)
    bright = local_mean(relative, spacing) > _TOO_BRIGHT
    counted, bright = counted[:, :-1, :-1], bright[:, :-1, :-1]
    return [_median(gradient[counted & where]) for where in (~far, far, far & bright)]


def _median(values: Tensor) -> str:
    return f"{float(values.median()):.3f}" if len(values) >= _FEWEST_PIXELS else "-"


def main() -> None:
    """Print the gradients of the rows of a split of a manifest with phase."""
    for volume in given_volumes(__doc__, "train"):
        near, far, bright = measure(volume.real)
        sys.stdout.write(f"{volume.volume_id}: within {near}, beyond {far}, beyond and bright {bright} rad/mm\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
