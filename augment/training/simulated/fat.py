"""Where fat is, from real phase: the share of it with which the rest of the phase is smooth.

At one echo time fat turns the phase by one angle, so a phase steps wherever tissue changes between water and fat; what
else there is (field, coils) hardly changes over a few pixels. The share of fat is what, divided out of the phase, makes
small squares of it coherent, is not rough itself, and is not more than it needs to be. This has no labels, and is the
training data of a network that guesses fat from the magnitude alone (`rephase.diffusion.processes.fat`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rephase.diffusion.physics.field_phase import FAT_SHIFT_PPM, mix_fat
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


def tells_fat(te_ms: float, field_t: float) -> bool:
    """Say whether phase at an echo tells fat: neither known as in phase with water nor as opposed to it.

    In phase it makes no step; opposed, half fat has no phase, over which no gradient leads from water to fat. After a
    long time, other steps are as large.
    """
    if not (0 < te_ms <= _LONGEST_MS and field_t > 0):
        return False
    cycles = _cycles(te_ms, field_t)
    far = abs(2.0 * math.sin(math.pi * cycles)) > _LEAST_CHANGE
    return far and abs(cycles % 1.0 - 0.5) > _NEAR_OPPOSED


def fat_slices(slices: Sequence[TrainingSlice]) -> list[TrainingSlice]:
    """Turn slices with real phase into those that `diffusion.processes.fat` trains on; those that tell no fat go.

    The phase of the result is the share of fat times `FAT_ANGLE`.

    Raises
    ------
    RequestError
        No slice tells fat from water.
    """
    told = [one for one in slices if tells_fat(one.te_ms, one.field_t)]
    if not told:
        raise RequestError(
            "no slice tells fat from water; expected rows with field_t and a te_ms of at most 15 at which they are "
            "neither in phase nor opposed"
        )
    made = []
    with tqdm(desc="separating fat", unit="slice", total=len(told), disable=None) as bar:
        for alike in _alike(told):
            shares = separate_fat(torch.stack([one.image for one in alike]), alike[0].te_ms, alike[0].field_t)
            for one, share in zip(alike, shares, strict=True):
                made.append(replace(one, image=torch.polar(one.image.abs(), FAT_ANGLE * share), labelled=True))
            bar.update(len(alike))
    return made


def separate_fat(image: Tensor, te_ms: float, field_t: float) -> Tensor:
    """Estimate the share of fat.

    The sense of rotation of a phase is the scanner's convention: the one is taken in which the middle slice is
    explained better, which is mostly by less fat. All slices are to be of one scan.

    Parameters
    ----------
    image
        Complex, `(slice height width)`.
    te_ms, field_t
        Of the echo.

    Returns
    -------
    share
        0 to 1, `(slice height width)`.
    """
    angle = -2.0 * math.pi * _cycles(te_ms, field_t)
    middle = image[len(image) // 2][None]
    senses = sorted((1.0, -1.0), key=lambda sense: float(_separate(middle, sense * angle)[1]))
    return _separate(image, senses[0] * angle)[0]


def incoherence(image: Tensor, share: Tensor, te_ms: float, field_t: float) -> Tensor:
    """How incoherent small squares of a phase are without that of a share of fat, 0 to 1, `(slice)`.

    As in `separate_fat`; in the sense of rotation in which it is less.
    """
    parts = _parts(image)
    angle = -2.0 * math.pi * _cycles(te_ms, field_t)
    found = [1.0 - _coherence(share, *parts, sense * angle) for sense in (1.0, -1.0)]
    return torch.minimum(*found)


def _cycles(te_ms: float, field_t: float) -> float:
    """How often fat lags behind water until the echo."""
    return -FAT_SHIFT_PPM * Echo(te_ms, te_ms, field_t).cycles_per_ppm


def _alike(slices: Sequence[TrainingSlice]) -> Iterator[list[TrainingSlice]]:
    """Runs of slices of one session, size, echo and field, of a few at most."""
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
    """The share of fat in one sense of rotation, and the loss of each slice."""
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


def _loss(share: Tensor, phasor: Tensor, power: Tensor, whole: Sequence[Tensor], angle: float) -> Tensor:
    """What is incoherent without the fat's phase, its roughness and its amount, `(slice)`."""
    coherence = _coherence(share, phasor, power, whole, angle)
    rough = share.diff(dim=1).abs().mean(dim=(1, 2)) + share.diff(dim=2).abs().mean(dim=(1, 2))
    amount = (share * power).sum(dim=(1, 2)) / power.sum(dim=(1, 2)).clamp(min=1e-6)
    return 1.0 - coherence + _ROUGHNESS * rough + _AMOUNT * amount


def _parts(image: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Phasors, their weights, and the sum of these over the squares of each size, `(slice)`."""
    power = compress_magnitude(image.abs()).square()
    whole = [_box(power, size).sum(dim=(1, 2)).clamp(min=1e-6) for size in _SQUARES]
    return torch.polar(torch.ones_like(power), image.angle()), power, whole


def _coherence(share: Tensor, phasor: Tensor, power: Tensor, whole: Sequence[Tensor], angle: float) -> Tensor:
    """The mean length of the mean phasor of squares, of what it could be, without the fat's phase, `(slice)`."""
    mixture = mix_fat(share, torch.tensor(angle))
    rest = power * phasor * (mixture / (mixture.abs().square() + 1e-3).sqrt()).conj()
    parts = torch.view_as_real(rest).unbind(dim=-1)
    lengths = [_length(parts, size) / total for size, total in zip(_SQUARES, whole, strict=True)]
    return torch.stack(lengths).mean(dim=0)


def _length(parts: Sequence[Tensor], size: int) -> Tensor:
    """The sum over the slice of the lengths of the means over squares of so many pixels a side, `(slice)`."""
    squares = [_box(part, size).square() for part in parts]
    return (squares[0] + squares[1] + 1e-12).sqrt().sum(dim=(1, 2))


def _box(values: Tensor, size: int) -> Tensor:
    """The mean over squares, one axis after the other."""
    rows = functional.avg_pool2d(values[:, None], (size, 1), 1, (size // 2, 0))
    return functional.avg_pool2d(rows, (1, size), 1, (0, size // 2))[:, 0]
