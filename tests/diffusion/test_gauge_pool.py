import math

import pytest
import torch

from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.physics.gauge_pool import LATE_MS, NEAREST, near_gauges, sample_gauge

FINE = [[te, 1.5, 0.01, 0.02, -2.9] for te in (2.0, 4.0)]
COARSE = [[te, 3.0, 0.03, -0.04, 0.1] for te in (2.0, 4.0, 8.0)] + [[math.nan, 3.0, 0.03, -0.04, 0.1]]
POOL = torch.tensor(FINE + COARSE)


def draws(conditions: Conditions, count: int = 40):
    return [sample_gauge(POOL, SliceKey(seed, "v", 0, 3), conditions) for seed in range(count)]


def test_a_volume_takes_the_gauge_of_one_of_its_own_resolution():
    for gauge in draws(Conditions((1.6, 1.5), 3.0)):
        assert gauge.phase_step == pytest.approx(-2.9)
        assert [abs(part) for part in gauge.ramp] == pytest.approx([0.016, 0.03])
    assert {round(gauge.phase_step, 3) for gauge in draws(Conditions((3.0, 3.0)))} == {0.1}


def test_signs_and_global_phase_are_sampled_per_volume():
    found = draws(Conditions((3.0, 3.0)))
    assert {(gauge.ramp[0] > 0, gauge.ramp[1] > 0) for gauge in found} == {(a, b) for a in (0, 1) for b in (0, 1)}
    assert max(gauge.phase for gauge in found) > 5.0 > 1.0 > min(gauge.phase for gauge in found)
    other = sample_gauge(POOL, SliceKey(0, "v", 0, 9), Conditions((3.0, 3.0)))
    assert other == found[0]


def test_there_is_no_phase_step_without_a_training_volume_of_the_resolution():
    for conditions in (Conditions((0.5, 0.5), 4.0), Conditions(None, 4.0), Conditions()):
        assert {gauge.phase_step for gauge in draws(conditions)} == {0.0}
        assert len({round(abs(gauge.ramp[0]), 6) for gauge in draws(conditions)}) == 2


def test_the_nearest_echo_times_are_used_if_known():
    pool = torch.tensor([[float(te), 1.0, 0.0, 0.0, 0.0] for te in range(1, 30)] + [[math.nan, 1.0, 0.0, 0.0, 0.0]])
    near = near_gauges(pool, 10.0)
    assert sorted(near[:, 0].tolist()) == [7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0] and len(near) == NEAREST
    early = near_gauges(pool, None)
    assert torch.equal(early.nan_to_num(), near_gauges(pool, 0.0).nan_to_num()) and not (early[:, 0] > LATE_MS).any()
    assert len(early) == int((~(pool[:, 0] > LATE_MS)).sum()) > 0
    assert len(near_gauges(pool[-1:], 10.0)) == 1
