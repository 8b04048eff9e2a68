"""Phase of zero-filled images: `python tests/benchmarks/phase_noise.py pairs.csv field`.

Compares generated with real phase of each volume as it is, and after filling its k-space with zeros to twice the
matrix; once knowing the acquired share of k-space, as estimated from the magnitude, once not. Prints the roughness
(median modulus of the second difference of the phase along a diagonal, generated over real) in weak tissue (5 to 20 %
of the bright level) and in bright tissue, the energy of k-space outside of its central half (generated, in dB of all),
and distances of `augment/EVALUATION.md`: means of two seeds and of the volumes of a family and split.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.fourier import fft2c, ifft2c
from rephase.diffusion.generators import PhaseGenerator, SliceKey
from rephase.diffusion.registry import generator_for, make_generator
from rephase.evaluation.metrics import distances, measure_phase
from rephase.evaluation.sessions import RealVolume, read_real
from rephase.evaluation.statistics import PhaseVolume
from rephase.manifests.parse import read_manifest
from rephase.pipeline.magnitude import object_support
from rephase.pipeline.pixel_audit import acquired_share

SEEDS = (0, 1)
DISTANCES = ("gradient", "structure", "curvature", "residues", "spectrum", "symmetry", "homodyne")


def roughness(volume: PhaseVolume) -> NDArray[np.float64]:
    """Return the median second difference in weak and in bright tissue, in radians."""
    corners = [(slice(None), slice(i, i - 1 or None), slice(j, j - 1 or None)) for i in (0, 1) for j in (0, 1)]
    a, b, c, d = (volume.phasor[one] for one in corners)
    near = [volume.magnitude[one] for one in corners]
    least, most = np.minimum.reduce(near), np.maximum.reduce(near)
    bright = float(np.percentile(volume.magnitude, 99.0))
    second = np.abs(np.angle(a * d * (b * c).conj()))
    weak, strong = (least > 0.05 * bright) & (most < 0.2 * bright), least > 0.2 * bright
    return np.array([_median(second[weak]), _median(second[strong])])


def _median(values: NDArray[np.floating]) -> float:
    """Return the median; NaN where there is none, as in phase that was set to a constant."""
    found = float(np.median(values)) if len(values) else 0.0
    return found if found > 1e-6 else float("nan")


def outside(volume: PhaseVolume) -> float:
    """Return the energy of k-space outside of the central half along both axes, in dB of all."""
    power = np.abs(fft2c(torch.from_numpy(volume.magnitude * volume.phasor)).numpy()) ** 2
    height, width = power.shape[1:]
    inner = power[:, height // 4 : height - height // 4, width // 4 : width - width // 4].sum()
    return float(10.0 * np.log10(max(1.0 - inner / power.sum(), 1e-9)))


def filled(volume: PhaseVolume) -> PhaseVolume:
    """Fill k-space with zeros to twice the matrix."""
    height, width = volume.phasor.shape[1:]
    up, left = height - height // 2, width - width // 2
    kspace = fft2c(torch.from_numpy((volume.magnitude * volume.phasor).astype(np.complex64))).numpy()
    padded = np.pad(kspace, ((0, 0), (up, height - up), (left, width - left)))
    image = ifft2c(torch.from_numpy(padded)).numpy()
    magnitude = np.abs(image)
    phasor = np.exp(1j * np.angle(image)).astype(np.complex64)
    through, *in_plane = volume.spacing_mm
    spacing = (through, in_plane[0] / 2, in_plane[1] / 2)
    return PhaseVolume(phasor, magnitude, object_support(magnitude), spacing, volume.slices)


def compare(generator: PhaseGenerator, real: PhaseVolume, volume: RealVolume) -> dict[str, NDArray[np.float64]]:
    """Return the figures, by what is known: roughness, energy, distances."""
    spacing, magnitude = real.spacing_mm, torch.from_numpy(real.magnitude)
    own = None if spacing != volume.real.spacing_mm else volume.conditions.volume
    figures, measured = {}, measure_phase([real])
    for known, share in (("knowing", acquired_share(real.magnitude)), ("not knowing", None)):
        conditions = replace(volume.conditions, spacing_mm=(spacing[1], spacing[2]), volume=own, acquired=share)
        found = []
        for seed in SEEDS:
            keys = [SliceKey(seed, volume.volume_id, 0, index) for index in real.slices]
            made = real.with_phasor(generator.sample_phase(magnitude, keys, conditions).numpy())
            apart = distances(measure_phase([made]), measured)
            rough = roughness(made) / roughness(real)
            found.append([*rough, outside(made), *(apart[name] for name in DISTANCES)])
        figures[known] = np.mean(found, axis=0)
    return figures


def main() -> None:
    """Print the means of the rows of a manifest with phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path, help="a manifest with the column phase")
    parser.add_argument("generator", help="name of a phase")
    given = parser.parse_args()
    chosen, totals = make_generator(given.generator), dict[str, list[NDArray[np.float64]]]()
    for row in read_manifest(given.manifest):
        volume = read_real(row, max_slices=4)
        generator = generator_for(chosen, volume.conditions.sequence)
        for name, real in (("as it is", volume.real), ("filled by 2", filled(volume.real))):
            for known, figures in compare(generator, real, volume).items():
                totals.setdefault(f"{volume.family}, {row.split or 'no split'}, {name}, {known}", []).append(figures)
    for name, rows in sorted(totals.items()):
        weak, bright, energy, *apart = np.nanmean(rows, axis=0)
        listed = ", ".join(f"{one} {value:.4g}" for one, value in zip(DISTANCES, apart, strict=True))
        sys.stdout.write(f"{name} ({len(rows)}): rough {weak:.2f}, {bright:.2f}; {energy:.1f} dB; {listed}\n")


if __name__ == "__main__":
    main()
