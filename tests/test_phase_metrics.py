import numpy as np
import pytest

from augment.phase_metrics import (
    LAGS,
    gradient_distance,
    measure_phase,
    object_support,
    residue_distance,
    structure_distance,
)


def measure(phase: np.ndarray, spacing=(1.0, 1.0), support=None):
    phasor = np.exp(1j * phase).astype(np.complex64)
    return measure_phase([phasor], [np.ones(phase.shape, bool) if support is None else support], [spacing])


def ramp(dy: float, dx: float, shape=(2, 40, 50)) -> np.ndarray:
    return np.broadcast_to(dy * np.arange(shape[1])[:, None] + dx * np.arange(shape[2]), shape)


def test_a_ramp_has_one_gradient_in_rad_per_mm_whatever_the_wraps():
    statistics = measure(ramp(0.6, -1.0), spacing=(2.0, 4.0))
    np.testing.assert_allclose(statistics.gradients[0], 0.3, atol=1e-4)
    np.testing.assert_allclose(statistics.gradients[1], -0.25, atol=1e-4)
    assert statistics.residues == 0.0


def test_structure_function_of_a_ramp_is_one_minus_cosine():
    statistics = measure(ramp(0.1, 0.1))
    np.testing.assert_allclose(statistics.structure, 1 - np.cos(0.1 * np.array(LAGS)), atol=1e-3)


def test_lags_beyond_the_matrix_are_not_measured():
    assert np.isnan(measure(ramp(0, 0, (1, 6, 6))).structure).tolist() == [lag >= 6 for lag in LAGS]


def test_a_vortex_is_one_residue():
    y, x = np.mgrid[-10:10, -10:10] + 0.5
    statistics = measure(np.arctan2(y, x)[None])
    assert statistics.residues == pytest.approx(1000 / 19**2)


def test_white_phase_has_residues_in_a_third_of_the_pixels():
    """The known density of singularities of independent uniform phases is 1/3."""
    statistics = measure(np.random.default_rng(0).uniform(-np.pi, np.pi, (4, 128, 128)))
    assert statistics.residues == pytest.approx(333, abs=10)


def test_only_the_object_counts():
    phase = np.zeros((1, 20, 20))
    phase[:, :, 10:] = np.random.default_rng(0).uniform(-np.pi, np.pi, (1, 20, 10))
    support = np.zeros(phase.shape, bool)
    support[:, :, :10] = True
    assert residue_distance(measure(phase, support=support), measure(ramp(0, 0))) == 0.0
    assert gradient_distance(measure(phase, support=support), measure(ramp(0, 0))) < 1e-6
    magnitude = np.where(support, 1.0, 0.01).astype(np.float32)
    assert np.array_equal(object_support(magnitude), support)


def test_distances_are_zero_for_equal_and_the_shift_for_shifted():
    one, two = measure(ramp(0.1, 0.2)), measure(ramp(0.4, 0.5))
    assert gradient_distance(one, one) == structure_distance(one, one) == residue_distance(one, one) == 0.0
    assert gradient_distance(one, two) == pytest.approx(0.3, abs=1e-4)
    assert structure_distance(one, two) > 0.05
