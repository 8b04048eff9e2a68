import dataclasses

import numpy as np
import pytest

from rephase.evaluation.classifier import (
    Item,
    auroc,
    batch_of,
    classify,
    halve,
    make_items,
    num_trainings,
    sample_patch,
)
from rephase.evaluation.config import ClassifierConfig, ClassifierLimits
from rephase.evaluation.run import classifier_groups
from rephase.evaluation.sessions import divide_groups, read_real
from rephase.evaluation.statistics import PhaseVolume
from rephase.manifests.parse import read_manifest

SMALL = ClassifierConfig(patch=32, channels=(8, 16), steps=60, batch=16, null_draws=2)


def items(kind: str, count: int = 16) -> list[Item]:
    random = np.random.default_rng(3)
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    found = []
    for index in range(count):
        a, b, c = random.normal(size=3)
        bend = 3 * (a * x * x + b * y * y + c * x * y)
        phase = {"bend": bend, "zero": 0 * bend, "white": random.uniform(-np.pi, np.pi, x.shape)}[kind]
        magnitude = np.clip(1.2 - x * x - y * y, 0, None)
        found.append(Item((magnitude * np.exp(1j * phase)).astype(np.complex64), f"g{index % 4}"))
    return found


def test_zero_and_white_phase_are_separated_from_a_bent_one_and_itself_is_not():
    wide = dataclasses.replace(SMALL, limits=ClassifierLimits(null=0.3))
    result = classify(
        items("bend"), [("zero", items("zero")), ("white", items("white")), ("same", items("bend"))], wide
    )
    assert result.measurable, result.reason
    assert result.auroc["zero"] > 0.95 and result.auroc["white"] > 0.95 and result.auroc["same"] == pytest.approx(0.5)


def test_a_classifier_without_a_budget_does_not_count():
    lazy = dataclasses.replace(SMALL, steps=1, null_draws=1)
    result = classify(items("bend"), [("zero", items("bend")), ("white", items("bend"))], lazy)
    assert not result.measurable and "zero" in result.reason and "0.500" in result.reason


def test_one_group_is_not_measurable():
    one = [dataclasses.replace(item, group="g") for item in items("bend")]
    result = classify(one, [("zero", one), ("white", one)], SMALL)
    assert not result.measurable and "fewer than two" in result.reason


def test_progress_is_reported_for_every_training():
    calls = []
    quick = dataclasses.replace(SMALL, steps=1)
    classify(
        items("bend", 8),
        [("zero", items("zero", 8)), ("white", items("white", 8))],
        quick,
        progress=lambda: calls.append(1),
    )
    assert len(calls) == num_trainings(2, quick)


def test_auroc_is_the_share_of_pairs_in_order():
    assert auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 0.0
    assert auroc(np.array([0.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx((1 + 0 + 1 + 0.5) / 4)


def test_folds_share_no_group_and_are_about_equal():
    first, second = divide_groups(["a"] * 10 + ["b"] * 6 + ["c"] * 5, 2)
    assert first == {"a"} and second == {"b", "c"}
    assert divide_groups(["a"] * 3, 2) == [{"a"}, set()]


def test_halves_hold_every_slice_once_and_divide_every_group():
    one, other = halve(items("bend"), 0)
    assert len(one) == len(other) == 8 and not {id(i) for i in one} & {id(i) for i in other}
    assert {i.group for i in one} == {i.group for i in other}


def test_patches_hold_the_object_alone_with_rounded_phase():
    support = np.zeros((1, 20, 20), bool)
    support[0, 4:16, 4:16] = True
    phasor = np.exp(1j * np.random.default_rng(0).uniform(-np.pi, np.pi, (1, 20, 20))).astype(np.complex64)
    one = PhaseVolume(phasor, np.full((1, 20, 20), 7.0, np.float32), support, (1, 1, 1), (0,))
    (item,) = make_items([one], ["g"], 8)
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
