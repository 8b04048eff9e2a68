"""Phases without a trained phase model: the baselines for learned ones."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rephase.diffusion.devices import from_scalars, one_thread
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.noise import Stream, complex_normal, normal, random_phasor, uniform
from rephase.diffusion.physics.low_order import TERMS, LowOrderModel, read_model
from rephase.diffusion.physics.measurement import add_noise, estimate_sigma
from rephase.diffusion.physics.phase_noise import measure_noise, noise_angle
from rephase.diffusion.physics.source import source_phasors
from rephase.diffusion.physics.zero_filling import sample_filled
from rephase.diffusion.seen import Seen
from rephase.sequences import REFOCUSED, SEQUENCES


class _Baseline(ABC):
    """Base of the baselines: computes each slice by `slice_phasor`."""

    name: str
    nfe = 0
    tile = 1
    weights_sha256: str | None = None
    licence: str | None = None
    seen: Seen | None = None
    device = torch.device("cpu")
    families: tuple[str, ...] | None = None
    noisy = False
    """Whether noise of the measurement is in the phase, so that it has to be that of the acquired matrix."""

    def sample_phase(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        """Sample phasors slice by slice; see `rephase.diffusion.generators.PhaseGenerator`."""
        return (
            sample_filled(self._sample, magnitude, keys, conditions)
            if self.noisy
            else self._sample(magnitude, keys, conditions)
        )

    def _sample(self, magnitude: Tensor, keys: Sequence[SliceKey], conditions: Conditions) -> Tensor:
        phasors = [self.slice_phasor(one, key, conditions) for one, key in zip(magnitude, keys, strict=True)]
        return torch.stack(phasors)

    @abstractmethod
    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """Compute the phasors of one slice, complex64 `(height width)`."""


class ZeroPhase(_Baseline):
    """No phase, as if the magnitude itself were transformed."""

    name = "zero"

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """Return ones."""
        return torch.ones_like(magnitude, dtype=torch.complex64)


class WhitePhase(_Baseline):
    """Independent uniform phase in every pixel."""

    name = "white"

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """Sample uniformly on the circle."""
        height, width = magnitude.shape
        return random_phasor(key, Stream.BASELINE, height, width, magnitude.device)


class SinusPhase(_Baseline):
    """The naive phase of the PhaseGen paper (arXiv 2504.07560).

    One period of `sin x + cos y` over the image, times the magnitude over its maximum, plus normal noise of 0.05 rad.
    """

    name = "sinus"

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """Compute the sinusoid, weighted by the magnitude."""
        height, width = magnitude.shape
        y = torch.arange(height, dtype=torch.float32, device=magnitude.device) * (2.0 * math.pi / height)
        x = torch.arange(width, dtype=torch.float32, device=magnitude.device) * (2.0 * math.pi / width)
        relative = magnitude / magnitude.amax().clamp(min=1e-20)
        noise = normal(key, Stream.BASELINE, height * width, magnitude.device).reshape(height, width)
        return _phasor((torch.sin(x) + torch.cos(y)[:, None]) * relative + 0.05 * noise)


class SmoothPhase(_Baseline):
    """A random polynomial of low order in millimetres, with the statistics of real volumes.

    `model` is a fit of `rephase.diffusion.physics.low_order`; the shipped one if None.
    """

    name = "smooth"

    def __init__(self, model: LowOrderModel | None = None) -> None:
        self.model = model or read_model()
        data = self.model.data
        self.licence: str | None = data.get("licence") or " and ".join(sorted(data.get("licences", ()))) or None

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """Evaluate the polynomial over the slice."""
        height, width = magnitude.shape
        return _phasor(self.model.phase(key, height, width, conditions).to(magnitude.device))


class NoisySmoothPhase(SmoothPhase):
    """`smooth` with measurement noise at the level of the magnitude, as the model adds it."""

    name, noisy = "smooth-noise", True

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """Evaluate the polynomial and add noise: strong noise at weak magnitude, random phase in air."""
        return _noisy(super().slice_phasor(magnitude, key, conditions), magnitude, key, conditions)


class SpinEchoPhase(SmoothPhase):
    """The phase of a spin echo: receive and transmit phase, an off-centre echo, and measurement noise.

    Off-resonance is refocused, so the echo time has no effect, and phase near the sinuses is not steep. The smooth part
    is a polynomial whose coefficients have the size of those of real spin echoes; slices of a volume share most of it.
    """

    name, noisy = "spin-echo", True

    def __init__(self) -> None:
        super().__init__(_spin_echo_model())

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """Evaluate the polynomial and add von Mises noise: uniform phase without signal."""
        height, width = magnitude.shape
        smooth = self.model.phase(key, height, width, conditions).to(magnitude.device)
        return _noisy(_phasor(smooth), magnitude, key, replace(conditions, gaussian_noise=False))


_SPIN_ECHO_RAD = {(1, 0): 3.0, (0, 1): 1.5}
"""Standard deviation of the linear coefficients along readout and phase encoding: the echo is off-centre in readout."""
_SPIN_ECHO_BEND_RAD = {2: 0.8, 3: 1.9}
"""Standard deviation of the coefficients of second and third order, at `LENGTH_MM` from the centre. In five volumes of
heads at 0.055 T their root mean squares are 0.4 and 1.9."""
_SPIN_ECHO_WITHIN = 0.15
"""Standard deviation of slices within a volume, as a fraction of that between volumes."""
_SPIN_ECHO_STEP_RAD_PER_MM = 0.003
"""Measured in five volumes of heads at 0.055 T: 0.002 to 0.005."""


def _spin_echo_model() -> LowOrderModel:
    deviations = [_SPIN_ECHO_RAD.get(term) or _SPIN_ECHO_BEND_RAD[sum(term)] for term in TERMS]

    def diagonal(scale: float) -> tuple[tuple[float, ...], ...]:
        return tuple(
            tuple((scale * deviation) ** 2 if row == column else 0.0 for column in range(len(TERMS)))
            for row, deviation in enumerate(deviations)
        )

    return LowOrderModel(diagonal(1.0), diagonal(_SPIN_ECHO_WITHIN), 0.0, (_SPIN_ECHO_STEP_RAD_PER_MM,), {})


class FieldPhase(_Baseline):
    """The source phase `field` (`physics.source`) with measurement noise: physics without a network."""

    name, noisy = "field", True
    families = tuple(family for family in SEQUENCES if family not in REFOCUSED)

    def slice_phasor(self, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
        """Sample the off-resonance phase of air, magnet, shim and fat, coil phase, and noise."""
        known = from_scalars(conditions.numbers(), magnitude.device)
        kind = "field-10" if conditions.gaussian_noise else "field"
        with one_thread(magnitude.device):
            source = source_phasors([key], magnitude[None], known, conditions.slice_mm, kind, conditions.volume)
        return _noisy(source.whole()[0], magnitude, key, conditions)


def _noisy(phasor: Tensor, magnitude: Tensor, key: SliceKey, conditions: Conditions) -> Tensor:
    """Add measurement noise to the phase of a slice: phasors, uniform without signal."""
    height, width = magnitude.shape
    if conditions.gaussian_noise:
        normals = complex_normal(key, Stream.NOISE, height, width, magnitude.device)
        sigma = estimate_sigma(magnitude[None])
        return _phasor(add_noise(phasor[None], magnitude[None], sigma, normals[None])[0].angle())
    drawn = uniform(key, Stream.NOISE, height * width, magnitude.device).reshape(1, height, width)
    with one_thread(magnitude.device):
        noise = noise_angle(magnitude[None], measure_noise(magnitude[None]), drawn)[0]
    return phasor * _phasor(noise)


def _phasor(angle: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angle), angle)
