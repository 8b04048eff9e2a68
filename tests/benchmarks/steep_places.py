"""Where real phase is steep: `python tests/benchmarks/steep_places.py pairs.csv --split train`.

Printed for every volume, in rad/mm, the median gradient of the phase within 145 mm of the axis of the magnet, as the
source guesses it, farther out, and there where the mean over a centimetre is above 0.9 of the 99th percentile of the
magnitude (`-`: hardly any).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from augment.evaluation.sessions import read_real
from diffusion.field_phase import guess_axis, local_mean
from diffusion.measurement import bright_level, estimate_sigma
from manifests.parse import read_manifest
from manifests.record import ManifestRow

_FAR_MM = 145.0
_TOO_BRIGHT = 0.9
_FEWEST_PIXELS = 50
_SNR = 8.0


def measure(row: ManifestRow, max_slices: int) -> list[str]:
    """Median gradients within, beyond, and beyond where it is bright."""
    real = read_real(row, max_slices).real
    magnitude, phasor = torch.from_numpy(real.magnitude), torch.from_numpy(real.phasor)
    spacing = real.spacing_mm[1:]
    here = phasor[:, :-1, :-1].conj()
    slopes = (phasor[:, 1:, :-1] * here).angle() / spacing[0], (phasor[:, :-1, 1:] * here).angle() / spacing[1]
    gradient = torch.hypot(*slopes)
    y, x = (
        (torch.arange(size - 1) + 1 - size / 2) * step for size, step in zip(magnitude.shape[1:], spacing, strict=True)
    )
    relative = magnitude / bright_level(magnitude)
    axis = guess_axis(relative, torch.full((len(relative),), 2))
    far_y, far_x = (torch.where((axis == one)[:, None], 0.0, here) for one, here in enumerate((y, x)))
    far = torch.hypot(far_y[:, :, None], far_x[:, None]) > _FAR_MM
    counted = (magnitude > _SNR * estimate_sigma(magnitude)[:, None, None]) & torch.from_numpy(real.support)
    bright = local_mean(relative, spacing) > _TOO_BRIGHT
    counted, bright = counted[:, :-1, :-1], bright[:, :-1, :-1]
    return [_median(gradient[counted & where]) for where in (~far, far, far & bright)]


def _median(values: Tensor) -> str:
    return f"{float(values.median()):.3f}" if len(values) >= _FEWEST_PIXELS else "-"


def main() -> None:
    """Print the gradients of the rows of a split of a manifest with phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, help="a manifest with the column phase")
    parser.add_argument("--split", default="train", help="default: %(default)s")
    parser.add_argument("--max-slices", type=int, default=8, help="of each volume; default: %(default)s")
    given = parser.parse_args()
    for row in read_manifest(given.manifest):
        if row.split == given.split:
            near, far, bright = measure(row, given.max_slices)
            sys.stdout.write(f"{row.volume_id}: within {near}, beyond {far}, beyond and bright {bright} rad/mm\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
