import numpy as np
import pytest
import torch

from rephase.diffusion.fourier import fft2c
from rephase.evaluation.kspace_statistics import (
    NUM_RINGS,
    homodyne,
    homodyne_errors,
    middle_shares,
    radial_spectrum,
    symmetry_defects,
    zero_filled_errors,
    zero_filling_mask,
)
from rephase.evaluation.metrics import (
    METRIC_NAMES,
    circular_distance,
    decorrelation,
    distances,
    measure_phase,
    sample_distance,
    summaries,
)
from rephase.evaluation.statistics import (
    BENDS,
    LAGS,
    NUM_BINS,
    PhaseVolume,
    curvature_function,
    diversity,
    gradient_quantiles,
    phase_density,
    residue_density,
    resultant_lengths,
    steepness_map,
    structure_function,
    through_slice_quantiles,
)
from rephase.pipeline.magnitude import object_support


def volume(phase: np.ndarray, spacing=(1.0, 1.0, 1.0), support=None, slices=None, magnitude=None) -> PhaseVolume:
    magnitude = np.ones(phase.shape, np.float32) if magnitude is None else magnitude
    support = np.ones(phase.shape, bool) if support is None else support
    slices = tuple(range(len(phase))) if slices is None else slices
    return PhaseVolume(np.exp(1j * phase).astype(np.complex64), magnitude, support, spacing, slices)


def ramp(dy: float, dx: float, shape=(2, 40, 50)) -> np.ndarray:
    return np.broadcast_to(dy * np.arange(shape[1])[:, None] + dx * np.arange(shape[2]), shape)


def white(shape=(4, 128, 128), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-np.pi, np.pi, shape)


def blob(count=2, side=64) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    return np.exp(-3 * (x**2 + 2 * y**2)).astype(np.float32)[None].repeat(count, 0)


def test_a_ramp_has_one_gradient_in_rad_per_mm_whatever_the_wraps():
    one = [volume(ramp(0.6, -1.0), spacing=(1.0, 2.0, 4.0))]
    np.testing.assert_allclose(gradient_quantiles(one)[0], 0.3, atol=1e-4)
    np.testing.assert_allclose(gradient_quantiles(one)[1], -0.25, atol=1e-4)
    assert residue_density(one) == 0.0


def test_structure_function_of_a_ramp_is_one_minus_cosine():
    np.testing.assert_allclose(
        structure_function([volume(ramp(0.1, 0.1))]), 1 - np.cos(0.1 * np.array(LAGS)), atol=1e-3
    )


def test_lags_beyond_the_matrix_are_not_measured():
    assert np.isnan(structure_function([volume(ramp(0, 0, (1, 6, 6)))])).tolist() == [lag >= 6 for lag in LAGS]


def test_the_curvature_of_a_ramp_is_none_and_that_of_a_parabola_is_known():
    assert np.abs(curvature_function([volume(ramp(0.7, -0.3, (1, 40, 40)))])).max() < 1e-6
    y = np.arange(40.0)[None, :, None].repeat(40, 2)
    along = 1.0 - np.cos(2 * 0.01 * np.array(BENDS) ** 2)  # and none along the other axis
    np.testing.assert_allclose(curvature_function([volume(0.01 * y**2)]), along / 2.0, atol=1e-4)
    assert np.isnan(curvature_function([volume(ramp(0, 0, (1, 9, 9)))])).tolist() == [lag > 4 for lag in BENDS]


def test_steepness_is_compared_block_by_block_in_the_object():
    phase = np.zeros((1, 32, 45))
    phase[:, :, 16:] = 0.4 * np.arange(29)
    support = np.zeros(phase.shape, bool)
    support[:, :, :27] = True
    one = volume(phase, (1.0, 1.0, 2.0), support=support)
    steepness = steepness_map([one]).reshape(4, 5)
    assert np.isnan(steepness[:, 3:]).all()  # 3 of 8 columns of the block, and none
    np.testing.assert_allclose(steepness[:, :3], [[0.0, 0.0, 0.1]] * 4, atol=0.01)
    assert decorrelation(steepness, steepness) == pytest.approx(0.0)
    assert decorrelation(steepness, np.where(np.isnan(steepness), np.nan, 0.1 - steepness)) == pytest.approx(2.0)
    assert decorrelation(steepness, np.full_like(steepness, 0.3)) == 1.0
    assert np.isnan(decorrelation(steepness, steepness[:, :4])) and np.isnan(
        decorrelation(steepness, steepness * np.nan)
    )


def test_a_vortex_is_one_residue():
    y, x = np.mgrid[-10:10, -10:10] + 0.5
    assert residue_density([volume(np.arctan2(y, x)[None])]) == pytest.approx(1000 / 19**2)


def test_white_phase_has_residues_in_a_third_of_the_pixels():
    """The known density of singularities of independent uniform phases is 1/3."""
    assert residue_density([volume(white())]) == pytest.approx(333, abs=10)


def test_through_slice_gradient_takes_neighbours_only():
    phase = np.broadcast_to(np.array([0.0, 0.5, 3.0])[:, None, None], (3, 8, 8))
    np.testing.assert_allclose(through_slice_quantiles([volume(phase, (5.0, 1, 1), slices=(2, 3, 9))]), 0.1, atol=1e-6)
    assert np.isnan(through_slice_quantiles([volume(phase, slices=(0, 4, 8))])).all()


def test_only_the_object_counts():
    phase = np.zeros((1, 20, 20))
    phase[:, :, 10:] = white((1, 20, 10))
    support = np.zeros(phase.shape, bool)
    support[:, :, :10] = True
    magnitude = np.where(support, 1.0, 0.01).astype(np.float32)
    assert np.array_equal(object_support(magnitude), support)
    inside = measure_phase([volume(phase, support=support)])
    assert inside["residues"] == 0.0 and np.abs(inside["gradient"]).max() < 1e-6 and inside["structure"][0] < 1e-6


def test_global_and_linear_phase_do_not_change_what_is_measured_without_gauge():
    magnitude, bend = blob(), 0.4 * np.sin(ramp(0.2, 0.1, (2, 64, 64)))
    plain = volume(bend, magnitude=magnitude)
    moved = volume(bend + 1.0 + ramp(0.3, -0.2, (2, 64, 64)), magnitude=magnitude)
    for name in ("resultant", "density", "spectrum", "symmetry", "homodyne"):
        assert distances(measure_phase([plain]), measure_phase([moved]))[name] < 0.02, name
    assert distances(measure_phase([plain]), measure_phase([moved]))["gradient"] > 0.1


def test_a_ramp_is_removed_where_the_name_says_so():
    magnitude, bend = blob(), 0.4 * np.sin(ramp(0.2, 0.1, (2, 64, 64)))
    plain = measure_phase([volume(bend, magnitude=magnitude)])
    moved = measure_phase([volume(bend + 1.0 + ramp(0.3, -0.2, (2, 64, 64)), magnitude=magnitude)])
    apart = distances(plain, moved)
    assert apart["gradient"] > 0.1 and apart["structure"] > 0.1
    assert apart["gradient_no_ramp"] < 0.01 and apart["structure_no_ramp"] < 0.01
    assert plain["structure_no_ramp"].shape == (5,)


def test_energy_in_the_middle_is_that_of_the_central_columns():
    """One wave along width: all energy in its column, 4 of 50 columns are the middle."""
    flat = np.ones((1, 20, 50), np.float32)
    for cycles, share in ((0, 1.0), (1, 1.0), (-2, 1.0), (2, 0.0), (9, 0.0)):
        wave = ramp(0.0, 2 * np.pi * cycles / 50, (1, 20, 50))
        assert middle_shares([volume(wave, magnitude=flat)])[0] == pytest.approx(share, abs=1e-5), cycles
    assert middle_shares([volume(white((1, 64, 200)))])[0] == pytest.approx(0.08, abs=0.02)
    assert np.isnan(middle_shares([volume(white((1, 8, 8)), magnitude=np.zeros((1, 8, 8), np.float32))])).all()


def test_zero_filling_keeps_a_quarter_of_the_columns_and_the_error_is_that_of_the_rest():
    mask = zero_filling_mask(200).numpy()
    assert mask.sum() == pytest.approx(50, abs=1) and mask[92:108].all() and set(mask) == {0.0, 1.0}
    flat = np.ones((1, 20, 200), np.float32)
    for cycles in (0, 3, 40, 41, 42, 43):  # a single wave is kept or lost
        wave = ramp(0.0, 2 * np.pi * cycles / 200, (1, 20, 200))
        kept = mask[100 + cycles]
        assert zero_filled_errors([volume(wave, magnitude=flat)])[0] == pytest.approx(1 - kept, abs=1e-4), cycles
    # of white phase about a quarter of the energy is kept; the definition, by NumPy
    phase, magnitude = white((1, 20, 200)), np.repeat(blob(1, 20), 10, axis=2)
    image = magnitude * np.exp(1j * phase)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image[0]))) * mask
    made = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace))))
    expected = ((made - magnitude[0]) ** 2).sum() / (magnitude[0] ** 2).sum()
    assert zero_filled_errors([volume(phase, magnitude=magnitude)])[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 51, 128])
def test_narrow_matrices_have_a_mask_too(width):
    assert zero_filling_mask(width).shape == (width,)
    assert np.isfinite(middle_shares([volume(white((1, 4, width)))])).all()


def test_resultant_length_is_one_for_no_phase_and_none_for_white_phase():
    assert resultant_lengths([volume(np.zeros((2, 16, 16)))]) == pytest.approx([1, 1])
    assert resultant_lengths([volume(white((1, 128, 128)))])[0] < 0.03


def test_two_phases_of_equal_share_have_the_cosine_of_half_their_distance():
    """|(exp(ia) + exp(-ia)) / 2| = cos a; halves in a checkerboard, so that no ramp fits."""
    board = np.where(np.indices((16, 16)).sum(axis=0) % 4 < 2, 0.7, -0.7)[None]
    assert resultant_lengths([volume(board)])[0] == pytest.approx(np.cos(0.7), abs=0.02)


def test_circular_distance_is_the_way_along_the_circle():
    one, other = np.zeros(NUM_BINS), np.zeros(NUM_BINS)
    one[0], other[NUM_BINS - 3] = 1.0, 1.0
    assert circular_distance(one, other) == pytest.approx(3 * 2 * np.pi / NUM_BINS)
    assert circular_distance(one, one) == 0.0
    flat = phase_density([volume(white())])
    assert flat.sum() == pytest.approx(1) and circular_distance(one, flat) == pytest.approx(np.pi / 2, abs=0.03)


def test_symmetry_defect_is_that_of_k_space():
    """Against its definition: the least distance of k-space and its turned conjugate over all turns."""
    one = volume(white((1, 16, 16)) * 0.3, magnitude=blob(1, 16))
    k = fft2c(torch.from_numpy(one.image[0])).numpy()
    mirrored = np.roll(k[::-1, ::-1], (1, 1), (0, 1)).conj()  # index n // 2 is the centre, sizes are even
    turns = np.exp(1j * np.linspace(0, 2 * np.pi, 2000))
    least = min(np.linalg.norm(k - turn * mirrored) for turn in turns) / np.linalg.norm(k)
    assert symmetry_defects([one])[0] == pytest.approx(least, abs=1e-3)


def test_symmetry_defect_is_none_for_zero_and_root_two_for_white_phase():
    assert symmetry_defects([volume(np.zeros((1, 32, 32)))])[0] < 1e-3
    assert symmetry_defects([volume(white((1, 128, 128)))])[0] == pytest.approx(np.sqrt(2), abs=0.02)


def test_homodyne_recovers_an_image_of_slow_phase_and_not_one_of_white_phase():
    magnitude = blob()
    slow = 0.5 * np.cos(ramp(0.05, 0.05, (2, 64, 64)))
    assert homodyne_errors([volume(slow, magnitude=magnitude)]).max() < 0.02
    assert homodyne_errors([volume(white((2, 64, 64)), magnitude=magnitude)]).min() > 0.5
    full = homodyne((magnitude * np.exp(1j * slow)).astype(np.complex64), fraction=1.0)
    np.testing.assert_allclose(full, magnitude, atol=0.01)


def test_spectrum_of_a_single_wave_stands_in_its_ring():
    side, cycles = 64, 12
    phase = np.broadcast_to(np.where(np.arange(side) * cycles % side < side // 2, 0.0, np.pi), (1, side, side))
    spectrum = radial_spectrum([volume(phase)])
    assert spectrum.argmax() == int(cycles / (side / 2) * NUM_RINGS) and spectrum.max() == 0.0
    assert radial_spectrum([volume(white())]).min() > -4.0  # a few points make the innermost ring


def test_diversity_is_none_for_equal_draws_and_known_for_independent_ones():
    """The mean of |z_1 + z_2| / 2 for independent uniform phases is 2 / pi."""
    draws = [volume(white((1, 128, 128), seed)) for seed in (0, 1)]
    assert diversity([draws[0], draws[0]]) == pytest.approx(0, abs=1e-6)
    assert diversity(draws) == pytest.approx(1 - 2 / np.pi, abs=0.01)
    assert np.isnan(diversity(draws[:1]))


def test_sample_distance_is_the_shift():
    values = np.array([0.1, 0.4, 0.9])
    assert sample_distance(values, values + 0.25) == pytest.approx(0.25)
    assert sample_distance(values, values) == 0.0


def test_every_metric_is_zero_for_equal_and_positive_for_unequal_phase():
    magnitude = blob()
    one = measure_phase([volume(np.zeros((2, 64, 64)), magnitude=magnitude)])
    other = measure_phase([volume(white((2, 64, 64)), magnitude=magnitude)])
    same, apart = distances(one, one), distances(one, other)
    assert set(same) == set(METRIC_NAMES) == set(summaries(one))
    assert all(value == 0.0 for value in same.values())
    assert all(value > 0.05 for value in apart.values()), apart
