"""The family of a volume's pulse sequence, as far as headers, sidecars and names of files state it.

Each function returns one of `rephase.sequences.SEQUENCES`, or None if none is stated. DICOM's terms: PS3.3
C.8.3.1 (classic) and C.8.13.4 (enhanced); names of vendors' sequences as dcm2niix reads them; BIDS 1.9, MRI suffixes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rephase.sequences import BSSFP, GRADIENT_ECHO, GRADIENT_ECHO_EPI, SPIN_ECHO, SPIN_ECHO_EPI

_NAMES = (
    # Siemens: ep2d_diff is *ep_b1000, spin-echo EPI *epse2d; HASTE *h2d; SPACE *spc; TrueFISP *tfi; TurboFLASH *tfl
    (r"ep_?b\d|epse|seepi|dwise|dwi|ep2d_?diff|epi2?_?se|spin.?echo.?(epi|echo.?planar)", SPIN_ECHO_EPI),
    (r"epfid|feepi|ffeepi|grepi|ep2d|epi2?_?gr|fid.?epi|gradient.?echo.?(epi|echo.?planar)", GRADIENT_ECHO_EPI),
    (r"tfi\d|trufi|true.?fisp|fiesta|b.?ffe|btfe|b.?tfe|bssfp|balanced|fcfi|ciss", BSSFP),
    (r"tse|fse|haste|\bh2d|space|spc|cube|vista|view\b|grase|\bse\d|\bse\b|\btir|t[12]?w?.?ir_?tse|spin.?echo|frfse",
     SPIN_ECHO),
    (r"tfl|mprage|mp2rage|\bfl[23]d|flash|spgr|fspgr|efgre|ffe|tfe|bravo|lava|vibe|\bfi[23]d|\bfm2d|\bgre|swi|gradient.?"
     r"echo|fast.?field|merge|memp", GRADIENT_ECHO),
)  # fmt: skip
"""Patterns of sequence names, the first match determines the family."""

_SUFFIXES = {
    SPIN_ECHO: ("t2w", "flair", "pdw", "pdt2", "inplanet2", "irt1", "mese", "tb1tfl"),
    GRADIENT_ECHO: (
        "megre", "t2star", "t2starw", "vfa", "mp2rage", "unit1", "mpm", "mts", "mtr", "angio", "swi", "gre", "mprage",
        "phase1", "phase2", "phasediff", "magnitude", "magnitude1", "magnitude2", "fieldmap", "tb1dam", "tb1afi",
    ),
    GRADIENT_ECHO_EPI: ("bold", "cbv"),
    SPIN_ECHO_EPI: ("dwi", "epi"),
}  # fmt: skip
_OF_SUFFIX = {suffix: sequence for sequence, suffixes in _SUFFIXES.items() for suffix in suffixes}
"""BIDS suffixes that determine the family. T1w, sbref, asl and m0scan do not: several families acquire them."""


def sequence_of_words(
    scanning_sequence: Iterable[str] = (),
    *,
    names: Iterable[str | None] = (),
    echo_pulse: str | None = None,
    echo_planar: str | None = None,
    steady_state: str | None = None,
    inversion: bool = False,
    echo_train_length: float | None = None,
) -> str | None:
    """Return the family stated by the elements of a DICOM header.

    Parameters
    ----------
    scanning_sequence
        ScanningSequence: SE, GR, IR, EP, RM.
    names
        SequenceName, PulseSequenceName and the vendors' own, such as "*tse2d1_15", "T1TFE", "FSE-XL".
    echo_pulse, echo_planar, steady_state
        EchoPulseSequence (GRADIENT, SPIN, BOTH), EchoPlanarPulseSequence (YES, NO), SteadyStatePulseSequence.
    inversion
        Whether an inversion pulse is stated (IR alone names no echo).
    echo_train_length
        Number of RF echoes per train.
    """
    words = {word.strip().upper() for word in scanning_sequence}
    known = [name.strip().lower().lstrip("*") for name in names if name]
    named = next((sequence for name in known if (sequence := sequence_of_name(name)) is not None), None)
    planar = "EP" in words or echo_planar == "YES"
    if planar:
        if "GR" in words or echo_pulse == "GRADIENT":
            return GRADIENT_ECHO_EPI
        if "SE" in words or echo_pulse in ("SPIN", "BOTH"):
            return SPIN_ECHO_EPI
        return named if named in (GRADIENT_ECHO_EPI, SPIN_ECHO_EPI) else None
    if named is BSSFP or steady_state == "FREE_PRECESSION":
        return BSSFP
    if ("SE" in words and "GR" not in words) or echo_pulse in ("SPIN", "BOTH"):
        return SPIN_ECHO
    if "GR" in words or echo_pulse == "GRADIENT":
        return named if named == GRADIENT_ECHO_EPI else GRADIENT_ECHO
    if named is None and ("IR" in words or inversion) and (echo_train_length or 0) > 1:
        return SPIN_ECHO  # an inversion-recovery echo train without a gradient-echo name
    return named


def sequence_of_name(name: str) -> str | None:
    """Return the family denoted by a sequence's name."""
    text = name.lower()
    return next((sequence for pattern, sequence in _NAMES if re.search(pattern, text)), None)


def sequence_of_sidecar(sidecar: Mapping[str, Any]) -> str | None:
    """Return the family stated in a BIDS or dcm2niix sidecar."""
    scanning = sidecar.get("ScanningSequence")
    words = re.split(r"[_\\/ ,]+", scanning) if isinstance(scanning, str) else scanning
    names = [sidecar.get(key) for key in ("PulseSequenceType", "SequenceName", "PulseSequenceName", "SequenceType")]
    train = sidecar.get("EchoTrainLength")
    return sequence_of_words(
        [str(word) for word in words] if isinstance(words, list) else (),
        names=[name for name in names if isinstance(name, str)],
        inversion="InversionTime" in sidecar,
        echo_train_length=train if isinstance(train, int | float) else None,
    )


def sequence_of_bids_name(stem: str) -> str | None:
    """Return the family determined by the suffix of a BIDS name, such as `sub-01_T2w` or `sub-01_task-rest_bold`."""
    parts = stem.lower().split("_")
    return _OF_SUFFIX.get(parts[-1]) if len(parts) > 1 or parts[-1] in _OF_SUFFIX else None


_ACQUISITION_CONTRASTS = {
    "T1": "T1", "T2": "T2", "T2_STAR": "T2star", "PROTON_DENSITY": "PD", "FLUID_ATTENUATED": "FLAIR",
    "DIFFUSION": "DWI", "TOF": "MRA", "STIR": "IR",
}  # fmt: skip
_IMAGE_CONTRASTS = {"DIFFUSION": "DWI", "SWI": "SWI", "ASL": "ASL", "FMRI": "BOLD"}


def contrast_of_words(
    image_type: Iterable[str],
    scanning_sequence: Iterable[str] = (),
    *,
    stated: str = "",
    diffusion: bool = False,
    angiography: bool = False,
    prepared: bool = False,
    te_ms: float | None = None,
    tr_ms: float | None = None,
    ti_ms: float | None = None,
) -> str | None:
    """Return the contrast where a DICOM header is unambiguous, else the sequence family, else None.

    Parameters
    ----------
    image_type, scanning_sequence
        Words of ImageType (FrameType), and of ScanningSequence: SE, GR, IR.
    stated
        AcquisitionContrast.
    diffusion, angiography, prepared
        Whether a b-value, a time of flight or a magnetisation preparation is stated.
    te_ms, tr_ms, ti_ms
        Times in milliseconds.
    """
    words = {word.upper() for word in image_type}
    named = next((contrast for word, contrast in _IMAGE_CONTRASTS.items() if word in words), None)
    if diffusion or named is not None:
        return "DWI" if diffusion else named
    if stated in _ACQUISITION_CONTRASTS:
        return _ACQUISITION_CONTRASTS[stated]
    sequence = set(scanning_sequence)
    if angiography:
        return "MRA"
    if "GR" in sequence:  # prepared, with an inversion time, it is an MPRAGE
        return "T1" if prepared and ti_ms and 400 <= ti_ms <= 1500 and (te_ms or 99) < 10 else "GRE"
    if "IR" in sequence:
        return "FLAIR" if te_ms and ti_ms and te_ms > 60 and ti_ms > 1500 else "IR"
    if "SE" not in sequence:
        return None
    if te_ms and tr_ms and tr_ms < 800 and te_ms < 30:
        return "T1"
    if te_ms and tr_ms and tr_ms > 2000:
        return "T2" if te_ms > 70 else "PD" if te_ms < 35 else "SE"
    return "SE"
