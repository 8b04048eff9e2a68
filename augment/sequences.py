"""Families of pulse sequences, and the time over which off-resonance adds phase in each.

A gradient echo accumulates phase from excitation to the echo. A spin echo refocuses it, so its echo time is not a
dephasing time: the remaining phase is receive and transmit phase, eddy currents and an off-centre echo (Bernstein, King
and Zhou, Handbook of MRI Pulse Sequences, sections 14.1 and 16.4). Training, building, evaluation and simulation all
use `dephasing_time_ms`.
"""

from __future__ import annotations

GRADIENT_ECHO, SPIN_ECHO, BSSFP = "gradient-echo", "spin-echo", "bssfp"
GRADIENT_ECHO_EPI, SPIN_ECHO_EPI = "gradient-echo-epi", "spin-echo-epi"
SEQUENCES = (GRADIENT_ECHO, SPIN_ECHO, GRADIENT_ECHO_EPI, SPIN_ECHO_EPI, BSSFP)
"""All families; the family of a volume is one of these, or None if unknown."""

REFOCUSED = (SPIN_ECHO, SPIN_ECHO_EPI)
"""Families whose off-resonance phase is refocused at the echo."""

_OF_CONTRAST = {
    "T1": GRADIENT_ECHO, "T2": SPIN_ECHO, "T2star": GRADIENT_ECHO, "PD": SPIN_ECHO, "FLAIR": SPIN_ECHO,
    "DWI": SPIN_ECHO_EPI, "BOLD": GRADIENT_ECHO_EPI, "MRA": GRADIENT_ECHO, "SWI": GRADIENT_ECHO, "GRE": GRADIENT_ECHO,
    "SE": SPIN_ECHO, "IR": SPIN_ECHO,
}  # fmt: skip
_EARLY_MS = 7.0
"""Without other information, an echo before this time is a gradient echo: refocusing takes longer."""
_LATE_MS = 60.0
"""An echo after this time is a spin echo unless the contrast indicates otherwise: gradient echoes at 1.5 T and above
are dephased by then, except T2*, SWI and BOLD."""


def dephasing_time_ms(sequence: str | None, te_ms: float | None) -> float | None:
    """Return the time over which off-resonance adds phase, in ms; None if unknown.

    Parameters
    ----------
    sequence
        One of `SEQUENCES`, or None.
    te_ms
        Echo time, None if unknown.

    Returns
    -------
    dephasing_time_ms
        The echo time for gradient echoes; 0 for spin echoes and spin-echo EPI, whose k-space centre is acquired at the
        refocused time; for balanced SSFP also the echo time (TR / 2), the time over which phase grows
        within a pass band. None for an unknown family, which `assume_sequence` infers.
    """
    if sequence in REFOCUSED:
        return 0.0
    return te_ms or None if sequence is not None else None  # headers contain 0 for an unknown echo time


def assume_sequence(contrast: str | None, te_ms: float | None) -> str | None:
    """Infer the family of a volume whose header does not state it, from contrast and echo time (ms).

    Returns
    -------
    sequence
        One of `SEQUENCES`, or None if neither contrast nor echo time is conclusive.
    """
    known = _OF_CONTRAST.get(contrast or "")
    if known == GRADIENT_ECHO and contrast in ("T1", "GRE") and te_ms is not None and te_ms > _LATE_MS:
        return SPIN_ECHO
    if known is None and te_ms:
        return SPIN_ECHO if te_ms > _LATE_MS else GRADIENT_ECHO if te_ms < _EARLY_MS else None
    return known
