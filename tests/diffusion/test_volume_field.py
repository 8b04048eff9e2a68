import math

import pytest
import torch

from rephase.diffusion.baselines import FieldPhase, SpinEchoPhase
from rephase.diffusion.generators import Conditions, SliceKey, WholeVolume
from rephase.diffusion.noise import Stream, anchored_normals
from rephase.diffusion.physics.field_phase import NUM_UNIFORMS, sample_field
from rephase.diffusion.physics.gauge_pool import sample_gauge
from rephase.diffusion.physics.volume_field import _dipole_field, volume_field

SHAPE = (10, 48, 40)
SPACING = (5.0, 3.0, 3.0)


def head(shape=SHAPE):
    """A ball of tissue with a ball of air in it."""
    z, y, x = (torch.arange(n) - n / 2 for n in shape)
    mm = [axis * step for axis, step in zip((z, y, x), SPACING, strict=True)]
    near = (mm[0][:, None, None] ** 2 + mm[1][:, None] ** 2 + mm[2] ** 2).sqrt()
    hole = ((mm[0][:, None, None]) ** 2 + (mm[1][:, None] + 25) ** 2 + mm[2] ** 2).sqrt()
    return ((near < 55) & (hole > 14)).float()


def conditions(te_ms=4.0, volume=None):
    return Conditions(SPACING[1:], te_ms, 3.0, SPACING[0], "gradient-echo", volume)


def keys(volume_id="v", exam=None, seed=1):
    return [SliceKey(seed, volume_id, 0, index, exam) for index in range(SHAPE[0])]


def phase(generator, known, exam=None, volume_id="v", part=slice(None)):
    return generator.sample_phase(head()[part], keys(volume_id, exam)[part], known)


@pytest.mark.parametrize("direction", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.6, 0.8)])
def test_the_field_of_a_ball_is_that_of_a_dipole(direction):
    step, size, radius = (2.0, 2.0, 2.0), (64, 64, 64), 12.0
    axes = [(torch.arange(n) - n // 2) * one for n, one in zip(size, step, strict=True)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    distance = (z**2 + y**2 + x**2).sqrt()
    field = _dipole_field(torch.sigmoid((radius - distance) / 0.8), step, direction)
    cosine = (z * direction[0] + y * direction[1] + x * direction[2]) / distance.clamp(min=1)
    expected = (radius / distance.clamp(min=1)) ** 3 / 3 * (3 * cosine**2 - 1)
    outside = (distance > 1.6 * radius) & (distance < 3 * radius)
    assert float((field - expected)[outside].square().mean()) < 0.1**2 * float(expected[outside].square().mean())


def test_the_direction_of_the_main_field_is_taken_as_given():
    sampled = sample_field(torch.full((1, NUM_UNIFORMS), 0.5))
    along = [
        volume_field(WholeVolume(head(), SPACING, direction), sampled, torch.device("cpu"))
        for direction in ((1.0, 0.0, 0.0), (0.0, 0.995, 0.0998), (0.0, 0.0, 1.0))
    ]
    assert [int(one.axis) for one in along] == [2, 0, 1]
    guessed = volume_field(WholeVolume(head(), SPACING), sampled, torch.device("cpu"))
    assert int(guessed.axis) == 1  # the sampled one, since the head ends inside the image on all sides
    assert torch.equal(guessed.ppm, along[2].ppm)
    assert not torch.allclose(along[0].ppm, along[1].ppm, atol=0.01)


def test_a_slice_does_not_depend_on_the_other_slices_of_a_call():
    volume = WholeVolume(head(), SPACING, (1.0, 0.0, 0.0))
    together = phase(FieldPhase(), conditions(volume=volume))
    alone = phase(FieldPhase(), conditions(volume=WholeVolume(head(), SPACING, (1.0, 0.0, 0.0))), part=slice(7, 8))
    assert torch.equal(together[7:8], alone)
    scaled = WholeVolume(head() * 0 + head(), SPACING, (1.0, 0.0, 0.0))
    assert torch.equal(phase(FieldPhase(), conditions(volume=scaled)), together)


def step_incoherence(phasor):
    product = phasor[1:] * phasor[:-1].conj() * (head()[1:] * head()[:-1])
    means = product.sum(dim=(1, 2), keepdim=True)
    turned = product * torch.polar(torch.ones_like(means.real), -means.angle())
    return 1.0 - float(turned.real.sum() / turned.abs().sum())


def test_the_slices_of_a_volume_continue_each_other():
    known = conditions(6.0, WholeVolume(head(), SPACING, (1.0, 0.0, 0.0)))
    whole = phase(FieldPhase(), known)
    parts = (phase(FieldPhase(), conditions(6.0), volume_id=f"v{k}", part=slice(k, k + 1)) for k in range(SHAPE[0]))
    assert step_incoherence(whole) < 0.6 * step_incoherence(torch.cat(list(parts)))


def test_volumes_of_an_exam_share_their_field_and_gauge():
    def one(te_ms, volume_id, exam):
        volume = WholeVolume(head(), SPACING, (1.0, 0.0, 0.0))
        return phase(FieldPhase(), conditions(te_ms, volume), exam, volume_id)

    inside = head() > 0
    frames = [one(4.0, name, "exam") for name in ("a", "b")]
    jump = (frames[1] * frames[0].conj())[inside].angle()
    assert float(jump.abs().median()) < 0.05  # noise alone
    other = (one(4.0, "b", None) * one(4.0, "a", None).conj())[inside].angle()
    assert float(other.abs().median()) > 0.5
    # three echoes at equal distances: equal steps between them
    first, second, third = (one(te_ms, f"e{te_ms}", "exam") for te_ms in (2.0, 4.0, 6.0))
    bend = (third * first * second.conj() ** 2)[inside].angle()
    assert float(bend.abs().median()) < 0.1
    assert not torch.equal(frames[0], one(4.0, "a", "other exam"))


def test_an_exam_shares_gauge_whatever_the_echo_time():
    pool = torch.tensor([[te, 1.5, 0.01 * te, -0.02 * te, 0.1 * te] for te in range(1, 40)])

    def of(te_ms, exam):
        return sample_gauge(pool, SliceKey(3, f"v{te_ms}", 0, 0, exam), Conditions((1.5, 1.5), te_ms))

    assert of(2.0, "e") == of(30.0, "e")
    assert of(2.0, None) != of(30.0, None)


def test_frames_of_an_exam_share_the_smooth_phase_of_a_spin_echo():
    a, b = (SpinEchoPhase().model.phase(keys(name, "e")[3], 20, 20, conditions(0.0)) for name in "ab")
    assert torch.equal(a, b)


def test_anchored_numbers_are_standard_normal_and_correlated_by_distance():
    place = [0.0, 2.0, 10.0, 50.0]
    drawn = anchored_normals([SliceKey(5, "v", 0, index) for index in range(4)], place, 20.0, Stream.SOURCE, 20_000)
    assert torch.allclose(drawn.std(dim=1), torch.ones(4), atol=0.03)
    matrix = torch.corrcoef(drawn)
    assert matrix[0, 1] == pytest.approx(math.cos(0.05 * math.pi), abs=0.02)
    assert matrix[0, 2] == pytest.approx(math.cos(0.25 * math.pi), abs=0.02)
    assert abs(float(matrix[0, 3])) < 0.03
