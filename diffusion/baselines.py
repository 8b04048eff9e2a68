"""Phase without a network: the simple generators that a learned one has to beat."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.generators import Conditions, PhaseGenerator, SliceKey
from diffusion.noise import Stream, normal, random_phasor, uniform, volume_key

SMOOTH_ORDER = 3
SMOOTH_RADIANS = (0.0, 1.2, 0.8, 0.5)
"""Standard deviation of the polynomial's terms at the image's edge, by total order."""


class _Baseline(ABC):
    """Calls `slice_phasor` for each slice."""

    name: str
    nfe = 0

    def sample_phase(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        """Sample phasors slice by slice; see `diffusion.generators.PhaseGenerator`."""
        phasors = [self.slice_phasor(one, key) for one, key in zip(magnitude, keys, strict=True)]
        return torch.stack(phasors)

    @abstractmethod
    def slice_phasor(self, magnitude: Tensor, key: SliceKey) -> Tensor:
        """Phasors complex64 `(height width)` of one slice."""


class ZeroPhase(_Baseline):
    """No phase: what a magnitude archive gives when its images are simply transformed."""

    name = "zero"

    def slice_phasor(self, magnitude: Tensor, key: SliceKey) -> Tensor:
        """All ones."""
        return torch.ones_like(magnitude, dtype=torch.complex64)


class WhitePhase(_Baseline):
    """Independent uniform phase in every pixel."""

    name = "white"

    def slice_phasor(self, magnitude: Tensor, key: SliceKey) -> Tensor:
        """Uniform on the circle."""
        height, width = magnitude.shape
        return random_phasor(key, Stream.BASELINE, height, width, magnitude.device)


class SinusPhase(_Baseline):
    """The naive phase of the PhaseGen paper (arXiv 2504.07560).

    One period of `sin x + cos y` over the image, times the magnitude over its maximum, plus normal noise of 0.05 rad.
    """

    name = "sinus"

    def slice_phasor(self, magnitude: Tensor, key: SliceKey) -> Tensor:
        """The sinusoid, weighted by the magnitude."""
        height, width = magnitude.shape
        y = torch.arange(height, dtype=torch.float32, device=magnitude.device) * (2.0 * math.pi / height)
        x = torch.arange(width, dtype=torch.float32, device=magnitude.device) * (2.0 * math.pi / width)
        relative = magnitude / magnitude.amax().clamp(min=1e-20)
        noise = normal(key, Stream.BASELINE, height * width, magnitude.device).reshape(height, width)
        return _phasor((torch.sin(x) + torch.cos(y)[:, None]) * relative + 0.05 * noise)


class SmoothPhase(_Baseline):
    """A random polynomial of low order, which the slices of a volume share, with a global phase of the volume."""

    name = "smooth"

    def slice_phasor(self, magnitude: Tensor, key: SliceKey) -> Tensor:
        """The volume's polynomial over the slice; coordinates run from -1 to 1."""
        height, width = magnitude.shape
        y = torch.linspace(-1.0, 1.0, height, device=magnitude.device)[:, None]
        x = torch.linspace(-1.0, 1.0, width, device=magnitude.device)
        terms = [(i, j) for i in range(SMOOTH_ORDER + 1) for j in range(SMOOTH_ORDER + 1 - i) if i + j]
        shared = volume_key(key)
        coefficients = normal(shared, Stream.BASELINE, len(terms)).tolist()
        angle = torch.zeros(height, width, device=magnitude.device)
        for (i, j), coefficient in zip(terms, coefficients, strict=True):
            angle = angle + (coefficient * SMOOTH_RADIANS[i + j]) * y**i * x**j
        return _phasor(angle + 2.0 * math.pi * float(uniform(shared, Stream.GAUGE, 1)))


def _phasor(angle: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angle), angle)


BASELINES: dict[str, type[PhaseGenerator]] = {one.name: one for one in (SmoothPhase, SinusPhase, ZeroPhase, WhitePhase)}
