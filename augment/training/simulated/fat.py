"""Fat fraction from real phase at a single echo.

At one echo time the chemical shift of fat adds a constant angle, so the phase steps at boundaries of water and fat,
while field and coil phase barely change over a few pixels. The estimated fat fraction makes small squares of the
remaining phase coherent, is smooth, and is as small as possible. It requires no labels, and is the training data of the
network that estimates fat from the magnitude alone (`rephase.diffusion.processes.fat`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rephase.diffusion.physics.field_phase import FAT_SHIFT_PPM, water_fat_signal
from rephase.diffusion.physics.measurement import compress_magnitude
from rephase.diffusion.processes.fat import FAT_ANGLE
from rephase.errors import RequestError
from rephase.training.batches import TrainingSlice
from rephase.training.simulated.anatomy import Echo

_SQUARES = (3, 5)
_ROUGHNESS, _AMOUNT = 0.05, 0.03
_STEPS, _RATE = 130, 0.15
_LEAST_CHANGE = 0.6
_NEAR_OPPOSED = 0.09
_LONGEST_MS = 15.0
_TOGETHER = 8


def resolves_fat(te_ms: float, field_t: float) -> bool:
    """Check whether the phase at an echo resolves fat: neither in phase with water nor opposed, and not late.

    In phase, fat causes no phase step. Opposed, a fat fraction of 0.5 has no phase, so the fit has no gradient from
    water to fat. At long echo times other phase steps are as large.
    """
    if not (0 < te_ms <= _LONGEST_MS and field_t > 0):
        return False
    cycles = _cycles(te_ms, field_t)
    far = abs(2.0 * math.sin(math.pi * cycles)) > _LEAST_CHANGE
    return far and abs(cycles % 1.0 - 0.5) > _NEAR_OPPOSED


def fat_slices(slices: Sequence[TrainingSlice]) -> list[TrainingSlice]:
    """Return the training slices of `diffusion.processes.fat`; slices whose echo does not resolve fat are dropped.

    Their phase is the fat fraction times `FAT_ANGLE`.

    Raises
    ------
    RequestError
        If the echo of no slice resolves fat.
    """
    usable = [one for one in slices if resolves_fat(one.te_ms, one.field_t)]
    if not usable:
        raise RequestError(
            "no slice resolves fat; expected rows with field_t and a te_ms of at most 15 at which fat and water are "
            "neither in phase nor opposed"
        )
    made = []
    with tqdm(desc="separating fat", unit="slice", total=len(usable), disable=None) as bar:
        for alike in _alike(usable):
            fractions = separate_fat(torch.stack([one.image for one in alike]), alike[0].te_ms, alike[0].field_t)
            for one, fraction in zip(alike, fractions, strict=True):
                made.append(replace(one, image=torch.polar(one.image.abs(), FAT_ANGLE * fraction), labelled=True))
            bar.update(len(alike))
    return made


def separate_fat(image: Tensor, te_ms: float, field_t: float) -> Tensor:
    """Estimate the fat fraction of slices of one scan.

    The sign of the phase is the scanner's convention: the one that explains the middle slice better is used, which
    mostly needs less fat.

    Parameters
    ----------
    image
        Complex, `(slice height width)`.
    te_ms, field_t
        Echo time and field strength.

    Returns
    -------
    fraction
        0 to 1, `(slice height width)`.
    """
    angle = -2.0 * math.pi * _cycles(te_ms, field_t)
    middle = image[len(image) // 2][None]
    sign = min((1.0, -1.0), key=lambda sign: float(_separate(middle, sign * angle)[1]))
    return _separate(image, sign * angle)[0]


def incoherence(image: Tensor, fraction: Tensor, te_ms: float, field_t: float) -> Tensor:
    """Return the incoherence of small squares after the phase of fat is removed, 0 to 1, `(slice)`.

    As in `separate_fat`; for the sign of the phase with the smaller one.
    """
    parts = _parts(image)
    angle = -2.0 * math.pi * _cycles(te_ms, field_t)
    found = [1.0 - _coherence(fraction, *parts, sign * angle) for sign in (1.0, -1.0)]
    return torch.minimum(*found)


def _cycles(te_ms: float, field_t: float) -> float:
    """Return the cycles by which fat lags behind water at the echo."""
    return -FAT_SHIFT_PPM * Echo(te_ms, field_t).cycles_per_ppm


def _alike(slices: Sequence[TrainingSlice]) -> Iterator[list[TrainingSlice]]:
    """Yield runs of at most a few slices of one session, size, echo and field."""
    run: list[TrainingSlice] = []
    for one in slices:
        if run and (len(run) == _TOGETHER or _kind(run[0]) != _kind(one)):
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def _kind(one: TrainingSlice) -> tuple[object, ...]:
    return one.group, one.image.shape, one.te_ms, one.field_t


def _separate(image: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """Fit the fat fraction for one sign of the phase; return it and the loss of each slice."""
    parts = _parts(image)
    start = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(0))
    logits = (0.3 * start - 1.0).repeat(len(image), 1, 1).requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=_RATE)
    loss = torch.zeros(len(image))
    for _ in range(_STEPS):
        optimiser.zero_grad()
        loss = _loss(torch.sigmoid(logits), *parts, angle)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return torch.sigmoid(logits.detach()), loss.detach()


def _loss(fraction: Tensor, phasor: Tensor, power: Tensor, whole: Sequence[Tensor], angle: float) -> Tensor:
    """Return incoherence without the phase of fat, plus roughness and amount of fat, `(slice)`."""
    coherence = _coherence(fraction, phasor, power, whole, angle)
    rough = fraction.diff(dim=1).abs().mean(dim=(1, 2)) + fraction.diff(dim=2).abs().mean(dim=(1, 2))
    amount = (fraction * power).sum(dim=(1, 2)) / power.sum(dim=(1, 2)).clamp(min=1e-6)
    return 1.0 - coherence + _ROUGHNESS * rough + _AMOUNT * amount


def _parts(image: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return phasors, their weights, and the sum of these over the squares of each size, `(slice)`."""
    power = compress_magnitude(image.abs()).square()
    whole = [_box(power, size).sum(dim=(1, 2)).clamp(min=1e-6) for size in _SQUARES]
    return torch.polar(torch.ones_like(power), image.angle()), power, whole


def _coherence(fraction: Tensor, phasor: Tensor, power: Tensor, whole: Sequence[Tensor], angle: float) -> Tensor:
    """Return the coherence of squares without the phase of fat, relative to its maximum, `(slice)`."""
    mixture = water_fat_signal(fraction, torch.tensor(angle))
    rest = power * phasor * (mixture / (mixture.abs().square() + 1e-3).sqrt()).conj()
    parts = torch.view_as_real(rest).unbind(dim=-1)
    lengths = [_length(parts, size) / total for size, total in zip(_SQUARES, whole, strict=True)]
    return torch.stack(lengths).mean(dim=0)


def _length(parts: Sequence[Tensor], size: int) -> Tensor:
    """Return the sum over the slice of the lengths of means over squares of `size` pixels a side, `(slice)`."""
    squares = [_box(part, size).square() for part in parts]
    return (squares[0] + squares[1] + 1e-12).sqrt().sum(dim=(1, 2))


def _box(values: Tensor, size: int) -> Tensor:
    """Return the mean over squares, separably."""
    rows = functional.avg_pool2d(values[:, None], (size, 1), 1, (size // 2, 0))
    return functional.avg_pool2d(rows, (1, size), 1, (0, size // 2))[:, 0]
