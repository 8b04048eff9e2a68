import numpy as np
import pytest

from augment.unwrapping import unwrap


def wrapped(phase: np.ndarray) -> np.ndarray:
    return np.angle(np.exp(1j * phase)).astype(np.float32)


def test_a_steep_phase_is_made_continuous_over_the_object():
    z, y, x = np.meshgrid(np.arange(5.0), np.linspace(-1, 1, 40), np.linspace(-1, 1, 36), indexing="ij")
    phase = 25.0 * (x**2 + y * x) + 0.5 * z
    magnitude = (100.0 * (x**2 + y**2 < 0.9)).astype(np.float32)
    found = unwrap(wrapped(phase), magnitude)
    inside = magnitude > 0
    turns = (found - phase)[inside] / (2 * np.pi)
    assert np.allclose(turns, np.round(turns[0]), atol=1e-4)
    assert np.array_equal(found[~inside], wrapped(phase)[~inside])


def test_noise_in_weak_tissue_is_gone_round():
    """A dark band with random phase, with one bright bridge over it."""
    random = np.random.default_rng(0)
    x = np.broadcast_to(np.linspace(0, 30, 60), (1, 20, 60)).copy()
    magnitude = np.full(x.shape, 100.0, np.float32)
    phase = wrapped(x)
    magnitude[:, :18, 28:32] = 8.0
    phase[:, :18, 28:32] = random.uniform(-np.pi, np.pi, (1, 18, 4))
    found = unwrap(phase, magnitude)
    turns = (found - x)[magnitude > 50] / (2 * np.pi)
    assert np.allclose(turns, turns[0], atol=1e-4)


def test_parts_that_do_not_touch_stay_near_their_own_phase():
    phase = np.tile(np.linspace(2.0, 6.0, 12, dtype=np.float32), (1, 4, 2))
    magnitude = np.ones_like(phase)
    magnitude[:, :, 11:13] = 0
    found = unwrap(wrapped(phase), magnitude)
    steps = np.diff(found[0, 0])
    assert np.allclose(steps[:10], 4.0 / 11, atol=1e-4) and np.allclose(steps[13:], 4.0 / 11, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 3), (1, 8, 8)])
def test_without_signal_nothing_changes(shape):
    phase = np.full(shape, 2.0, np.float32)
    assert np.array_equal(unwrap(phase, np.zeros(shape, np.float32)), phase)
