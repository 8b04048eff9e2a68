"""The family of the pulse sequence from headers, sidecars and names."""

from __future__ import annotations

import pytest

from rephase.ismrmrd_header import fastmri_facts
from rephase.readers.sequence import (
    sequence_of_bids_name,
    sequence_of_sidecar,
    sequence_of_words,
)
from rephase.sequences import SEQUENCES, assume_sequence, dephasing_time_ms

GE, SE, GE_EPI, SE_EPI, BSSFP = (
    "gradient-echo", "spin-echo", "gradient-echo-epi", "spin-echo-epi", "bssfp",
)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        # as vendors write them: ScanningSequence, SequenceName or the vendor's own
        (["SE"], "*tse2d1_15", SE),
        (["SE", "IR"], "*tir2d1_16", SE),
        (["SE"], "*h2d1_160", SE),
        (["SE", "IR"], "*spcir_278ns", SE),
        (["GR"], "*fl3d1", GE),
        (["GR", "IR"], "*tfl3d1_16ns", GE),
        (["GR"], "*fi3d1", GE),
        (["GR"], "*fm2d2r", GE),
        (["GR"], "*tfi2d1_12", BSSFP),
        (["EP"], "*epfid2d1_64", GE_EPI),
        (["EP"], "*ep_b1000#3", SE_EPI),
        (["EP"], "*ep_b0", SE_EPI),
        (["EP"], "*epse2d1_96", SE_EPI),
        (["SE"], "FSE-XL", SE),
        (["GR"], "EFGRE3D", GE),
        (["GR"], "FIESTA-C", BSSFP),
        (["EP", "GR"], "EPI", GE_EPI),
        (["EP", "SE"], "EPI2", SE_EPI),
        (["RM"], "CUBE", SE),
        (["GR"], "T1TFE", GE),
        (["GR"], "FEEPI", GE_EPI),
        (["SE"], "TSE", SE),
        (["IR"], "T2FLAIR_TSE", SE),
        (["GR"], "B-TFE", BSSFP),
        (["SE"], None, SE),
        (["GR"], None, GE),
        ([], None, None),
        (["EP"], None, None),
        (["RM"], "unknown", None),
    ],
)
def test_classic_headers(words, name, expected):
    assert sequence_of_words(words, names=[name]) == expected


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"echo_pulse": "GRADIENT", "names": ["*tfl3d1_16ns"], "echo_planar": "NO"}, GE),
        ({"echo_pulse": "SPIN", "names": ["TSE"]}, SE),
        ({"echo_pulse": "BOTH", "names": ["GRASE"]}, SE),
        ({"echo_pulse": "GRADIENT", "echo_planar": "YES"}, GE_EPI),
        ({"echo_pulse": "SPIN", "echo_planar": "YES"}, SE_EPI),
        ({"echo_pulse": "GRADIENT", "steady_state": "FREE_PRECESSION"}, BSSFP),
        ({"echo_pulse": "GRADIENT", "steady_state": "LONGITUDINAL"}, GE),
    ],
)
def test_enhanced_headers(elements, expected):
    assert sequence_of_words(**elements) == expected


@pytest.mark.parametrize(
    ("sidecar", "expected"),
    [
        ({"ScanningSequence": "SE", "SequenceName": "tse2d1_15"}, SE),
        ({"ScanningSequence": "GR_IR"}, GE),
        ({"ScanningSequence": ["EP", "SE"]}, SE_EPI),
        ({"PulseSequenceType": "Gradient Echo EPI"}, GE_EPI),
        ({"PulseSequenceType": "Spin Echo"}, SE),
        ({"InversionTime": 2.5, "EchoTrainLength": 16}, SE),
        ({"InversionTime": 0.9}, None),
        ({"EchoTime": 0.03}, None),
        ({"ScanningSequence": 3}, None),
    ],
)
def test_sidecars(sidecar, expected):
    assert sequence_of_sidecar(sidecar) == expected


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("sub-01_T2w", SE), ("sub-01_acq-x_FLAIR", SE), ("sub-01_PDw", SE), ("sub-01_echo-1_part-mag_MEGRE", GE),
        ("sub-01_task-rest_bold", GE_EPI), ("sub-01_dir-AP_dwi", SE_EPI), ("sub-01_T1w", None), ("head", None),
    ],
)  # fmt: skip
def test_bids_names(stem, expected):
    assert sequence_of_bids_name(stem) == expected


def test_only_gradient_echoes_feel_the_echo_time():
    """A header's TE of 90 ms of a spin echo is never a dephasing time."""
    assert {sequence: dephasing_time_ms(sequence, 90.0) for sequence in SEQUENCES} == {
        GE: 90.0, SE: 0.0, GE_EPI: 90.0, SE_EPI: 0.0, BSSFP: 90.0,
    }  # fmt: skip
    assert dephasing_time_ms(SE, None) == 0.0
    assert dephasing_time_ms(GE, None) is None
    assert dephasing_time_ms(None, 90.0) is None


@pytest.mark.parametrize(
    ("contrast", "te_ms", "expected"),
    [
        ("T2", 90.0, SE), ("FLAIR", None, SE), ("PD", 15.0, SE), ("T2star", 20.0, GE), ("BOLD", 30.0, GE_EPI),
        ("DWI", 80.0, SE_EPI), ("T1", 3.0, GE), ("T1", 90.0, SE), (None, 90.0, SE), (None, 5.0, GE), (None, 12.0, None),
        (None, None, None), ("other", 100.0, SE), ("ASL", 12.0, None),
    ],
)  # fmt: skip
def test_an_unknown_family_is_guessed(contrast, te_ms, expected):
    assert assume_sequence(contrast, te_ms) == expected


@pytest.mark.parametrize(
    ("acquisition", "expected"),
    [("AXT2", SE), ("AXFLAIR", SE), ("CORPDFS_FBK", SE), ("AXT1POST", SE), ("AXT2star", None), (None, None)],
)
def test_fastmri_acquisitions_are_turbo_spin_echoes(acquisition, expected):
    assert fastmri_facts(None, acquisition).sequence == expected
