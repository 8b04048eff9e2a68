import math

import pytest
import torch

from rephase.diffusion.networks.layers import to_complex, to_real
from rephase.diffusion.physics.measurement import compress, compress_magnitude
from rephase.diffusion.processes.flow import flow_loss, integrate, interpolate, noise_gain, sample_flow, time_grid

UNKNOWN = torch.full((2, 4), math.nan)


def phasors(seed: int) -> torch.Tensor:
    angle = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 * math.pi
    return torch.polar(torch.ones_like(angle), angle)


def exact(x_1: torch.Tensor):
    """The network that knows the end: F solved from `x_1 = t / D x_t + (1 - t) / sqrt(D) F`."""

    def network(scaled, weight, t, conditions):
        time = t[:, None, None, None]
        power = time**2 + (1 - time) ** 2
        return (to_real(x_1) - time / power * scaled * power.sqrt()) * power.sqrt() / (1 - time)

    return network


def test_compression_fixes_zero_and_one_and_grows():
    values = compress(torch.linspace(0, 2, 50))
    assert float(values[0]) == 0.0 and float(compress(torch.tensor(1.0))) == 1.0
    assert bool((values.diff() > 0).all())


def test_the_weight_does_not_depend_on_the_scale_and_is_finite_for_empty_slices():
    magnitude = torch.rand(3, 16, 16)
    magnitude[1] = 0
    magnitude[2] = 0
    magnitude[2, 4, 4] = 1e-3  # one bright pixel: no 99th percentile
    weight = compress_magnitude(magnitude)
    assert torch.allclose(weight, compress_magnitude(magnitude * 4096), atol=1e-6)
    assert not weight[1].any()
    assert float(weight[2].max()) == pytest.approx(1.0)
    assert bool(torch.isfinite(weight).all())


def test_path_runs_from_source_to_target():
    x_0, x_1 = to_real(phasors(0)), to_real(phasors(1))
    assert torch.equal(interpolate(x_0, x_1, torch.zeros(2)), x_0)
    assert torch.equal(interpolate(x_0, x_1, torch.ones(2)), x_1)


def test_the_exact_network_has_no_loss_and_predicts_the_end():
    x_0, x_1, t = to_real(phasors(0)), phasors(1), torch.tensor([0.1, 0.8])
    weight = torch.cat((torch.ones(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)), 1)
    assert float(flow_loss(exact(x_1), x_0, to_real(x_1), weight, t, UNKNOWN).max()) < 1e-8
    assert torch.allclose(integrate(exact(x_1), x_0, weight, [0.0, 0.8], UNKNOWN), to_real(x_1), atol=1e-5)


def test_the_loss_of_no_prediction_is_that_of_its_velocity():
    """With F = 0 at t = 0 the velocity is -x_0, so the error is |x_1|^2: one per real part and weight."""
    x_0, x_1 = to_real(phasors(0)), to_real(phasors(1))
    weight = torch.cat((torch.ones(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)), 1)
    loss = flow_loss(lambda x, *_: torch.zeros_like(x), x_0, x_1, weight, torch.zeros(2), UNKNOWN)
    assert torch.allclose(loss, torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_sampler_lands_on_the_end_and_counts_evaluations(steps):
    x_0, x_1 = phasors(0), phasors(1)
    calls = []

    def network(*inputs):
        calls.append(float(inputs[2][0]))
        return exact(x_1)(*inputs)

    result = sample_flow(network, x_0, torch.ones(2, 1, 8, 8), time_grid(steps), UNKNOWN)
    assert torch.allclose(to_complex(result), x_1, atol=1e-5)
    assert calls == pytest.approx([index / steps for index in range(steps)])


@pytest.mark.parametrize(("steps", "gain"), [(1, 0.0), (2, 0.5), (4, 0.72)])
def test_noise_gain_of_few_steps(steps, gain):
    assert noise_gain(time_grid(steps)) == pytest.approx(gain)


def test_many_steps_keep_the_level_of_the_noise():
    gains = [noise_gain(time_grid(steps)) for steps in (8, 64, 512)]
    assert gains == sorted(gains) and gains[-1] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_noise_gain_is_that_of_the_sampler_where_the_network_adds_nothing(steps):
    def silent(x_t, weight, t, conditions):
        return torch.zeros_like(x_t)

    x_0 = phasors(3)[None, None]
    times = time_grid(steps)
    x_1 = to_complex(sample_flow(silent, x_0, torch.ones_like(x_0.real), times, torch.zeros(1, 4)))
    assert torch.allclose(x_1[0, 0], noise_gain(times) * x_0[0, 0], atol=1e-6)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        time_grid(0)
