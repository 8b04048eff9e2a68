"""The noise of real scans in two ways: `python tests/benchmarks/calm_noise.py pairs.csv --split train`.

Printed for every volume, in percent of the 99th percentile of the magnitude: what `estimate_sigma` reads off the
magnitude, what the median over all bright tissue would be, and the same lower quartile of blocks from the phase.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from augment.evaluation.sessions import read_real
from diffusion.measurement import bright_level, calm_median, estimate_sigma
from manifests.parse import read_manifest
from manifests.record import ManifestRow

_NORMAL_MEDIAN = 0.6745
_BRIGHT = 0.1


def measure(row: ManifestRow, max_slices: int) -> tuple[float, float, float]:
    """Noise in percent of a bright magnitude: estimated, by the median over bright tissue, and by the phase."""
    real = read_real(row, max_slices).real
    magnitude, phasor = torch.from_numpy(real.magnitude), torch.from_numpy(real.phasor)
    a, b, c, d = _corners(magnitude)
    bright = torch.stack((a, b, c, d)).amin(dim=0) > _BRIGHT * magnitude.amax(dim=(1, 2), keepdim=True)
    rough = torch.where(bright, (a - b - c + d).abs() / 2.0, torch.nan)
    e, f, g, h = _corners(phasor)
    turn = (e * f.conj() * g.conj() * h).angle().abs()
    # the angle of a pixel has the standard deviation sigma / magnitude
    share = torch.stack((a, b, c, d)).clamp(min=1e-12).reciprocal().square().sum(dim=0).sqrt()
    levels = (
        estimate_sigma(magnitude),
        rough.flatten(1).nanmedian(dim=1).values / _NORMAL_MEDIAN,
        calm_median(torch.where(bright, turn / share, torch.nan)) / _NORMAL_MEDIAN,
    )
    scale = 100.0 / bright_level(magnitude)[:, 0, 0]
    return tuple(float((level * scale).nanmean()) for level in levels)  # type: ignore[return-value]


def _corners(image: Tensor) -> list[Tensor]:
    return [image[:, :-1, :-1], image[:, :-1, 1:], image[:, 1:, :-1], image[:, 1:, 1:]]


def main() -> None:
    """Print the noise of the rows of a split of a manifest with phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, help="a manifest with the column phase")
    parser.add_argument("--split", default="train", help="default: %(default)s")
    parser.add_argument("--max-slices", type=int, default=4, help="of each volume; default: %(default)s")
    given = parser.parse_args()
    for row in read_manifest(given.manifest):
        if row.split == given.split:
            estimated, median, phase = measure(row, given.max_slices)
            sys.stdout.write(
                f"{row.volume_id}: estimated {estimated:.2f} %, median {median:.2f} %, phase {phase:.2f} %\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
