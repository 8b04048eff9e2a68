"""The table of phase generators, one row each. Imports no torch, since `--help` is generated from this table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """One row of `PHASES`.

    Attributes
    ----------
    help
        One line, for `--help` and README.md.
    generator
        "module:attribute" of a function that returns a `rephase.diffusion.generators.PhaseGenerator`: called without
        arguments, or, if `learned`, with checkpoint, number of steps (or None) and device. None for the phase that
        is read with the magnitude.
    learned
        Whether it samples with the weights of `--checkpoint`.
    weights
        The default weights, a name of `rephase.diffusion.shipped.WEIGHTS`.
    any_steps
        Whether the number of network evaluations per slice can be chosen.
    varies
        Whether another seed produces another phase, so that replicas of a volume differ.
    """

    help: str
    generator: str | None
    learned: bool = False
    weights: str | None = None
    any_steps: bool = False
    varies: bool = True


_LEARNED, _FIXED = "rephase.diffusion.registry:make_learned", "rephase.diffusion.baselines"

PHASES = {
    "diffusion": Phase("sampled by the trained model", _LEARNED, learned=True, weights="permissive", any_steps=True),
    "real": Phase("the measured phase of the manifest row", None, varies=False),
    "smooth": Phase("random polynomial of third order, fitted to real volumes", f"{_FIXED}:SmoothPhase"),
    "smooth-noise": Phase("smooth, with the noise of the measurement", f"{_FIXED}:NoisySmoothPhase"),
    "spin-echo": Phase(
        "low-order receive and transmit phase of a refocused echo, with noise", f"{_FIXED}:SpinEchoPhase"
    ),
    "field": Phase("off-resonance of air, magnet, shim and fat, and coil phase, with noise", f"{_FIXED}:FieldPhase"),
    "regression": Phase("the expected phase, by a network in one step", _LEARNED, learned=True, weights="regression"),
    "sinus": Phase("the sinusoid of the PhaseGen paper", f"{_FIXED}:SinusPhase"),
    "zero": Phase("none", f"{_FIXED}:ZeroPhase", varies=False),
    "white": Phase("independent and uniform in every pixel", f"{_FIXED}:WhitePhase"),
}
"""Phase generators by the value of `--phase`."""


def generated_phases() -> tuple[str, ...]:
    """Return the names of the phases that are generated: all but that of the manifest row itself."""
    return tuple(name for name, phase in PHASES.items() if phase.generator is not None)


def learned_phases() -> tuple[str, ...]:
    """Return the names of the phases that are sampled with the weights of `--checkpoint`."""
    return tuple(name for name, phase in PHASES.items() if phase.learned)


def baseline_phases() -> tuple[str, ...]:
    """Return the names of the phases that are generated without `--checkpoint`."""
    return tuple(name for name, phase in PHASES.items() if phase.generator is not None and not phase.learned)
