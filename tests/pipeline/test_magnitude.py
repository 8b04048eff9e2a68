import numpy as np
import pytest

from rephase.errors import VolumeError
from rephase.pipeline.magnitude import prepare_magnitude


def magnitude_of(shape=(3, 20, 30), seed=0, factor=1.0):
    return (np.random.default_rng(seed).rayleigh(size=shape) * factor).astype(np.float32)


def bits(array):
    return np.asarray(array, np.float32).view(np.uint32)


@pytest.mark.parametrize("factor", [1e-30, 3.7e-5, 1.0, 941.0, 65535.0, 1e30])
@pytest.mark.parametrize("seed", range(3))
def test_input_comes_back_bit_for_bit_and_the_scale_is_the_nearest_power_of_two(factor, seed):
    magnitude = magnitude_of(seed=seed, factor=factor)
    magnitude[0, :5] = 0
    before = magnitude.copy()
    prepared = prepare_magnitude(magnitude)
    assert prepared.stored.dtype == np.float32
    assert prepared.stored.flags.c_contiguous
    assert np.frexp(prepared.scale)[0] == 0.5
    np.testing.assert_array_equal(bits(prepared.stored * np.float32(prepared.scale)), bits(before))
    np.testing.assert_array_equal(magnitude, before)
    percentile = np.percentile(magnitude.astype(np.float64), 99.5)
    assert 2**-0.5 <= percentile / prepared.scale <= 2**0.5 * (1 + 1e-6)
    assert prepared.clipped is None


def test_integers_of_a_known_percentile():
    magnitude = np.zeros((1, 10, 100), np.float32)
    magnitude[0, 5:] = 1500.0  # log2 is 10.55
    assert prepare_magnitude(magnitude).scale == 2048
    magnitude[0, 5:] = 1400.0  # log2 is 10.45
    assert prepare_magnitude(magnitude).scale == 1024


def test_sparse_volume_falls_back_to_the_maximum_and_zeros_to_one():
    magnitude = np.zeros((1, 100, 100), np.float32)
    assert prepare_magnitude(magnitude).scale == 1.0
    magnitude[0, 3, 4] = 60.0
    prepared = prepare_magnitude(magnitude)
    assert prepared.scale == 64.0
    assert prepared.stored[0, 3, 4] == np.float32(60 / 64)


def test_extreme_ranges_stay_exact():
    magnitude = np.full((1, 10, 10), 1e6, np.float32)
    magnitude[0, 0, 0] = np.float32(1.2345e-45)  # the smallest subnormal
    prepared = prepare_magnitude(magnitude)
    np.testing.assert_array_equal(bits(prepared.stored * np.float32(prepared.scale)), bits(magnitude))
    magnitude[:] = np.float32(1e-38)
    magnitude[0, 0, 0] = np.finfo(np.float32).max
    prepared = prepare_magnitude(magnitude)
    np.testing.assert_array_equal(bits(prepared.stored * np.float32(prepared.scale)), bits(magnitude))


def test_zeros_are_positive():
    magnitude = magnitude_of()
    magnitude[1, 2] = -0.0
    prepared = prepare_magnitude(magnitude)
    assert prepared.clipped is None
    assert not np.signbit(prepared.stored).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused_with_count_and_place(bad):
    magnitude = magnitude_of()
    magnitude[1, 7, 11] = magnitude[2, 0, 0] = bad
    with pytest.raises(VolumeError, match=r"2 of 1800 voxels .* slice 1, row 7, column 11") as caught:
        prepare_magnitude(magnitude, negative="clip")
    assert caught.value.reason == "not_finite"


def test_small_negative_values_are_refused_or_clipped():
    magnitude = np.full((1, 10, 10), 100.0, np.float32)
    magnitude[0, 0, :3] = (-5.0, -1.0, -0.5)
    with pytest.raises(
        VolumeError, match=r"3 of 100 voxels are negative, the least is -5 .* --negative clip"
    ) as caught:
        prepare_magnitude(magnitude)
    assert caught.value.reason == "negative"
    prepared = prepare_magnitude(magnitude, negative="clip")
    assert prepared.clipped == {"count": 3, "min": -5.0}
    expected = np.where(magnitude < 0, np.float32(0), magnitude)
    np.testing.assert_array_equal(bits(prepared.stored * np.float32(prepared.scale)), bits(expected))


def test_large_negative_values_are_refused_even_with_clip():
    magnitude = np.full((1, 10, 10), 100.0, np.float32)
    magnitude[0, 0, 0] = -5.01
    with pytest.raises(VolumeError, match="at most 5% of the maximum") as caught:
        prepare_magnitude(magnitude, negative="clip")
    assert caught.value.reason == "negative"
    with pytest.raises(VolumeError, match="negative"):
        prepare_magnitude(np.full((1, 2, 2), -1, np.float32), negative="clip")


@pytest.mark.parametrize("shape", [(2, 3), (0, 4, 4), (1, 2, 3, 4)])
def test_what_is_no_volume_is_refused(shape):
    with pytest.raises(VolumeError, match="expected \\(slice, height, width\\)") as caught:
        prepare_magnitude(np.ones(shape, np.float32))
    assert caught.value.reason == "unsupported"
