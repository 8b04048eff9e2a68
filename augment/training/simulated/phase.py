"""Simulated phase on real magnitudes: anatomy as it is, and a phase that its susceptibility would make.

Air is where a magnitude is weak, fat where a guess is given or else where it is bright: guesses, with thresholds that
are drawn anew for every volume.
From them come a susceptibility, its field, and the phase over an echo time, as in `rephase.training.simulated.anatomy`.
So a network sees more pairs of a real magnitude and a phase that follows from it than scans with phase there are.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rephase.diffusion.physics.anatomy import guess_air
from rephase.diffusion.physics.field_phase import decide_fat
from rephase.diffusion.physics.measurement import estimate_sigma
from rephase.training.batches import TrainingSlice
from rephase.training.simulated.anatomy import (
    AIR,
    FAT,
    dipole_field,
    draw_echo,
    draw_strength,
    magnet_field,
    phase_phasor,
    receive,
    shim,
    smooth_field,
    white_noise,
)

_EXTENT_MM = 160.0
"""The slab is continued through the slices to this extent: a body does not end with the field of view."""
_MARGIN = 0.25


def simulate_on(
    magnitude: Tensor,
    spacing_mm: tuple[float, float, float],
    random: np.random.Generator,
    guessed_fat: Tensor | None = None,
) -> list[TrainingSlice]:
    """Put a simulated phase on a real magnitude.

    Parameters
    ----------
    magnitude
        `(slice height width)`.
    spacing_mm
        Of the three axes.
    random
        Draws thresholds, direction of the main field, echo time, coils and noise.
    guessed_fat
        The share of fat, of the shape of the magnitude; by its brightness where None.

    Returns
    -------
    slices
        Those with signal; their magnitude is the given one but for noise.
    """
    air, fat = guess_tissues(magnitude, spacing_mm[1:], random, guessed_fat)
    margins = _margins(magnitude.shape, spacing_mm)
    body = _continue(torch.stack((air, fat)), margins)
    susceptibility = random.uniform(*AIR.susceptibility) * body[0] + random.uniform(*FAT.susceptibility) * body[1]
    susceptibility = susceptibility + 0.05 * (1.0 - body[0]) * smooth_field(body[0].shape, spacing_mm, 8.0, random)
    axis = int(random.choice(3, p=(0.2, 0.6, 0.2)))
    field = dipole_field(susceptibility, spacing_mm, axis)
    field = field + magnet_field(body[0].shape, spacing_mm, random)
    inner = tuple(slice(margin, margin + size) for margin, size in zip(margins, magnitude.shape, strict=True))
    field = draw_strength(random) * shim(field[inner], magnitude, random.uniform(0.7, 1.0))
    echo = draw_echo(random)
    coils = receive(magnitude.shape, spacing_mm, echo.field_t, random, magnitude=False)
    image = magnitude * phase_phasor(field, fat, echo) * coils
    sigma = estimate_sigma(magnitude).median()
    image = image + sigma * torch.view_as_complex(white_noise((*image.shape, 2), random))
    kept = [one for one, whole in zip(image, magnitude, strict=True) if bool((whole > 0).any())]
    return [TrainingSlice(one.clone(), spacing_mm[1:], echo.te_known, echo.field_t, "simulated phase") for one in kept]


def guess_tissues(
    magnitude: Tensor,
    spacing_mm: tuple[float, float],
    random: np.random.Generator,
    guessed_fat: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Guess where air and where fat is, as shares of 0 to 1 of the shape of the magnitude `(slice height width)`."""
    bright = float(np.percentile(magnitude.numpy(), 99.0)) or 1.0
    threshold = math.exp(random.uniform(math.log(0.03), math.log(0.12)))
    air = guess_air(magnitude / bright, spacing_mm, torch.tensor(threshold))
    if guessed_fat is None:
        fat = torch.sigmoid((magnitude / bright - random.uniform(0.3, 1.0)) / 0.06)
    else:
        fat = decide_fat(guessed_fat, torch.tensor(random.uniform(-0.5, 1.5)))
    return air, fat * float(random.random() < 0.7) * (1.0 - air)


def _margins(shape: torch.Size, spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    through = math.ceil(max(_EXTENT_MM / spacing_mm[0] - shape[0], 2.0) / 2.0)
    return through, math.ceil(_MARGIN * shape[1]), math.ceil(_MARGIN * shape[2])


def _continue(maps: Tensor, margins: tuple[int, int, int]) -> Tensor:
    """Continue maps `(map slice height width)` beyond their edges as they are there."""
    pads = [pad for margin in reversed(margins) for pad in (margin, margin)]
    return functional.pad(maps, pads, mode="replicate")
