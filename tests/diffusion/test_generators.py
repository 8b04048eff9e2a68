import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_network import TINY

from rephase.diffusion.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.networks.layers import to_real
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.phases import generated_phases
from rephase.diffusion.physics.gauge import fix_gauge
from rephase.diffusion.physics.grid import from_grid, grid_size, to_grid
from rephase.diffusion.physics.singularities import find_singularities
from rephase.diffusion.physics.source import SourcePhase, source_phasors
from rephase.diffusion.processes.flow import FlowGenerator
from rephase.diffusion.registry import make_generator

GAUGE = torch.tensor([[2.0, 2.0, 0.01, 0.02, 0.3], [math.nan, 2.0, 0.03, -0.01, -0.2]])


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    network = ComplexUNet(TINY).eval().requires_grad_(False)
    return Checkpoint(network, "flow", GAUGE, "0" * 64, {})


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(ComplexUNet(TINY), GAUGE, {"name": "tiny"}, path)
    return path


def keys(count: int, seed: int = 0, volume_id: str = "v") -> list[SliceKey]:
    return [SliceKey(seed, volume_id, 0, index) for index in range(count)]


def magnitudes(count: int = 3, height: int = 20, width: int = 13) -> torch.Tensor:
    magnitude = torch.rand(count, height, width, generator=torch.Generator().manual_seed(0))
    magnitude[:, :2] = 0
    return magnitude


def every_generator(checkpoint):
    return [
        FlowGenerator(checkpoint, 2) if name == "diffusion" else make_generator(name) for name in generated_phases()
    ]


def test_bytes_do_not_change_with_the_number_of_threads(checkpoint):
    magnitude, conditions = magnitudes(1, 256, 256), Conditions((1.5, 1.5), 4.6, 3.0, 5.0)
    threads = torch.get_num_threads()
    try:
        for generator in every_generator(checkpoint):
            made = []
            for count in (1, 2, 4):
                torch.set_num_threads(count)
                made.append(generator.sample_phase(magnitude, keys(1), conditions))
            assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2]), generator.name
    finally:
        torch.set_num_threads(threads)


def test_samples_get_back_the_gauge_that_was_removed_from_their_source(checkpoint, monkeypatch):
    generator, conditions = FlowGenerator(checkpoint, 2), Conditions((2.0, 2.0))
    bright = 100 + magnitudes()  # without noise, whose random phase the gauge does not turn
    plain = generator.sample_phase(bright, keys(3), conditions)

    def turned(keys, *given):
        source = source_phasors(keys, *given)
        angles = torch.tensor([float(key.slice_index) for key in keys])[:, None, None]
        return SourcePhase(source.phasor, source.gauge * torch.polar(torch.ones_like(angles), angles))

    monkeypatch.setattr("rephase.diffusion.processes.flow.source_phasors", turned)
    turns = generator.sample_phase(bright, keys(3), conditions) * plain.conj()
    for index, turn in enumerate(turns):
        assert torch.allclose(turn.angle(), torch.full_like(turn.real, index), atol=0.05)


def test_the_rim_phase_of_a_source_multiplies_its_samples(checkpoint, monkeypatch):
    generator, conditions = FlowGenerator(checkpoint, 2), Conditions((2.0, 2.0))
    plain = generator.sample_phase(magnitudes(), keys(3), conditions)
    angles = torch.linspace(-40.0, 40.0, plain.shape[-1]).expand(plain.shape)
    dense = torch.polar(torch.ones_like(angles), angles)

    def with_rim_phase(keys, *given):
        return source_phasors(keys, *given)._replace(rim_phase=dense[: len(keys)])

    monkeypatch.setattr("rephase.diffusion.processes.flow.source_phasors", with_rim_phase)
    assert torch.allclose(generator.sample_phase(magnitudes(), keys(3), conditions), plain * dense, atol=1e-5)


def test_singularities_of_bright_tissue_are_removed_in_corpora_of_earlier_algorithms_alone(checkpoint, monkeypatch):
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(24.0), indexing="ij")
    pair = torch.atan2(y - 15.5, x - 9.5) - torch.atan2(y - 15.5, x - 13.5)
    monkeypatch.setattr(
        "rephase.diffusion.processes.flow.sample_flow",
        lambda network, x_0, weight, *rest: to_real(torch.polar(weight, pair)),
    )
    magnitude = 100.0 + torch.randn(2, 32, 24, generator=torch.Generator().manual_seed(0))
    everywhere = torch.ones(magnitude.shape, dtype=torch.bool)

    def count(algorithm: int) -> int:
        generator = make_generator("diffusion", checkpoint, 2, algorithm=algorithm)
        phasor = generator.sample_phase(magnitude, keys(2), Conditions((2.0, 2.0), 4.6, 3.0))
        return int(find_singularities(phasor, everywhere)[0].sum())

    assert (count(11), count(12)) == (0, 4)


def test_a_source_with_linear_phase_gets_none_of_the_training_volumes(checkpoint):
    """But in corpora of earlier algorithms, and with the other sources."""
    conditions, flat = Conditions((2.0, 2.0)), []
    for source, algorithm in (("field", 12), ("field", 11), ("narrow", 12)):
        card = {"flow": {"source": source}}
        generator = make_generator("diffusion", dataclasses.replace(checkpoint, card=card), 1, algorithm=algorithm)
        gauges = generator._gauges(keys(3), conditions, 8, 6)
        flat.append(float((gauges - gauges[:1, :1, :1]).abs().max()))
    assert flat[0] < 1e-6 and min(flat[1:]) > 0.1


def test_phasors_are_on_the_unit_circle_and_follow_key_alone(checkpoint):
    magnitude = magnitudes()
    for generator in every_generator(checkpoint):
        phasor = generator.sample_phase(magnitude, keys(3), Conditions())
        assert phasor.dtype == torch.complex64 and phasor.shape == magnitude.shape
        assert torch.allclose(phasor.abs(), torch.ones_like(magnitude), atol=1e-6), generator.name
        alone = generator.sample_phase(magnitude[1:2], keys(3)[1:2], Conditions())
        assert torch.equal(phasor[1:2], alone), generator.name
        scaled = generator.sample_phase(magnitude * 1024, keys(3), Conditions())
        assert torch.allclose(scaled, phasor, atol=1e-3), generator.name
        other = generator.sample_phase(magnitude, keys(3, seed=1), Conditions())
        assert torch.equal(phasor, other) == (generator.name == "zero"), generator.name


def test_a_dephasing_time_of_zero_is_not_unknown(checkpoint):
    checkpoint.network.requires_grad_(True)
    with torch.no_grad():
        for value in checkpoint.network.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    generator, magnitude = FlowGenerator(checkpoint, 2), magnitudes()
    zero, unknown, known = (
        generator.sample_phase(magnitude, keys(3), Conditions((2.0, 2.0), dephasing_ms=time))
        for time in (0.0, None, 9.0)
    )
    assert not torch.equal(zero, unknown) and not torch.equal(zero, known)


def test_output_that_is_not_finite_does_not_become_a_phase(checkpoint):
    for value in checkpoint.network.parameters():
        value.mul_(1e37)
    phasor = FlowGenerator(checkpoint, 2).sample_phase(magnitudes(), keys(3), Conditions())
    assert bool(torch.isnan(phasor.abs()).all())


def test_empty_slices_and_single_pixels_are_sampled(checkpoint):
    for generator in every_generator(checkpoint):
        for shape in ((1, 1, 1), (2, 5, 3)):
            phasor = generator.sample_phase(torch.zeros(shape), keys(shape[0]), Conditions((0.3, 0.3), 5.0, 3.0))
            assert bool(torch.isfinite(torch.view_as_real(phasor)).all()), generator.name


def test_smooth_phase_is_smooth_and_shared_by_the_slices_of_a_volume():
    magnitude = torch.ones(2, 64, 64)
    phasor = make_generator("smooth").sample_phase(magnitude, keys(2), Conditions())
    near = fix_gauge(phasor)
    assert (near[0] * near[1].conj()).mean().abs() > 0.9
    steps = (phasor[0, 1:] * phasor[0, :-1].conj()).angle().abs()
    assert 0.0 < float(steps.max()) < 0.5


def test_sinus_is_the_published_formula_without_its_noise():
    magnitude = torch.rand(1, 32, 48, generator=torch.Generator().manual_seed(1)).double().float()
    phasor = make_generator("sinus").sample_phase(magnitude, keys(1), Conditions())[0].numpy()
    x, y = np.linspace(0, 2 * np.pi, 48, endpoint=False), np.linspace(0, 2 * np.pi, 32, endpoint=False)
    formula = (np.sin(x) + np.cos(y)[:, None]) * (magnitude[0] / magnitude[0].max()).numpy()
    error = np.angle(phasor * np.exp(-1j * formula))
    assert abs(error.std() - 0.05) < 0.005


def test_steps_are_evaluations(checkpoint):
    assert FlowGenerator(checkpoint, 3).nfe == 3
    assert make_generator("zero").nfe == 0


def test_another_source_and_another_grid_are_followed(checkpoint):
    magnitude, conditions = magnitudes(1, 48, 40), Conditions((1.6, 2.0))
    phasors = {}
    for name, settings in [
        ("default", {}),
        ("as default", {"source": "narrow", "loss": "log", "grid_mm": 1.5}),
        ("none", {"grid_mm": 0}),
        ("coarse", {"grid_mm": 3.0}),
        ("scales", {"source": "scales"}),
        ("field", {"source": "field"}),
    ]:
        generator = FlowGenerator(Checkpoint(checkpoint.network, "flow", GAUGE, "0" * 64, {"flow": settings}), 2)
        phasors[name] = generator.sample_phase(magnitude, keys(1), conditions)
        assert torch.equal(phasors[name], generator.sample_phase(magnitude, keys(1), conditions)), name
    assert torch.equal(phasors["default"], phasors["as default"])  # the loss is a matter of training
    assert torch.equal(phasors["default"], phasors["none"])  # 1.6 mm is not finer than 1.5 mm
    assert not torch.equal(phasors["default"], phasors["coarse"])
    assert len({phasors[source].numpy().tobytes() for source in ("default", "scales", "field")}) == 3


def test_the_network_is_called_on_the_grid(checkpoint, monkeypatch):
    sizes = []
    forward = ComplexUNet.forward
    monkeypatch.setattr(ComplexUNet, "forward", lambda self, x, *rest: sizes.append(x.shape) or forward(self, x, *rest))
    coarse = Checkpoint(checkpoint.network, "flow", GAUGE, "0" * 64, {"flow": {"grid_mm": 4.0}})
    for one in (checkpoint, coarse):
        FlowGenerator(one, 1).sample_phase(magnitudes(1, 48, 40), keys(1), Conditions((2.0, 2.0)))
    assert sizes == [(1, 2, 48, 40), (1, 2, 24, 20)]


def test_grid_is_coarser_only_where_the_slice_is_finer():
    assert grid_size(128, 128, (3.0, 1.5)) == (128, 128)
    assert grid_size(512, 256, (0.5, 1.0)) == (171, 171)
    assert grid_size(40, 50, None) == (40, 50)
    assert grid_size(40, 50, (1.2, 1.19)) == (40, round(50 * 1.19 / 1.5))
    assert grid_size(40, 50, (0.1, 2.3), 0.0) == (40, 50)
    assert grid_size(40, 50, (1.5, 2.5), 3.0) == (20, 50)
    image = torch.polar(torch.ones(1, 30, 40), torch.ones(1, 30, 40))
    assert torch.allclose(from_grid(from_grid(image, 20, 20), 30, 40), image, atol=1e-5)
    assert float(to_grid(torch.rand(1, 30, 40), 20, 20).min()) >= 0.0


def test_a_checkpoint_is_read_as_it_was_written(saved):
    checkpoint = load_checkpoint(saved)
    torch.manual_seed(0)
    expected = ComplexUNet(TINY).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in checkpoint.network.state_dict().items())
    assert torch.equal(checkpoint.gauge.nan_to_num(), GAUGE.nan_to_num())
    assert checkpoint.card["name"] == "tiny"


def test_the_hash_covers_weights_but_not_descriptions(saved):
    before = load_checkpoint(saved).sha256
    card = saved.with_suffix(".json")
    card.write_text(card.read_text().replace("tiny", "tinier"))
    assert load_checkpoint(saved).sha256 == before
    save_checkpoint(ComplexUNet(TINY), GAUGE, {"name": "tiny"}, saved)
    assert load_checkpoint(saved).sha256 != before


@pytest.mark.parametrize("part", ["weights", "card", "sidecar"])
def test_one_wrong_bit_is_found_before_anything_is_built(saved, tmp_path, part):
    path = tmp_path / "copy.safetensors"  # under a name of its own
    data, card = bytearray(saved.read_bytes()), json.loads(saved.with_suffix(".json").read_text())
    if part == "weights":
        data[-3] ^= 1
    elif part == "card":
        card["flow"] = {"source": "uniform"} if card.get("flow") != {"source": "uniform"} else {}
    else:
        Path(f"{path}.sha256").write_text(f"{'0' * 64}  copy.safetensors\n")
    path.write_bytes(data)
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"copy\.safetensors: SHA-256 .* damaged") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    if part == "card":  # an edit that is meant
        del card["sha256"]
        path.with_suffix(".json").write_text(json.dumps(card))
        load_checkpoint(path)


def test_a_card_without_a_hash_is_of_an_earlier_version(saved):
    card = saved.with_suffix(".json")
    entries = json.loads(card.read_text())
    digest = entries.pop("sha256")
    card.write_text(json.dumps(entries))
    assert load_checkpoint(saved).sha256 == digest


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def garble(path):
    path.write_bytes(b"no tensors here")


def no_card(path):
    path.with_suffix(".json").unlink()


def other_architecture(path):
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace('"embedding": 8', '"embedding": 12'))


def other_process(path):
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace('"flow"', '"walk"'))


def unknown_field(path):
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace('"embedding"', '"depth"'))


def other_source(path):
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace("{", '{"flow": {"source": "pink"},', 1))


def flow_of_no_object(path):
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace("{", '{"flow": 3,', 1))


def endless_grid(path):
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace("{", '{"flow": {"grid_mm": 1' + "0" * 400 + "},", 1))


def other_kind(path):
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace('"network": {', '"network": {"kind": "real",'))


def nan_weights(path):
    network = ComplexUNet(TINY)
    network.head.bias.data[0] = math.nan
    save_checkpoint(network, GAUGE, {}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "not a readable safetensors"),
        (garble, "not a readable safetensors"),
        (no_card, "no such file"),
        (other_architecture, "do not fit"),
        (other_process, "process 'walk'"),
        (unknown_field, "unknown architecture"),
        (other_source, "source 'pink': expected one of narrow, scales, field"),
        (flow_of_no_object, "flow: "),
        (endless_grid, "flow: grid_mm: "),
        (other_kind, "unknown architecture .kind: found 'real'; expected 'complex'"),
        (nan_weights, "holds NaN"),
    ],
)
def test_unusable_checkpoints_are_refused_with_the_reason(saved, damage, message):
    card = saved.with_suffix(".json")
    card.write_text(re.sub(r',\s*"sha256": "[0-9a-f]{64}"', "", card.read_text()))  # an edit that is meant
    damage(saved)
    with pytest.raises(CheckpointError, match=message) as raised:
        make_generator("diffusion", saved)
    assert "tiny" in str(raised.value)


def test_unknown_generator_is_refused():
    with pytest.raises(ValueError, match="expected one of diffusion"):
        make_generator("perlin")
