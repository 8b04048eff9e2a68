"""One volume's phase, real or generated, with what the metrics must know of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from rephase.diffusion.physics.gauge import fix_gauge


@dataclass(frozen=True)
class PhaseVolume:
    """Some slices of a volume with a phase.

    Attributes
    ----------
    phasor
        Unit-modulus phase, complex64 `(slice height width)`.
    magnitude, support
        float32 and bool of the same shape; the support is that of the whole volume.
    spacing_mm
        Along (slice, height, width).
    slices
        The numbers of the slices in their volume, ascending: neighbours differ by one.
    """

    phasor: NDArray[np.complex64]
    magnitude: NDArray[np.float32]
    support: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    slices: tuple[int, ...]

    def with_phasor(self, phasor: NDArray[np.complex64]) -> PhaseVolume:
        """The same slices with another phase."""
        if phasor.shape != self.phasor.shape:
            raise ValueError(f"phasor {phasor.shape}: expected {self.phasor.shape}, as the magnitude")
        return replace(self, phasor=phasor)

    @cached_property
    def image(self) -> NDArray[np.complex64]:
        """Complex images without global and linear phase: both are free, and differ from scan to scan."""
        fixed: NDArray[np.complex64] = fix_gauge(torch.from_numpy(self.magnitude * self.phasor)).numpy()
        return fixed

    @cached_property
    def fixed_phasor(self) -> NDArray[np.complex64]:
        """The phase of `image` as phasors; 1 where the magnitude is zero."""
        phasor: NDArray[np.complex64] = np.exp(1j * np.angle(self.image)).astype(np.complex64)
        return phasor
