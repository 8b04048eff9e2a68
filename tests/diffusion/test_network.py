import copy
import math

import pytest
import torch
from tiny_network import TINY
from torch import nn
from torch.nn import functional

from rephase.config import ConfigError, from_mapping
from rephase.diffusion.networks.inference import for_inference, to_block
from rephase.diffusion.networks.layers import (
    ComplexConv2d,
    ComplexNorm,
    complex_silu,
    mean_power,
    to_complex,
    to_real,
)
from rephase.diffusion.networks.layout import fold_patches, unfold_patches
from rephase.diffusion.networks.unet import ComplexUNet, NetworkConfig, embed_conditions

UNKNOWN = torch.full((1, 4), math.nan)


def complex_noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.complex(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_convolution_equals_native_complex64_forward_and_gradient(kernel, stride):
    torch.manual_seed(0)
    layer = ComplexConv2d(3, 5, kernel, stride)
    layer.bias.data.normal_()
    weight = torch.complex(layer.weight_real.data, layer.weight_imag.data).requires_grad_()
    bias = torch.complex(*layer.bias.data.chunk(2)).requires_grad_()
    image = complex_noise(2, 3, 9, 8)
    native_in, ours_in = image.clone().requires_grad_(), image.clone().requires_grad_()

    native = functional.conv2d(native_in, weight, bias, stride, kernel // 2)
    ours = to_complex(layer(to_real(ours_in)))
    target = complex_noise(*native.shape)
    (native - target).abs().square().sum().backward()
    (ours - target).abs().square().sum().backward()

    assert torch.allclose(ours, native, atol=1e-4)
    assert torch.allclose(ours_in.grad, native_in.grad, atol=1e-3)
    assert torch.allclose(torch.complex(layer.weight_real.grad, layer.weight_imag.grad), weight.grad, atol=1e-3)
    assert torch.allclose(torch.complex(*layer.bias.grad.chunk(2)), bias.grad, atol=1e-3)


class NativeUNet:
    """The network once more in native complex64, from the same weights: an independent reading of its definition."""

    def __init__(self, network: ComplexUNet) -> None:
        self.network = network

    @staticmethod
    def conv(layer: nn.Module, z: torch.Tensor) -> torch.Tensor:
        if isinstance(layer, nn.Identity):
            return z
        weight = torch.complex(layer.weight_real, layer.weight_imag)
        return functional.conv2d(z, weight, torch.complex(*layer.bias.chunk(2)), layer.stride, layer.padding)

    @staticmethod
    def norm(layer: ComplexNorm, z: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        groups = z.reshape(len(z), layer.num_groups, -1)
        inverse = torch.rsqrt(groups.abs().square().mean(-1) + 1e-6)
        scaled = (groups * inverse[..., None]).reshape(z.shape) * layer.gain[:, None, None]
        gain, real, imag = layer.modulation(embedding).chunk(3, dim=1)
        return scaled * (1 + gain)[..., None, None] + torch.complex(real, imag)[..., None, None]

    @staticmethod
    def gate(z: torch.Tensor) -> torch.Tensor:
        return z * torch.sigmoid(z.real)

    def block(self, block: nn.Module, z: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(block.conv_1, self.gate(self.norm(block.norm_1, z, embedding)))
        hidden = self.conv(block.conv_2, self.gate(self.norm(block.norm_2, hidden, embedding)))
        return self.conv(block.skip, z) + hidden

    def __call__(self, noisy, magnitude, embedding):
        net, patch = self.network, self.network.config.patch
        z = self.conv(net.stem, functional.pixel_unshuffle(torch.cat((noisy, magnitude), 1), patch))
        skips = []
        for level, blocks in enumerate(net.encoder):
            z = self.conv(net.down[level - 1], z) if level else z
            for block in blocks:
                z = self.block(block, z, embedding)
            skips.append(z)
        for level in reversed(range(len(net.down))):
            z = self.conv(net.up[level], z.repeat_interleave(2, -1).repeat_interleave(2, -2))
            z = torch.cat((z, skips[level]), 1)
            for block in net.decoder[level]:
                z = self.block(block, z, embedding)
        return functional.pixel_shuffle(self.conv(net.head, self.gate(self.norm(net.head_norm, z, embedding))), patch)


def test_network_equals_native_complex64_forward_and_gradient():
    torch.manual_seed(1)
    network = ComplexUNet(TINY)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    noisy, magnitude = complex_noise(2, 1, 16, 12), complex_noise(2, 1, 16, 12).abs().to(torch.complex64)
    t, conditions = torch.tensor([0.2, 0.7]), torch.tensor([[1.0, 2.0, 5.0, math.nan]] * 2)

    def gradients(result: torch.Tensor) -> list[torch.Tensor]:
        loss = (result - complex_noise(2, 1, 16, 12)).abs().square().mean()
        return list(torch.autograd.grad(loss, list(network.parameters())))

    ours = to_complex(network(to_real(noisy), to_real(magnitude), t, conditions))
    captured = []
    network.embed.register_forward_hook(lambda *call: captured.append(call[-1]))
    network(to_real(noisy), to_real(magnitude), t, conditions)
    native = NativeUNet(network)(noisy, magnitude, captured[0])
    assert torch.allclose(ours, native, atol=1e-5)
    for one, other in zip(gradients(ours), gradients(native), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_unfolding_inverts_folding():
    channels = torch.randn(2, 3, 8, 12)
    assert torch.equal(unfold_patches(fold_patches(channels, 4), 4), channels)


def test_gate_is_silu_on_real_numbers():
    real = torch.randn(1, 4, 3, 3)
    gated = to_complex(complex_silu(to_real(real.to(torch.complex64))))
    assert torch.allclose(gated, functional.silu(real).to(torch.complex64))


def test_a_slice_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    network = ComplexUNet(TINY).eval()
    noisy, magnitude = to_real(complex_noise(3, 1, 16, 16)), to_real(complex_noise(3, 1, 16, 16))
    t, conditions = torch.tensor([0.1, 0.5, 0.9]), UNKNOWN.expand(3, 4)
    together = network(noisy, magnitude, t, conditions)
    alone = network(noisy[1:2], magnitude[1:2], t[1:2], conditions[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-5)


def test_conditions_that_never_varied_in_training_have_no_effect_before_it():
    torch.manual_seed(0)
    network = ComplexUNet(TINY)
    inputs = to_real(complex_noise(1, 1, 16, 16)), to_real(complex_noise(1, 1, 16, 16)), torch.tensor([0.5])
    known = torch.tensor([[0.5, 0.5, 40.0, 1.5]])
    assert torch.equal(network(*inputs, known), network(*inputs, UNKNOWN))


def test_conditions_of_zero_and_below_are_not_known_but_a_dephasing_time_of_0_is_that_of_a_spin_echo():
    nan = float("nan")
    known = embed_conditions(torch.tensor([[2.0, 0.0, 5.0, -1.0], [2.0, nan, 5.0, float("inf")]]))
    spin, short, unknown = embed_conditions(torch.tensor([[nan, nan, te, nan] for te in (0.0, 0.5, nan)]))
    assert torch.equal(spin, short) and not torch.equal(spin, unknown)
    assert torch.equal(known[0], known[1]) and bool(torch.isfinite(known).all())
    assert known[0].tolist() == [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "fields", [{"channels": ()}, {"channels": (5,)}, {"blocks": 0}, {"patch": 0}, {"kind": "split"}]
)
def test_impossible_architectures_are_refused(fields):
    with pytest.raises(ConfigError, match="expected"):
        from_mapping(fields, NetworkConfig)


def test_the_mean_power_has_the_gradient_of_a_mean_square():
    generator = torch.Generator().manual_seed(4)
    channels = torch.randn((2, 6, 5, 7), generator=generator, dtype=torch.float64, requires_grad=True)
    counts = torch.randn((2, 6), generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((mean_power(channels) * counts).sum(), channels)
    (expected,) = torch.autograd.grad((channels.square().mean(dim=(2, 3)) * counts).sum(), channels)
    torch.testing.assert_close(gradient, expected)
    half = channels.detach().bfloat16().requires_grad_()
    power = mean_power(half)
    (gradient,) = torch.autograd.grad((power * counts).sum(), half)
    assert power.dtype is torch.float32
    assert gradient.dtype is torch.bfloat16
    torch.testing.assert_close(gradient.double(), expected, rtol=0.02, atol=1e-3)


def to_block_of(network: ComplexUNet) -> ComplexUNet:
    """What `for_inference` does for a GPU, on a CPU."""
    fixed = copy.deepcopy(network).requires_grad_(False)
    to_block(fixed)
    return fixed


@pytest.mark.parametrize("fix", [for_inference, lambda network, _: to_block_of(network)], ids=["planes", "blocks"])
def test_networks_for_sampling_give_the_same_and_do_not_change_the_original(fix):
    torch.manual_seed(0)
    network = ComplexUNet(TINY).eval()
    for parameter in network.parameters():
        parameter.data.normal_(std=0.1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    noisy, magnitude = to_real(complex_noise(2, 1, 16, 24)), to_real(complex_noise(2, 1, 16, 24))
    inputs = noisy, magnitude, torch.tensor([0.1, 0.9]), UNKNOWN.expand(2, 4)
    kept = [one.clone() for one in inputs]
    fixed = fix(network, torch.device("cpu"))
    assert not any(isinstance(module, ComplexConv2d) for module in fixed.modules())
    given = network(*inputs).detach()
    assert torch.allclose(fixed(*inputs), given, atol=1e-5 * float(given.abs().max()))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    torch.testing.assert_close(inputs, tuple(kept), rtol=0, atol=0, equal_nan=True)
