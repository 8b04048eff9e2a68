from __future__ import annotations

import numpy as np
import pytest

from rephase.data.masks import MaskedSlices, apply_mask
from rephase.errors import RequestError
from rephase.scanner.masks import ColumnMask, seed_of

KINDS = ("random", "equispaced", "equispaced_fraction")
NAMES = ("file1000031.h5", "sub-01_T1w", "sub-01_T1w@1", "a")


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_fastmris_bit_by_bit(kind):
    subsample = pytest.importorskip("fastmri.data.subsample", reason="the fastmri package is not installed")
    for accelerations, fractions in (((4,), (0.08,)), ((8,), (0.04,)), ((4, 8), (0.08, 0.04))):
        theirs = subsample.create_mask_for_mask_type(kind, fractions, accelerations)
        ours = ColumnMask(kind, accelerations, fractions)
        for width in (64, 101, 320, 368, 372):
            for name in NAMES:
                for offset in (None, 0, 1, 2):
                    mask, num_low = theirs((1, width, 2), offset, seed=seed_of(name))
                    drawn = ours(width, seed_of(name), offset)
                    assert drawn.tobytes() == mask.numpy().reshape(-1).tobytes()
                    assert ours.num_low_frequencies(width, seed_of(name)) == num_low


# By the fastmri package, version 0.3.0: 24 columns, acceleration 4, center fraction 0.08, seed_of("sub-01").
FASTMRI_24 = {
    "random": "000000000001100000100100",
    "equispaced": "000100010001100100010001",
    "equispaced_fraction": "000100001001101000001000",
}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_those_that_fastmri_once_drew(kind):
    mask = ColumnMask(kind)(24, seed_of("sub-01"))
    assert "".join(str(int(value)) for value in mask) == FASTMRI_24[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_has_one_mask_and_the_middle_is_sampled(kind):
    draw = ColumnMask(kind, (4,), (0.08,))
    one = draw(320, seed_of("a"))
    assert one.dtype == np.float32
    assert set(np.unique(one)) == {0.0, 1.0}
    assert np.array_equal(one, draw(320, seed_of("a")))
    assert any(not np.array_equal(one, draw(320, seed_of(f"a@{k}"))) for k in range(1, 8))
    num_low = draw.num_low_frequencies(320, seed_of("a"))
    assert one[160 - num_low // 2 : 160 + num_low // 2].all()
    expected = 320 / 4 if kind != "equispaced" else 320 / 4 + 0.75 * num_low
    rate = np.mean([draw(320, seed).sum() for seed in range(200)])
    assert rate == pytest.approx(expected, abs=6)


@pytest.mark.parametrize(
    ("accelerations", "fractions", "message"),
    [
        ((2.5,), (0.08,), "expected tuples, of whole numbers"),
        (4, (0.08,), "expected tuples, of whole numbers"),
        ((4,), 0.08, "expected tuples, of whole numbers"),
        ((4, 8), (0.08,), "expected as many of one"),
        ((0,), (0.08,), "expected accelerations of at least 1"),
    ],
)
def test_masks_that_cannot_be_are_refused(accelerations, fractions, message):
    with pytest.raises(RequestError, match=message):
        ColumnMask("equispaced", accelerations, fractions)


def test_zeros_are_positive():
    kspace = np.full((2, 4, 6), -1 - 1j, np.complex64)
    mask = np.array([0, 1, 0, 1, 1, 0], np.float32)
    masked = apply_mask(kspace, mask)
    assert masked.dtype == np.complex64
    assert np.array_equal(masked, kspace * mask)
    assert not np.signbit(np.stack([masked.real, masked.imag])[..., mask == 0]).any()
    assert np.signbit((kspace.real * mask)[..., mask == 0]).all()  # what multiplying alone would tell


def test_transform_masks_inside_what_was_acquired():
    attrs = {"padding_left": 2, "padding_right": 14}
    kspace = np.ones((8, 16), np.complex64)
    transform = MaskedSlices(ColumnMask("equispaced", (2,), (0.25,)))
    masked, mask, target, given, fname, number = transform(kspace, None, None, attrs, "v", 3)
    assert (target, given, fname, number) == (None, attrs, "v", 3)
    assert not mask[:2].any() and not mask[14:].any()
    assert mask[6:10].all()
    assert np.array_equal(masked, np.broadcast_to(mask, (8, 16)))
    own = np.zeros(16, np.float32)
    own[7] = 1
    assert transform(kspace, own, None, attrs, "v", 3)[1].tolist() == own.tolist()
    assert MaskedSlices(transform.mask, lambda *parts: parts[4])(kspace, None, None, attrs, "v", 3) == "v"


def test_what_cannot_be_drawn_is_one_line():
    with pytest.raises(RequestError, match="unknown; expected one of random, equispaced"):
        ColumnMask("spiral")
    with pytest.raises(RequestError, match="expected as many"):
        ColumnMask("random", (4, 8), (0.08,))
    with pytest.raises(RequestError, match="at least 1"):
        ColumnMask("random", (0,), (0.08,))
    with pytest.raises(RequestError, match="leave none"):
        ColumnMask("equispaced_fraction", (4,), (0.5,))(64, 0)
