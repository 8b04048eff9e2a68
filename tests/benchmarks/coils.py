"""Coils: statistics beside real arrays, and the cost of many coils: `python -m tests.benchmarks.coils`.

Real arrays: BART's 8-channel head in two dimensions, and the ranges measured on two 8-channel heads at 1.5 T, which
`../shared/data/coils` documents. Costs are ratios of one run on one machine.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from paths import PROJECT
from scans import build_outcome, head_magnitude, write_head

from rephase.bench.measure import rounded
from rephase.data.kspace_slices import KSpaceSlices
from rephase.diffusion.generators import SliceKey
from rephase.pipeline.magnitude import object_support
from rephase.scanner.expand import CoilMaps
from rephase.scanner.harmonics import waves
from rephase.scanner.placement import ObjectGeometry, place_coils

VIEW_MM = 220.0
SIZE = 128
_COILS = next(
    (found for folder in PROJECT.parents if (found := folder / "shared/data/coils/bart_head_coils.npz").is_file()), None
)


def describe_maps(maps: NDArray[np.complex64], inside: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return least and largest share in the power, and the mean phase step in rad/cm, of maps `(coil y x)`."""
    power = (np.abs(maps[:, inside]) ** 2).mean(axis=1)
    shares = power / power.sum()
    pairs = maps[:, 1:] * maps[:, :-1].conj()
    both = inside[1:] & inside[:-1]
    steps = np.average(np.abs(np.angle(pairs[:, both])), weights=np.abs(pairs[:, both]))
    return float(shares.min()), float(shares.max()), float(steps * 10 * SIZE / VIEW_MM)


def statistics_table() -> None:
    """Print shares in the power and phase steps of simulated and real arrays."""
    magnitude = head_magnitude((1, SIZE, SIZE))
    inside = object_support(magnitude)[0]
    spacing = VIEW_MM / SIZE
    affine = [[0, 0, spacing, 0], [0, spacing, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]]
    geometry = ObjectGeometry.of(inside[None], affine)
    drawn = []
    for seed in range(20):
        placed = place_coils("brain8", None, geometry, None, 1.5, SliceKey(seed, "v", 0, 0))
        drawn.append(describe_maps(CoilMaps(placed.coefficients, *geometry.shape).sensitivities(0), inside))
    low, high, steps = (np.array(one) for one in zip(*drawn, strict=True))
    say(
        f"ours, brain8, 20 draws: shares {low.min():.3f} to {high.max():.3f} (medians {np.median(low):.3f}, "
        f"{np.median(high):.3f}); phase {steps.min():.3f} to {steps.max():.3f} rad/cm"
    )
    if _COILS is not None:
        coefficients = torch.from_numpy(np.load(_COILS)["head_2d_8ch"]).to(torch.complex128)
        line = waves((torch.arange(SIZE) / SIZE - 0.5) / 2)
        real = torch.einsum("cjk,yj,xk->cyx", coefficients, line, line).numpy()
        real /= np.sqrt((np.abs(real) ** 2).sum(axis=0))
        least, most, step = describe_maps(real, inside)
        say(f"real, BART's 8-channel head: shares {least:.3f} to {most:.3f}; phase {step:.3f} rad/cm")
    say("real, two 8-channel heads at 1.5 T: shares 0.04 to 0.23")


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def cost_table(size: int, num_slices: int, rounds: int) -> None:
    """Print speeds and sizes of single- and multi-coil corpora, built and read in turn."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest = write_head(folder, (num_slices, size, size), noise=5.0)
        cases = {"single": {}, "lazy": {"coils": "brain15"}, "stored": {"coils": "brain15", "storage": "kspace"}}
        speeds: dict[str, list[float]] = {name: [] for name in cases}
        sizes = {}
        for number in range(rounds):
            for name, options in cases.items():
                root = folder / f"{name}-{number}.zarr"
                start = time.process_time()
                outcome = build_outcome(manifest, root, **options)
                speeds[name].append(outcome.num_bytes / 1e6 / (time.process_time() - start))
                sizes[name] = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        for name, values in speeds.items():
            say(
                f"build, {name}: {rounded(statistics.median(values))} MB of arrays per CPU second, "
                f"{sizes[name] / 1e6:.2f} MB on disk ({sizes[name] / sizes['single']:.2f} of single)"
            )
        for name in cases:
            slices = KSpaceSlices(folder / f"{name}-0.zarr")
            _ = slices[0]
            times = []
            for index in list(range(len(slices))) * 5:
                start = time.process_time()
                _ = slices[index]
                times.append(time.process_time() - start)
            say(f"read, {name}: {1 / statistics.median(times):.0f} slices per CPU second (best {1 / min(times):.0f})")


if __name__ == "__main__":
    statistics_table()
    cost_table(size=320, num_slices=8, rounds=3)
