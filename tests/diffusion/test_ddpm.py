import math

import numpy as np
import pytest
import torch
from tiny_network import TINY

from rephase.config import ConfigError, from_mapping
from rephase.diffusion.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.networks.layers import to_complex, to_real
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.processes.ddpm import (
    DdpmConfig,
    DdpmGenerator,
    DdpmObjective,
    choose_timesteps,
    cosine_alpha_bar,
    sample_ddpm,
)
from rephase.diffusion.processes.objective import Batch
from rephase.diffusion.registry import make_generator, make_learned
from rephase.diffusion.training.trainer import Trainer, TrainingConfig

GAUGE = torch.tensor([[2.0, 2.0, 0.01, 0.02, 0.1]])
UNKNOWN = torch.full((2, 4), math.nan)


def phasors(seed: int) -> torch.Tensor:
    angle = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 * math.pi
    return torch.polar(torch.ones_like(angle), angle)


def knowing(x_0: torch.Tensor, config: DdpmConfig):
    """The network that knows the data: v from x_t and x_0, with the noise that makes one of the other."""
    schedule = cosine_alpha_bar(config.timesteps)

    def network(x_t, weight, t, conditions):
        alpha_bar = schedule[round(float(t[0]) * config.timesteps)].float()
        noise = (x_t - alpha_bar.sqrt() * to_real(x_0)) / (1 - alpha_bar).sqrt()
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * to_real(x_0)

    return network


def test_the_schedule_is_the_published_cosine():
    """Nichol & Dhariwal, eq. 17: alpha_bar is f(t) / f(0) but for the last betas, which are cut at 0.999."""
    schedule = cosine_alpha_bar(1000).numpy()
    time = np.arange(1001) / 1000
    f = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    assert np.allclose(schedule[:1000], f[:1000] / f[0], rtol=1e-9)
    betas = 1 - schedule[1:] / schedule[:-1]
    assert betas.max() <= 0.999 + 1e-12 and schedule[0] == 1.0
    assert (np.diff(schedule) < 0).all()


@pytest.mark.parametrize(("timesteps", "steps"), [(1000, 1000), (1000, 100), (100, 100), (1000, 7), (5, 1)])
def test_timesteps_are_thinned_out_from_the_last_one(timesteps, steps):
    chosen = choose_timesteps(timesteps, steps)
    assert len(set(chosen)) == steps and chosen[0] == timesteps and chosen[-1] >= 1
    assert chosen == sorted(chosen, reverse=True)


def test_more_steps_than_timesteps_are_refused():
    for steps in (0, 101):
        with pytest.raises(ValueError, match="expected 1 to 100"):
            choose_timesteps(100, steps)


@pytest.mark.parametrize("changes", [{"timesteps": 0}, {"timesteps": 1.5}])
def test_impossible_processes_are_refused(changes):
    with pytest.raises(ConfigError, match="timesteps: "):
        from_mapping(changes, DdpmConfig)


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_the_sampler_lands_on_what_the_network_knows(steps):
    config, calls = DdpmConfig(timesteps=100), []
    x_0 = phasors(1)
    network = knowing(x_0, config)

    def counted(*inputs):
        calls.append(float(inputs[2][0]))
        return network(*inputs)

    result = sample_ddpm(counted, phasors(0), torch.ones(2, 1, 8, 8), config, steps, UNKNOWN)
    assert torch.allclose(to_complex(result), x_0, atol=1e-4)
    assert len(calls) == steps and calls[0] == 1.0


def test_deterministic_steps_keep_the_noise_that_they_started_with():
    """With the data known, every state is a mixture of the data and the first noise: none is added, none is lost."""
    config, states = DdpmConfig(timesteps=50), []
    network, schedule = knowing(phasors(1), config), cosine_alpha_bar(50)

    def watched(x_t, *rest):
        states.append((x_t, schedule[round(float(rest[1][0]) * 50)].float()))
        return network(x_t, *rest)

    sample_ddpm(watched, phasors(0), torch.ones(2, 1, 8, 8), config, 50, UNKNOWN)
    for x_t, alpha_bar in states[1:]:
        noise = (to_complex(x_t) - alpha_bar.sqrt() * phasors(1)) / (1 - alpha_bar).sqrt()
        assert torch.allclose(noise, phasors(0), atol=1e-2)
        assert torch.allclose(noise.abs(), torch.ones_like(noise.abs()), atol=1e-2)


def batch(number: int = 0) -> Batch:
    y, x = torch.linspace(-1, 1, 20)[:, None], torch.linspace(-1, 1, 14)
    magnitude = torch.exp(-2 * (x**2 + y**2))
    return Batch(torch.stack([torch.polar(magnitude, (2 + k) * magnitude) for k in range(4)]), UNKNOWN.repeat(2, 1))


def test_prepared_noise_has_unit_modulus_and_the_magnitude_is_a_constant_channel():
    objective = DdpmObjective(DdpmConfig(timesteps=100))
    x_0, drawn, weight, alpha_bar, t, _ = objective.prepare(batch(), 0.0, torch.Generator().manual_seed(0), 4)
    inside = to_complex(drawn)[:, 0, :20, :14].abs()
    assert torch.allclose(inside, torch.ones_like(inside), atol=1e-5)
    assert torch.allclose(x_0.square().sum(1), weight.square().sum(1), atol=1e-5) and not weight[:, 1].any()
    assert torch.equal(alpha_bar, cosine_alpha_bar(100)[(t * 100).round().long()].float())


def test_the_network_that_knows_the_data_has_no_error():
    config = DdpmConfig(timesteps=20)
    objective = DdpmObjective(config)
    tensors = objective.prepare(batch(), 0.0, torch.Generator().manual_seed(0), 4)

    x_0, noise, weight, alpha_bar, *_ = tensors
    alpha_bar, w = alpha_bar[:, None, None, None], weight[:, :1]
    power = alpha_bar * w**2 + 1 - alpha_bar
    x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise

    def network(scaled, *_):
        assert torch.allclose(scaled, x_t / power.sqrt(), atol=1e-5)
        v = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_0
        linear = (alpha_bar * (1 - alpha_bar)).sqrt() * (1 - w**2) / power * x_t
        return (v - linear) * power.sqrt() / w.clamp(min=1e-9)

    assert float(objective.error(network, tensors).max()) < 1e-9


def test_air_is_known_without_a_network():
    objective = DdpmObjective(DdpmConfig())
    empty = Batch(torch.zeros(3, 8, 8, dtype=torch.complex64), torch.full((3, 4), math.nan))
    tensors = objective.prepare(empty, 0.0, torch.Generator().manual_seed(0), 4)
    assert float(objective.error(lambda x, *_: torch.randn_like(x), tensors).max()) < 1e-6


def test_training_lowers_the_loss(tmp_path):
    settings = TrainingConfig(steps=100, learning_rate=3e-3, warmup=5, condition_dropout=0.0)
    losses = []
    trainer = Trainer(TINY, settings, batch, tmp_path, objective=DdpmObjective(DdpmConfig()))
    trainer.run(lambda _, loss: losses.append(loss))
    assert np.mean(losses[-20:]) < np.mean(losses[:5]) - 0.3


def checkpoint(**changes) -> Checkpoint:
    torch.manual_seed(0)
    network = ComplexUNet(TINY).eval().requires_grad_(False)
    torch.nn.init.normal_(network.head.bias, std=0.1)
    return Checkpoint(network, "ddpm", GAUGE, "0" * 64, {"ddpm": {"timesteps": 20} | changes})


@pytest.mark.parametrize("changes", [{}, {"noise": "unit", "sampler": "deterministic"}])
def test_samples_are_unit_phasors_that_follow_key_alone(changes):
    generator = make_learned(checkpoint(**changes), 5)
    assert isinstance(generator, DdpmGenerator) and generator.nfe == 5
    magnitude = torch.rand(3, 18, 13, generator=torch.Generator().manual_seed(0))
    keys = [SliceKey(0, "v", 0, index) for index in range(3)]
    phasor = generator.sample_phase(magnitude, keys, Conditions())
    assert phasor.dtype == torch.complex64 and phasor.shape == magnitude.shape
    assert torch.allclose(phasor.abs(), torch.ones_like(magnitude), atol=1e-6)
    assert torch.equal(phasor, make_learned(checkpoint(**changes), 5).sample_phase(magnitude, keys, Conditions()))
    assert torch.equal(phasor[1:2], generator.sample_phase(magnitude[1:2], keys[1:2], Conditions()))
    other = [SliceKey(1, "v", 0, index) for index in range(3)]
    assert not torch.equal(phasor, generator.sample_phase(magnitude, other, Conditions()))


def test_all_timesteps_are_used_by_default(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(checkpoint().network, GAUGE, {"process": "ddpm", "ddpm": {"timesteps": 20}}, path)
    assert make_generator("diffusion", path).nfe == 20
    with pytest.raises(ValueError, match="expected 1 to 20"):
        make_generator("diffusion", path, 21)


@pytest.mark.parametrize(
    "entry", [{"timesteps": -1}, {"sampler": "ancestral"}, {"noise": "normal"}, {"colour": "pink"}]
)
def test_cards_with_an_impossible_process_are_refused(tmp_path, entry):
    path = tmp_path / "model.safetensors"
    save_checkpoint(checkpoint().network, GAUGE, {"process": "ddpm", "ddpm": entry}, path)
    with pytest.raises(CheckpointError, match=rf"model.safetensors: ddpm: .*{next(iter(entry))}"):
        make_generator("diffusion", path)


def test_the_process_is_part_of_the_hash(tmp_path):
    path, hashes = tmp_path / "model.safetensors", set()
    for timesteps in (20, 40):
        card = {"process": "ddpm", "ddpm": {"timesteps": timesteps}}
        save_checkpoint(checkpoint().network, GAUGE, card, path)
        hashes.add(load_checkpoint(path).sha256)
    assert len(hashes) == 2
