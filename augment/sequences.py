"""Families of pulse sequences, and how long the phase of each feels the off-resonance field.

A gradient echo accumulates phase from excitation to the echo. A spin echo refocuses it, so its echo time is no
dephasing time: what remains is receive and transmit phase, eddy currents and an off-centre echo (Bernstein, King and
Zhou, Handbook of MRI Pulse Sequences, sections 14.1 and 16.4). Training, building, evaluation and simulation all take
the dephasing time from `dephasing_time_ms`.
"""

from __future__ import annotations

GRADIENT_ECHO, SPIN_ECHO, BSSFP = "gradient-echo", "spin-echo", "bssfp"
GRADIENT_ECHO_EPI, SPIN_ECHO_EPI = "gradient-echo-epi", "spin-echo-epi"
SEQUENCES = (GRADIENT_ECHO, SPIN_ECHO, GRADIENT_ECHO_EPI, SPIN_ECHO_EPI, BSSFP)
"""All families; the family of a volume is one of these, or None where it is not known."""

REFOCUSED = (SPIN_ECHO, SPIN_ECHO_EPI)
"""Families whose off-resonance phase is refocused at the echo."""

_OF_CONTRAST = {
    "T1": GRADIENT_ECHO, "T2": SPIN_ECHO, "T2star": GRADIENT_ECHO, "PD": SPIN_ECHO, "FLAIR": SPIN_ECHO,
    "DWI": SPIN_ECHO_EPI, "BOLD": GRADIENT_ECHO_EPI, "MRA": GRADIENT_ECHO, "SWI": GRADIENT_ECHO, "GRE": GRADIENT_ECHO,
    "SE": SPIN_ECHO, "IR": SPIN_ECHO,
}  # fmt: skip
_EARLY_MS = 7.0
"""An echo earlier than this belongs to a gradient echo if nothing else is known: refocusing takes longer."""
_LATE_MS = 60.0
"""An echo later than this belongs to a spin echo unless the contrast says otherwise: gradient echoes of 1.5 T and more
are dephased by then, apart from T2*, SWI and BOLD."""


def dephasing_time_ms(sequence: str | None, te_ms: float | None) -> float | None:
    """Return the time over which off-resonance adds phase, in ms; None where it is not known.

    Parameters
    ----------
    sequence
        One of `SEQUENCES`, or None.
    te_ms
        Echo time, None where it is not known.

    Returns
    -------
    dephasing_time_ms
        The echo time for gradient echoes; 0 for spin echoes and spin-echo EPI, whose k-space centre is acquired at the
        refocused time; for balanced SSFP the echo time too, which is half of TR, the time over which phase grows
        within a pass band. None for an unknown family: `assume_sequence` guesses one.
    """
    if sequence in REFOCUSED:
        return 0.0
    return te_ms or None if sequence is not None else None  # headers write 0 for an echo time that they do not know


def assume_sequence(contrast: str | None, te_ms: float | None) -> str | None:
    """Guess the family of a volume whose header does not state it, from contrast and echo time (ms).

    Returns
    -------
    sequence
        One of `SEQUENCES`, or None where neither contrast nor echo time says anything.
    """
    known = _OF_CONTRAST.get(contrast or "")
    if known == GRADIENT_ECHO and contrast in ("T1", "GRE") and te_ms is not None and te_ms > _LATE_MS:
        return SPIN_ECHO
    if known is None and te_ms:
        return SPIN_ECHO if te_ms > _LATE_MS else GRADIENT_ECHO if te_ms < _EARLY_MS else None
    return known
