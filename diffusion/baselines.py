"""Phase without a network that makes it: the simple generators that a learned one has to beat."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from rephase.diffusion.devices import from_scalars, one_thread
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.noise import Stream, complex_normal, normal, random_phasor
from rephase.diffusion.physics.low_order import LowOrderModel, read_model
from rephase.diffusion.physics.measurement import add_noise, estimate_sigma
from rephase.diffusion.physics.source import source_phasors
from rephase.diffusion.processes.fat import fat_estimator


class _Baseline(ABC):
    """Calls `slice_phasor` for each slice."""

    name: str
    nfe = 0
    tile = 1
    device = torch.device("cpu")

    def sample_phase(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        """Sample phasors slice by slice; see `rephase.diffusion.generators.PhaseGenerator`."""
        phasors = [self.slice_phasor(one, key, conditions) for one, key in zip(magnitude, keys, strict=True)]
        return torch.stack(phasors)

    @abstractmethod
    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """Phasors complex64 `(height width)` of one slice."""


class ZeroPhase(_Baseline):
    """No phase: what a magnitude archive gives when its images are simply transformed."""

    name = "zero"

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """All ones."""
        return torch.ones_like(magnitude, dtype=torch.complex64)


class WhitePhase(_Baseline):
    """Independent uniform phase in every pixel."""

    name = "white"

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """Uniform on the circle."""
        height, width = magnitude.shape
        return random_phasor(key, Stream.BASELINE, height, width, magnitude.device)


class SinusPhase(_Baseline):
    """The naive phase of the PhaseGen paper (arXiv 2504.07560).

    One period of `sin x + cos y` over the image, times the magnitude over its maximum, plus normal noise of 0.05 rad.
    """

    name = "sinus"

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """The sinusoid, weighted by the magnitude."""
        height, width = magnitude.shape
        y = torch.arange(height, dtype=torch.float32, device=magnitude.device) * (2.0 * math.pi / height)
        x = torch.arange(width, dtype=torch.float32, device=magnitude.device) * (2.0 * math.pi / width)
        relative = magnitude / magnitude.amax().clamp(min=1e-20)
        noise = normal(key, Stream.BASELINE, height * width, magnitude.device).reshape(height, width)
        return _phasor((torch.sin(x) + torch.cos(y)[:, None]) * relative + 0.05 * noise)


class SmoothPhase(_Baseline):
    """A random polynomial of low order in millimetres, with the statistics of real volumes; see `low_order`.

    `model` is a fit of one's own; the one that ships where None.
    """

    name = "smooth"

    def __init__(self, model: LowOrderModel | None = None) -> None:
        self.model = model or read_model()

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """The polynomial over the slice."""
        height, width = magnitude.shape
        return _phasor(self.model.phase(key, height, width, conditions).to(magnitude.device))


class NoisySmoothPhase(SmoothPhase):
    """`smooth`, and the measurement's noise as the magnitude shows it: what the model adds to a phase too."""

    name = "smooth-noise"

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """The polynomial, blurred where the magnitude is weak and random in air."""
        height, width = magnitude.shape
        noise = complex_normal(key, Stream.NOISE, height, width, magnitude.device)
        smooth = super().slice_phasor(magnitude, key, conditions)
        return _phasor(
            add_noise(smooth[None], magnitude[None], estimate_sigma(magnitude[None]), noise[None])[0].angle()
        )


class FieldPhase(_Baseline):
    """The source "field" (`physics.source`) as it is, with the measurement's noise: physics without a network."""

    name = "field"

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """What the magnitude's air, the magnet and coils would make."""
        height, width = magnitude.shape
        known = from_scalars(conditions.numbers(), magnitude.device)
        with one_thread(magnitude.device):
            guess = fat_estimator(self.name, magnitude.device)
            fat = None if guess is None else guess(magnitude[None], known[None])
            source = source_phasors([key], magnitude[None], known, conditions.slice_mm, self.name, fat)
        noise = complex_normal(key, Stream.NOISE, height, width, magnitude.device)
        return _phasor(
            add_noise(source.whole(), magnitude[None], estimate_sigma(magnitude[None]), noise[None])[0].angle()
        )


class TissuePhase(FieldPhase):
    """The source "tissue" as it is, with the measurement's noise: `field`, weaker, and a network's guess of fat.

    The guess is made at the slice's own resolution.
    """

    name = "tissue"

    def __init__(self) -> None:
        fat_estimator(self.name, torch.device("cpu"))  # tells at once where there are no weights


def _phasor(angle: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angle), angle)
