import json
import math
import shutil

import pytest
import torch
from tiny_network import TINY

from rephase.diffusion.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from rephase.diffusion.generators import Conditions, SliceKey
from rephase.diffusion.networks.unet import ComplexUNet
from rephase.diffusion.physics.field_phase import (
    FAT_SHIFT_PPM,
    GYROMAGNETIC,
    NUM_UNIFORMS,
    fat_phasor,
    sample_field,
    sharpen_fat,
)
from rephase.diffusion.physics.gauge import find_gauge
from rephase.diffusion.physics.source import source_phasors
from rephase.diffusion.processes import fat as fat_module
from rephase.diffusion.processes.distillation import DistillationConfig, EnergyObjective
from rephase.diffusion.processes.fat import (
    FAT_ANGLE,
    FatEstimator,
    FatObjective,
    check_fat,
    fat_estimator,
    fat_facts,
    shipped_fat_estimator,
)
from rephase.diffusion.processes.flow import FlowConfig
from rephase.diffusion.processes.objective import Batch
from rephase.diffusion.registry import make_learned
from rephase.diffusion.shipped import shipped_weights
from rephase.errors import RequestError
from rephase.training.batches import TrainingSlice, TrainingSlices
from rephase.training.simulated.fat import fat_slices, incoherence, resolves_fat, separate_fat

CPU = torch.device("cpu")
GAUGE = torch.tensor([[2.0, 2.0, 0.01, 0.02, 0.3]])


def body(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A round body with two pieces of fat in it: magnitude and true share of fat `(1 size size)`."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    inside = (x**2 + y**2 < 0.8).float()
    fat = ((x - 0.3) ** 2 + y**2 < 0.06).float() + ((x + 0.35).abs() < 0.08) * (y.abs() < 0.5)
    return (inside * (1.0 + 0.3 * fat))[None], (inside * fat)[None]


def scan(te_ms: float, field_t: float, sense: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Its complex image, with a smooth phase beside that of fat, and the share of fat."""
    magnitude, fat = body()
    turn = sense * 2.0 * math.pi * FAT_SHIFT_PPM * GYROMAGNETIC * 1e-3 * field_t * te_ms
    mixture = 1.0 - fat + fat * complex(math.cos(turn), math.sin(turn))
    smooth = torch.linspace(-1.5, 1.5, magnitude.shape[-1]) ** 2
    return magnitude * mixture * torch.polar(torch.ones_like(fat), smooth.expand_as(fat)), fat


@pytest.mark.parametrize("sense", [1.0, -1.0])
def test_fat_is_found_in_an_otherwise_smooth_phase_of_either_sign(sense):
    image, fat = scan(4.0, 3.0, sense)
    share = separate_fat(image, 4.0, 3.0)
    inside = image.abs() > 0
    assert share.shape == fat.shape
    assert float((share - fat)[inside].abs().mean()) < 0.05
    assert float((share[fat > 0.5] > 0.5).float().mean()) > 0.95
    whole, true, found = (float(incoherence(image, one, 4.0, 3.0)) for one in (torch.zeros_like(fat), fat, share))
    assert max(true, found) < 0.5 * whole


def test_only_echoes_between_in_phase_and_opposed_tell_fat():
    assert resolves_fat(4.0, 3.0) and resolves_fat(1.48, 3.0) and resolves_fat(3.0, 1.5)
    assert not resolves_fat(2.3, 3.0)  # in phase
    assert not resolves_fat(1.15, 3.0) and not resolves_fat(2.3, 1.5)  # opposed
    assert not resolves_fat(30.0, 3.0) and not resolves_fat(math.nan, 3.0) and not resolves_fat(4.0, math.nan)


def test_the_sign_of_the_phase_is_found_per_session():
    (image, fat), (other, _) = scan(4.0, 3.0), scan(4.0, 3.0, -1.0)
    slices = [TrainingSlice(image[0], (3.0, 3.0), 4.0, 3.0, "a")] * 3 + [
        TrainingSlice(other[0], (3.0, 3.0), 4.0, 3.0, "b")
    ]
    last = fat_slices(slices)[-1]
    assert float((last.image.angle() / FAT_ANGLE - fat[0])[image[0].abs() > 0].abs().mean()) < 0.05


def test_noise_of_the_augmentation_does_not_change_a_label():
    image, _ = scan(4.0, 3.0)
    one = TrainingSlice(image[0], (3.0, 3.0), 4.0, 3.0, "a", labelled=True)
    for seed in range(4):
        noisy = TrainingSlices([one], 4096, seed, noisy=1.0)(0).image[0]
        plain = TrainingSlices([one], 4096, seed, noisy=0.0)(0).image[0]
        assert not torch.equal(noisy.abs(), plain.abs())
        inside = plain.abs() > 1e-3 * plain.abs().max()
        assert torch.allclose(noisy.angle()[inside], plain.angle()[inside], atol=1e-5)


def test_a_student_estimates_the_fat_of_a_slice_once_for_all_its_samples():
    magnitude, fat = body()
    seen = []

    def guess(given: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        seen.append((given.shape, known.shape))
        return fat.expand(len(given), -1, -1)

    objective = EnergyObjective(FlowConfig("tissue"), DistillationConfig(draws=3))
    objective.fat = guess
    batch = Batch(magnitude.repeat(2, 1, 1).to(torch.complex64), torch.full((2, 4), 3.0))
    tensors = objective.prepare(batch, 0.0, torch.Generator().manual_seed(0), 8)
    assert seen == [((2, 64, 64), (2, 4))] and len(tensors[0]) == 6


def test_a_tile_of_many_slices_is_sampled_as_on_a_gpu(tmp_path):
    torch.manual_seed(0)
    card = {"process": "flow", "flow": {"source": "tissue"}} | fat_facts("tissue")
    save_checkpoint(ComplexUNet(TINY), GAUGE, card, tmp_path / "w.safetensors")
    generator = make_learned(load_checkpoint(tmp_path / "w.safetensors"), 2)
    magnitude = body(32)[0].repeat(3, 1, 1)
    keys = [SliceKey(0, "v", 0, index) for index in range(3)]
    alone = generator.sample_phase(magnitude, keys, Conditions((3.0, 3.0), 4.0, 3.0, 5.0))
    generator.tile = 16
    together = generator.sample_phase(magnitude, keys, Conditions((3.0, 3.0), 4.0, 3.0, 5.0))
    assert float((alone * together.conj()).angle().abs()[magnitude > 0].quantile(0.95)) < 1e-2


def test_training_slices_encode_their_fat_fraction_as_phase():
    image, fat = scan(4.0, 3.0)
    told = TrainingSlice(image[0], (3.0, 3.0), 4.0, 3.0, "s")
    silent = TrainingSlice(image[0], (3.0, 3.0), math.nan, 3.0, "s")
    one, other = fat_slices([told, silent, TrainingSlice(image[0, :32], (3.0, 3.0), 4.0, 3.0, "s")])
    assert torch.allclose(one.image.abs(), image[0].abs(), atol=1e-5) and other.image.shape == (32, 64)
    inside = image[0].abs() > 0
    assert float((one.image.angle() / FAT_ANGLE - fat[0])[inside].abs().mean()) < 0.05
    assert (one.te_ms, one.field_t, one.spacing_mm, one.group) == (4.0, 3.0, (3.0, 3.0), "s")
    with pytest.raises(RequestError, match="field_t"):
        fat_slices([silent])


def test_the_objective_is_least_for_the_true_fraction_and_ignores_air():
    magnitude, fat = body()
    image = torch.polar(magnitude, FAT_ANGLE * fat)
    objective = FatObjective()
    share, weight, conditions = objective.prepare(
        Batch(image, torch.full((1, 4), 2.0)), 0.0, torch.Generator().manual_seed(0), 8
    )
    assert torch.allclose(share, fat, atol=1e-6)

    def error(logits: torch.Tensor) -> float:
        def network(noisy, modulus, t, known):
            return ((logits + 1.0) / 4.0)[:, None].expand(-1, 2, -1, -1)

        return float(objective.error(network, (share, weight, conditions)))

    true = 20.0 * fat - 10.0
    assert error(true) < 0.01 < error(-true)
    assert error(torch.where(magnitude > 0, true, -true)) == pytest.approx(error(true))


def test_the_shipped_estimator_returns_fractions_whatever_the_unit_of_the_magnitude():
    guess = shipped_fat_estimator(CPU)
    magnitude = body()[0] * 1000.0
    known = torch.tensor([[3.0, 3.0, 4.0, 3.0]])
    share = guess(magnitude, known)
    assert share.shape == magnitude.shape and 0.0 <= float(share.min()) < float(share.max()) <= 1.0
    assert torch.allclose(share, guess(magnitude / 4096.0, known), atol=1e-4)
    assert torch.isfinite(guess(magnitude[:, :37, :50], torch.full((1, 4), math.nan))).all()
    assert guess(torch.zeros(2, 5, 7), known.expand(2, 4)).shape == (2, 5, 7)


def test_fat_adds_its_chemical_shift_and_uncertain_fractions_follow_the_sampled_bias():
    draw = sample_field(torch.full((1, NUM_UNIFORMS), 0.5))
    known = torch.tensor([[3.0, 3.0, 4.0, 3.0]])
    share = torch.tensor([[[0.0, 1.0]]])
    phasor = fat_phasor(share, known, draw)[0, 0]
    turn = abs(2.0 * math.pi * FAT_SHIFT_PPM * GYROMAGNETIC * 1e-3 * 12.0)
    expected = min(turn % (2 * math.pi), 2 * math.pi - turn % (2 * math.pi))
    assert float(phasor[0].angle().abs()) < 1e-3
    assert float((phasor[1] * phasor[0].conj()).angle().abs()) == pytest.approx(expected, abs=1e-2)
    half = torch.tensor([0.5])
    assert float(sharpen_fat(half, torch.tensor(1.0))) > 0.9 > 0.1 > float(sharpen_fat(half, torch.tensor(-1.0)))


def test_the_tissue_source_steps_at_fat_and_needs_a_fraction():
    magnitude, fat = body()
    known = torch.tensor([3.0, 3.0, 4.0, 3.0])
    keys = [SliceKey(0, "v", 0, 0)]
    with_fat, without = (
        source_phasors(keys, magnitude, known, 5.0, "tissue", share) for share in (fat, torch.zeros_like(fat))
    )
    step = with_fat.phasor * with_fat.gauge * (without.phasor * without.gauge).conj()
    inside = magnitude[0] > 0
    assert float(step[0][inside & (fat[0] > 0.5)].angle().abs().mean()) > 1.0
    assert float(step[0][inside & (fat[0] < 0.5)].angle().abs().mean()) < 1e-3
    assert float(find_gauge(magnitude * with_fat.phasor).angle().abs().max()) < 0.05
    with pytest.raises(ValueError, match="fat fraction"):
        source_phasors(keys, magnitude, known, 5.0, "tissue")


def test_weights_of_fat_sample_no_phase_and_others_estimate_no_fat(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = ComplexUNet(TINY)
    with pytest.raises(CheckpointError, match="samples no phase"):
        make_learned(Checkpoint(network, "fat", GAUGE, "0" * 64, {}))
    save_checkpoint(network, GAUGE, {"process": "flow"}, tmp_path / "w.safetensors")
    monkeypatch.setattr(fat_module, "shipped_weights", lambda name: tmp_path / "w.safetensors")
    shipped_fat_estimator.cache_clear()
    with pytest.raises(CheckpointError, match="expected fat"):
        shipped_fat_estimator(CPU)
    monkeypatch.setattr(fat_module, "shipped_weights", lambda name: None)
    with pytest.raises(CheckpointError, match=r"fat\.safetensors"):
        shipped_fat_estimator(CPU)


def test_weights_that_were_trained_with_another_estimator_are_refused(tmp_path):
    path = shipped_weights("fat")
    assert path is not None
    other = {"process": "flow", "flow": {"source": "tissue"}, "fat": {"sha256": "0" * 64}}
    torch.manual_seed(0)
    save_checkpoint(ComplexUNet(TINY), GAUGE, other, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="expected the shipped one"):
        make_learned(load_checkpoint(tmp_path / "w.safetensors"))
    card = other | fat_facts("tissue")
    save_checkpoint(ComplexUNet(TINY), GAUGE, card, tmp_path / "w.safetensors")
    checkpoint = load_checkpoint(tmp_path / "w.safetensors")
    check_fat(checkpoint, "tissue")
    assert isinstance(fat_estimator("tissue", CPU), FatEstimator)
    save_checkpoint(ComplexUNet(TINY), GAUGE, {"flow": {"source": "tissue"}}, tmp_path / "u.safetensors")
    with pytest.raises(CheckpointError, match="expected the shipped one"):
        make_learned(load_checkpoint(tmp_path / "u.safetensors"))
    assert fat_estimator("field", CPU) is None and fat_facts("narrow") == {}
    shutil.copy(tmp_path / "w.safetensors", tmp_path / "v.safetensors")
    changed = json.loads((tmp_path / "w.json").read_text()) | {"fat": {"sha256": "1" * 64}}
    (tmp_path / "v.json").write_text(json.dumps(changed))
    assert load_checkpoint(tmp_path / "v.safetensors").sha256 != checkpoint.sha256
