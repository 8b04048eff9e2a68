import dataclasses

import numpy as np
import pytest
import torch

from rephase.evaluation.classifier import (
    ALL,
    CONTROLS,
    Ranking,
    classify,
    halve,
    num_trainings,
    rank,
    separation,
)
from rephase.evaluation.config import ClassifierConfig, ClassifierLimits, IntervalConfig
from rephase.evaluation.discriminator import LocalFeatures, train_network
from rephase.evaluation.patches import Item, batch_of, make_items, sample_patch
from rephase.evaluation.run import classifier_groups
from rephase.evaluation.sessions import divide_groups, read_real
from rephase.evaluation.statistics import PhaseVolume
from rephase.manifests.parse import read_manifest

SMALL = ClassifierConfig(patch=32, channels=(8, 16), steps=30, batch=16, null_draws=1, patches=2)
INTERVAL = IntervalConfig(draws=200)


def items(kind: str, count: int = 16, family: str = "", seed: int = 3) -> list[Item]:
    """Slices of a smooth phase with the noise of a measurement ("real"), and of controls."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    found = []
    for index in range(count):
        a, b, c = random.normal(size=3)
        bend = 3 * (a * x * x + b * y * y + c * x * y)
        white = random.uniform(-np.pi, np.pi, x.shape)
        phase = {"real": bend + 0.1 * white, "smooth": bend, "zero": 0 * bend, "white": white}[kind]
        magnitude = np.clip(1.2 - x * x - y * y, 0, None)
        found.append(Item((magnitude * np.exp(1j * phase)).astype(np.complex64), f"g{index % 4}", family))
    return found


def test_the_controls_are_separated_from_real_phase_and_itself_is_not():
    wide = dataclasses.replace(SMALL, limits=ClassifierLimits(null=0.35))
    others = [*((name, items(name)) for name in CONTROLS), ("same", items("real"))]
    (found,) = classify(items("real"), others, wide, INTERVAL)
    assert found.family == ALL and (found.slices, found.groups) == (16, 4)
    assert found.measurable, found.reason
    by_name = {one.generator: one for one in found.separations}
    for name in CONTROLS:
        assert by_name[name].auroc >= 0.99 and by_name[name].verdict == "missed"
    assert by_name["same"].auroc == pytest.approx(0.5) and by_name["same"].distance == pytest.approx(0.0)


def test_a_classifier_without_a_budget_does_not_count():
    lazy = dataclasses.replace(SMALL, steps=1)
    (found,) = classify(items("real"), [(name, items("real")) for name in CONTROLS], lazy, INTERVAL)
    assert not found.measurable and all(f"{name} against real phase 0.500" in found.reason for name in CONTROLS)


def test_families_have_their_own_figures():
    def mixed(kind):
        return items(kind, 8, "gradient-echo") + items(kind, 8, "spin-echo", 5) + items("real", 1, "bssfp")

    quick = dataclasses.replace(SMALL, steps=1)
    found = classify(mixed("real"), [(name, mixed(name)) for name in CONTROLS], quick, INTERVAL)
    assert [one.family for one in found] == [ALL, "gradient-echo", "spin-echo", "bssfp"]
    assert [one.slices for one in found] == [17, 8, 8, 1] and found[3].groups == 1
    assert "one session or volume" in found[3].reason


def test_one_group_is_not_measurable():
    one = [dataclasses.replace(item, group="g") for item in items("real")]
    (found,) = classify(one, [(name, one) for name in CONTROLS], SMALL, INTERVAL)
    assert not found.measurable and "fewer than two" in found.reason


def test_a_slice_of_each_of_two_groups_is_not_measurable_and_no_error():
    two = items("real", 2)
    (found,) = classify(two, [(name, two) for name in CONTROLS], dataclasses.replace(SMALL, steps=1), INTERVAL)
    assert not found.measurable and "real against real phase nan" in found.reason


def test_progress_is_reported_for_every_training():
    calls = []
    quick = dataclasses.replace(SMALL, steps=1)
    others = [(name, items(name, 8)) for name in CONTROLS]
    classify(items("real", 8), others, quick, INTERVAL, progress=lambda: calls.append(1))
    assert len(calls) == num_trainings(3, quick)


def ranked(real, generated, groups=("a", "b")):
    """Rank scores given as (group, score)."""
    parts = [[Item(np.ones((1, 1), np.complex64), group) for group, _ in part] for part in (real, generated)]
    return rank(parts, [np.array([score for _, score in part]) for part in (real, generated)], groups)


def test_auroc_is_the_share_of_pairs_in_order():
    assert ranked([("a", 0.0), ("b", 1.0)], [("a", 2.0), ("b", 3.0)]).auroc == 1.0
    assert ranked([("a", 2.0), ("b", 3.0)], [("a", 0.0), ("b", 1.0)]).auroc == 0.0
    mixed = ranked([("a", 0.0), ("b", 2.0)], [("a", 1.0), ("b", 2.0)])
    assert mixed.auroc == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    folds = mixed + ranked([("a", 0.0)], [("b", 1.0)])
    assert folds.auroc == pytest.approx((2.5 + 1) / 5)
    assert np.isnan(Ranking(("a",), np.zeros((1, 1)), np.zeros((1, 1))).auroc)


def test_the_interval_of_the_auroc_is_over_groups():
    """Of four groups, one is told and three are not: the interval is wide however many slices each has."""
    names = ("a", "b", "c", "d")
    random = np.random.default_rng(0)

    def slices(count, shift):
        return [(name, random.normal() + (shift if name == "a" else 0.0)) for name in names for _ in range(count)]

    wide = ranked(slices(60, 0.0), slices(60, 8.0), names)
    low, high = wide.interval(IntervalConfig())
    assert low < 0.55 < wide.auroc < 0.75 < high
    assert wide.interval(IntervalConfig(groups=5)) == (None, None)


def test_below_chance_is_as_far_as_above_and_a_wide_interval_decides_nothing():
    names = tuple("abcdefgh")
    random = np.random.default_rng(0)

    def one(shift):
        generated = [(name, random.normal() + shift) for name in names for _ in range(40)]
        real = [(name, random.normal()) for name in names for _ in range(40)]
        return separation("x", ranked(real, generated, names), 0.16, IntervalConfig())

    below, above, none = one(-3.0), one(3.0), one(0.0)
    assert below.auroc < 0.1 and below.verdict == above.verdict == "missed"
    assert below.distance == pytest.approx(above.distance, abs=0.02) and 0.4 < below.distance_low < below.distance_high
    assert none.verdict == "met" and none.distance_high < 0.16
    few = separation("x", ranked([("a", 0.0)], [("b", 0.0)]), 0.16, IntervalConfig())
    assert few.verdict == "undecided" and few.distance_low is None


def test_local_features_are_the_differences_of_neighbours():
    phase = torch.zeros(1, 6, 6)
    phase[0] = 0.3 * torch.arange(6)[:, None] - 0.2 * torch.arange(6)
    image = torch.polar(torch.full_like(phase, 2.0), phase)
    features = LocalFeatures()(torch.stack((image.real, image.imag), dim=1))
    assert features.shape == (1, 7, 6, 6) and features[0, 2].allclose(torch.tensor(2.0))
    for first, expected, part in ((3, 0.3, features[0, :, :-1]), (5, -0.2, features[0, :, :, :-1])):
        assert torch.complex(part[first], part[first + 1]).angle().allclose(torch.tensor(expected))
        assert part[first : first + 2].norm(dim=0).allclose(torch.tensor(2.0), atol=1e-4)
    assert not features[0, 3:5, -1].any() and not features[0, 5:, :, -1].any()


def test_dark_pixels_have_finite_gradients():
    image = torch.zeros(1, 2, 8, 8, requires_grad=True)
    LocalFeatures()(image).sum().backward()
    assert torch.isfinite(image.grad).all()


def test_equal_seeds_train_equal_networks():
    quick = dataclasses.replace(SMALL, steps=2)
    one, other = (train_network(items("real"), items("zero"), quick, 1, "cpu") for _ in range(2))
    assert all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_folds_share_no_group_and_are_about_equal():
    first, second = divide_groups(["a"] * 10 + ["b"] * 6 + ["c"] * 5, 2)
    assert first == {"a"} and second == {"b", "c"}
    assert divide_groups(["a"] * 3, 2) == [{"a"}, set()]


def test_every_kind_is_in_both_folds_where_it_can_be():
    members = [(group, "gradient-echo") for group in "abcdef" for _ in range(20)]
    members += [("e", "spin-echo")] * 4 + [("f", "spin-echo")] * 4 + [("a", "bssfp"), ("b", "bssfp")]
    folds = divide_groups([group for group, _ in members], 2, [kind for _, kind in members])
    for kind in ("gradient-echo", "spin-echo", "bssfp"):
        counts = [sum(one == kind and group in fold for group, one in members) for fold in folds]
        assert counts[0] == counts[1], kind


def test_halves_of_odd_groups_are_equal():
    one, other = halve(items("real", 4), 0)
    assert len(one) == len(other) == 2


def test_halves_hold_every_slice_once_and_divide_every_group():
    one, other = halve(items("real"), 0)
    assert len(one) == len(other) == 8 and not {id(i) for i in one} & {id(i) for i in other}
    assert {i.group for i in one} == {i.group for i in other}


def test_patches_hold_the_object_alone_with_rounded_phase():
    support = np.zeros((1, 20, 20), bool)
    support[0, 4:16, 4:16] = True
    phasor = np.exp(1j * np.random.default_rng(0).uniform(-np.pi, np.pi, (1, 20, 20))).astype(np.complex64)
    one = PhaseVolume(phasor, np.full((1, 20, 20), 7.0, np.float32), support, (1, 1, 1), (0,))
    (item,) = make_items([one], ["g"], ["bssfp"], 8)
    assert not item.image[~support[0]].any()
    np.testing.assert_allclose(np.abs(item.image[support[0]]), 1.0, atol=1e-6)
    steps = np.angle(item.image[support[0]]) / (2 * np.pi / 8)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)


def test_patches_of_small_slices_are_filled_up_and_follow_the_generator():
    item = Item(np.ones((5, 70), np.complex64), "g")
    patch = sample_patch(item, 32, np.random.default_rng(0))
    assert patch.shape == (32, 32) and (np.abs(patch) > 0).sum() == 5 * 32
    one, other = (batch_of([item] * 2, 32, np.random.default_rng(0)) for _ in range(2))
    assert one.shape == (2, 2, 32, 32) and one.equal(other)


def test_sessions_are_kept_together_and_wider_groups_can_be_named(tmp_path):
    np.save(tmp_path / "m.npy", np.ones((2, 8, 8), np.float32))
    np.save(tmp_path / "p.npy", np.ones((2, 8, 8), np.float32))
    path = tmp_path / "p.csv"
    path.write_text(
        "volume_id,path,phase,subject_id,person\na,m.npy,p.npy,s1,p\nb,m.npy,p.npy,s1,p\nc,m.npy,p.npy,s2,p\n"
    )
    plain = [read_real(row, 0) for row in read_manifest(path)]
    assert classifier_groups(plain) == ["s1", "s1", "s2"]
    assert classifier_groups(plain[:2]) == ["a", "b"]
    named = [read_real(row, 0, "person") for row in read_manifest(path, ["person"])]
    assert classifier_groups(named) == ["a", "b", "c"] and {one.group for one in named} == {"p"}
