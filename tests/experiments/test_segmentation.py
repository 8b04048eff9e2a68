"""`rephase evaluate segmentation`: labels, networks, scores, sentences, and wrong requests from the command line."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from head_corpora import SPACING_MM, make_head_corpora
from heads import head, write_heads

from rephase.cli import main
from rephase.config import ConfigError, from_mapping, read_config
from rephase.data.kspace_slices import KSpaceSlices
from rephase.diffusion.fourier import fft2c
from rephase.errors import RequestError
from rephase.experiments.arms import parse_arm, parse_arms
from rephase.experiments.conclusions import Study, conclude
from rephase.experiments.segmentation.config import (
    METRICS,
    MODELS,
    PRESETS,
    REAL_TEST,
    ZERO_TEST,
    NetworkConfig,
    RuleConfig,
    SegmentationConfig,
    preset,
)
from rephase.experiments.segmentation.findings import findings
from rephase.experiments.segmentation.labels import LabelledSlices, has_labels, resize_labels, rule
from rephase.experiments.segmentation.networks import make_network
from rephase.experiments.segmentation.training import (
    Segmentation,
    Volume,
    _score,
    dice_by_threshold,
    label_problems,
    read_volumes,
)
from rephase.experiments.settings import StatisticsConfig
from rephase.experiments.slices import resize
from rephase.experiments.store import Job, Result, Score
from rephase.experiments.subjects import read_rows
from rephase.metrics import dice
from rephase.numpy_fourier import fft2c_array, ifft2c_array

pytest.importorskip("skimage")

SIZE = 32
RULE = RuleConfig(smooth_mm=1.0, bridge_mm=6.0)
SMALL = NetworkConfig(channels=4, levels=2, complex_channels=2, kernel=3)


def settings(**changes):
    values = {
        "arms": ["zero"], "comparisons": [], "data": {"matrix": [SIZE, SIZE]}, "rule": {"bridge_mm": 6.0},
        "training": {"batch": 2, "warmup": 1},
        "network": {"channels": 4, "levels": 2, "complex_channels": 2, "kernel": 3},
    }  # fmt: skip
    return from_mapping(values | changes, SegmentationConfig)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    return make_head_corpora(tmp_path_factory.mktemp("heads"), ["zero"], 2, 2, SIZE)


def test_the_rule_finds_the_brain_without_scalp_and_bridge():
    magnitude, _, brain = head(np.random.default_rng(1), size=64)
    found = rule(magnitude, SPACING_MM, RULE)
    assert dice(brain, found) > 0.95
    assert not found[-1].any()  # a slice of scalp alone
    assert dice(brain, magnitude > 30) < 0.8  # a threshold keeps the scalp


def test_the_rule_knows_empty_and_thin_volumes():
    assert not rule(np.zeros((2, 8, 8), np.float32), SPACING_MM, RULE).any()
    thin = np.zeros((2, 16, 16), np.float32)
    thin[:, 7:9, 2:14] = 1  # narrower than a bridge: the largest part is kept as it is
    assert rule(thin, SPACING_MM, RULE).any()


def test_all_rows_have_a_segmentation_or_none(tmp_path):
    path = write_heads(tmp_path, 2, 2, size=16)
    assert has_labels(read_rows(path, "train", "test"))
    path.write_text(path.read_text().replace(",s1.npy", ","))
    with pytest.raises(RequestError, match=r"1 of 4 rows have no segmentation \(v1\)") as caught:
        has_labels(read_rows(path, "train", "test"))
    assert "\n" not in str(caught.value)
    path.write_text("\n".join(line.rpartition(",")[0] for line in path.read_text().splitlines()))
    assert not has_labels(read_rows(path, "train", "test"))


@pytest.mark.parametrize(("shape", "matrix"), [((32, 32), (16, 24)), ((20, 33), (24, 24)), ((15, 24), (16, 16))])
def test_labels_move_with_the_image(shape, matrix):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = ((y - shape[0] * 0.4) / shape[0]) ** 2 + ((x - shape[1] * 0.55) / shape[1]) ** 2 < 0.05
    image = labels + 0.01 * rng.standard_normal(shape)
    expected = np.abs(ifft2c_array(resize(fft2c_array(image.astype(np.complex64)), matrix))) > 0.5
    found = resize_labels(labels, shape, matrix)
    assert found.shape == matrix
    assert dice(expected, found) > 0.93


def test_labels_of_a_target_smaller_than_its_kspace_are_in_its_middle():
    found = resize_labels(np.ones((8, 6), bool), (8, 12), (8, 12))
    assert found.sum() == 48
    assert found[:, 3:9].all()


def test_slices_with_labels_and_spacing_of_the_matrix(corpora):
    slices = LabelledSlices(KSpaceSlices(corpora.train["real"], segmentation=True), (16, 48), None)
    volume = read_volumes(slices)[0]
    assert volume.spacing_mm == pytest.approx((5.0, 6.0, 3.0))  # cropped k-space has larger pixels, padding keeps them
    assert volume.kspace.shape == volume.labels.shape == (4, 16, 48)
    assert np.percentile(volume.magnitude, 99) == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(np.abs(ifft2c_array(volume.kspace.numpy())), volume.magnitude, atol=1e-4)
    inside, outside = volume.magnitude[volume.labels].mean(), volume.magnitude[~volume.labels].mean()
    assert inside > 2 * outside
    by_rule = read_volumes(LabelledSlices(KSpaceSlices(corpora.train["real"]), (SIZE, SIZE), RULE))[0]
    given = read_volumes(LabelledSlices(KSpaceSlices(corpora.train["real"], segmentation=True), (SIZE, SIZE), None))[0]
    assert dice(given.labels, by_rule.labels) > 0.85


def test_limited_volumes_are_spread_over_subjects(corpora):
    slices = LabelledSlices(KSpaceSlices(corpora.train["real"], segmentation=True), (16, 16), None)
    assert [one.name for one in read_volumes(slices, 1)] == ["train0"]
    assert [one.name for one in read_volumes(slices, 9)] == ["train0", "train1"]


def volume(labels, spacing=(5.0, 2.0, 1.0)):
    kspace = torch.zeros(labels.shape, dtype=torch.complex64)
    return Volume("v", "s", kspace, np.where(labels, 2, 1).astype(np.float32), labels, spacing)


def test_scores_count_all_slices_in_millimetres():
    labels = np.zeros((2, 8, 8), bool)
    labels[0, 2:6, 2:6] = True
    found = labels.copy()
    found[1, 0, :4] = True  # false pixels in an empty slice
    scored = _score(volume(labels), found, "real")
    assert (scored.condition, scored.metrics["dice"]) == (REAL_TEST, pytest.approx(32 / 36))
    shifted = np.roll(labels, 1, axis=1)
    assert _score(volume(labels), shifted, "zero").metrics["hd95"] == pytest.approx(2.0)
    empty = _score(volume(labels), np.zeros_like(labels), "real").metrics
    assert empty == {"dice": 0.0, "hd95": pytest.approx(math.hypot(10, 16, 8))}
    assert _score(volume(np.zeros_like(labels)), np.zeros_like(labels), "real").metrics == {"dice": 1.0, "hd95": 0.0}


def test_dice_of_every_threshold_is_that_of_the_metric():
    random = np.random.default_rng(0)
    labels, found = random.random((2, 9, 9)) > 0.6, random.random((2, 9, 9)).astype(np.float32)
    curve = dice_by_threshold(found, labels)
    for place, threshold in enumerate(np.linspace(0.02, 0.98, 49)):
        assert curve[place] == pytest.approx(dice(labels, found > threshold))
    assert dice_by_threshold(np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 4), bool)).tolist() == [1.0] * 49


def test_labels_that_can_hardly_be_those_of_a_volume_are_told():
    labels = np.zeros((1, 4, 4), bool)
    labels[0, 1:3, 1:3] = True
    right, wrong = volume(labels), volume(labels)
    wrong.magnitude[:] = np.where(labels, 1, 2)
    found = label_problems([right, wrong, volume(np.zeros_like(labels)), volume(np.ones_like(labels))])
    assert [text.partition(": ")[2].partition(";")[0] for text in found] == [
        "the labelled pixels are no brighter than the others",
        "no pixel is labelled",
        "every pixel is labelled",
    ]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("magnitude_only", [False, True])
def test_networks_see_phase_only_if_they_may(model, magnitude_only):
    torch.manual_seed(0)
    network = make_network(model, SMALL, magnitude_only)
    for value in network.parameters():
        value.data += 0.1 * torch.randn_like(value)
    image = torch.rand(2, 16, 24) * torch.exp(1j * torch.rand(2, 16, 24))
    first, second = (network(fft2c(one)) for one in (image, image.abs().to(torch.complex64)))
    assert first.shape == (2, 16, 24)
    assert (first >= 0).all()
    assert torch.allclose(first, second, atol=1e-4) == magnitude_only
    labels = (image.abs() > 0.5).float()
    loss = network.loss(fft2c(image), labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(value.grad).all() for value in network.parameters())


def test_the_complex_convolution_is_complex():
    torch.manual_seed(0)
    from rephase.experiments.segmentation.networks import ComplexConvolution

    layer = ComplexConvolution(2, 3, 3)
    values = torch.randn(1, 2, 6, 7, dtype=torch.complex64)
    real, imaginary = layer(values.real, values.imag)
    weight = torch.complex(layer.real, layer.imaginary)
    expected = torch.nn.functional.conv2d(values, weight, padding=1)
    torch.testing.assert_close(torch.complex(real, imaginary), expected, rtol=1e-4, atol=1e-5)


def test_a_job_is_scored_and_repeats(corpora, tmp_path):
    experiment = Segmentation(settings(), corpora, "cpu", labelled=True)
    job = Job(parse_arm("zero"), "image", 0, 2)
    first, second = (experiment.run(job, tmp_path / "w.safetensors", None) for _ in range(2))
    assert first.scores == second.scores
    assert {one.condition for one in first.scores} == {REAL_TEST, ZERO_TEST}
    assert {one.volume for one in first.scores} == {"test0", "test1"}
    assert all(0 <= one.metrics["dice"] <= 1 and math.isfinite(one.metrics["hd95"]) for one in first.scores)
    assert 0 < first.facts["threshold"] < 1
    assert first.pictures["test0"].shape == (SIZE, SIZE)
    tuned = experiment.run(
        Job(parse_arm("pretrain:zero>real@50"), "image", 0, 1, job), tmp_path / "t", tmp_path / "w.safetensors"
    )
    assert tuned.facts["updates"] == 3
    assert tuned.facts["subjects"] == 1
    mixed = experiment.run(Job(parse_arm("real@50+zero"), "kspace", 0, 1), tmp_path / "m", None)
    assert mixed.facts["subjects"] == 2  # the same people, with real and with zero phase
    assert set(experiment.thresholded().pictures) == {"test0", "test1", "truth test0", "truth test1"}


def outcome_of(values, subjects=5):
    """Return the conclusions from a Dice for each arm, the subjects a hundredth apart."""
    statistics = StatisticsConfig(draws=200)
    study = Study("segmentation", METRICS, (REAL_TEST,), (), "otsu", (), statistics, must_beat_untrained=False)

    def result(value):
        scores = [
            Score(f"v{n}", f"s{n}", REAL_TEST, {"dice": value + 0.01 * (n - 2), "hd95": 1.0}) for n in range(subjects)
        ]
        return Result(scores, [(1, 1.0)], {})

    results = {
        Job(parse_arm(label), "image", seed, 1): result(value) for label, value in values.items() for seed in (0, 1)
    }
    return conclude(study, results, result(0.7), settings={}, leaks=[], notes=[], skipped=False)


USUAL = {"zero": 0.2, "angle": 0.78, "smooth": 0.9, "diffusion": 0.905, "real": 0.91, "magnitude-only": 0.94}


def test_the_sentences_say_what_is_separated_and_what_is_not():
    text = "\n".join(findings(outcome_of(USUAL), "drawn"))
    assert "Labels: drawn." in text
    assert "separates any spread of phase in training from none" in text
    assert "the lowest: angle 0.78" in text
    assert "cannot rank smooth, diffusion: all of their intervals overlap" in text
    assert "magnitude-only, a network that is given no phase at all, has 0.94" in text
    assert "smooth, a random polynomial" in text
    assert "otsu" not in text
    apart = "\n".join(findings(outcome_of(USUAL | {"smooth": 0.6}), "drawn"))
    assert "the intervals separate only smooth and diffusion" in apart
    few = "\n".join(findings(outcome_of(USUAL, subjects=4), "drawn"))
    assert "cannot rank smooth, diffusion: there are too few test subjects" in few
    assert "every other phase above zero" in few
    assert "separates" not in few
    worse = "\n".join(findings(outcome_of(USUAL | {"smooth": 0.1}), "drawn"))
    assert "; smooth no better than zero phase" in worse
    assert "separates any" not in worse


def test_a_difference_from_zero_whose_interval_contains_0_is_no_separation():
    outcome = outcome_of(USUAL | {"angle": 0.25})
    ahead = iter((0.3, -0.2, 0.3, -0.2, 0.1) * 2)  # the mean is above 0
    scores = [
        one | {"metrics": one["metrics"] | {"dice": 0.2 + next(ahead)}} if one["arm"] == "angle" else one
        for one in outcome.scores
    ]
    text = "\n".join(findings(replace(outcome, scores=scores), "drawn"))
    assert "angle above zero phase, but the interval of the difference contains 0" in text
    assert "separates any" not in text


def test_nothing_is_concluded_where_real_is_no_better_than_zero():
    text = "\n".join(findings(outcome_of(USUAL | {"real": 0.1}), "drawn"))
    assert "image: not measurable" in text
    assert "rank" not in text


def test_the_presets_are_valid_and_their_comparisons_are_of_their_arms():
    for name in PRESETS:
        config = read_config(preset(name), SegmentationConfig)
        arms = {arm.label for arm in parse_arms(config.arms)}
        assert {one for comparison in config.comparisons for one in (comparison.arm, comparison.against)} <= arms


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {"matrix": [30, 32]}}, "multiples of 4"),
        ({"models": []}, "expected one or more"),
        ({"network": {"levels": 2, "kernel": 4}}, "odd"),
        (
            {
                "comparisons": [
                    {"arm": "zero", "against": "real", "metric": "ssim", "condition": REAL_TEST, "margin": 1}
                ]
            },
            "expected one of dice",
        ),
        (
            {"comparisons": [{"arm": "zero", "against": "real", "metric": "dice", "condition": "R=8", "margin": 1}]},
            "expected 'real phase'",
        ),
    ],
)
def test_a_wrong_configuration_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        settings(**change)


CONFIG = """
arms = ["zero", "real"]
comparisons = [{arm = "real", against = "zero", metric = "dice", condition = "real phase", margin = 0.02}]
seeds = 1
models = ["image"]
[data]
matrix = [16, 16]
[training]
steps = 2
batch = 2
warmup = 1
[network]
channels = 4
levels = 2
"""


def run(folder, *words):
    (folder / "c.toml").write_text(CONFIG)
    real = ["--real", str(folder / "pairs.csv"), "--config", str(folder / "c.toml"), "--workers", "1"]
    return main(["evaluate", "segmentation", *real, "-o", str(folder / "out"), *words])


def test_the_command_goes_on_without_wrong_labels(tmp_path, capsys):
    write_heads(tmp_path, 4, 5, size=16)
    np.save(tmp_path / "s0.npy", np.zeros((4, 16, 18), np.uint8))  # another matrix
    np.save(tmp_path / "s1.npy", np.full((4, 16, 16), 0.5, np.float32))  # no labels
    np.save(tmp_path / "p2.npy", np.full((4, 16, 16), np.nan, np.float32))
    assert run(tmp_path) == 1
    found = json.loads((tmp_path / "out" / "segmentation.json").read_text())
    notes = found["notes"]
    assert sum(note.startswith(("v0:", "v1:", "v2:")) for note in notes) >= 3
    assert all("\n" not in note for note in notes)
    assert any("natural: left out" in note for note in notes)
    assert found["settings"]["labels"] == "manifest"
    assert {one["arm"] for one in found["scores"]} == {"zero", "real", "angle", "magnitude-only", "otsu"}
    assert [one["comparison"]["metric"] for one in found["comparisons"]["image"]] == ["dice"]
    tables, page = ((tmp_path / "out" / f"segmentation.{suffix}").read_text() for suffix in ("md", "html"))
    for words in ("What it shows", "Can anything be measured?", "The data crime", "Dice", "HD95"):
        assert words in tables
    assert "<svg" in page
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "results").glob("*.json")}
    assert run(tmp_path) == 1  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    capsys.readouterr()


@pytest.mark.parametrize(
    ("change", "words", "expected"),
    [
        ((",test,", ",val,"), (), "no row of split 'test'; it has train, val"),
        (("p3,test", "p0,test"), (), "p0: in training and in test data"),
        ((",s1.npy", ","), (), "have no segmentation (v1)"),
        (("", ""), ("--arms", "zro"), "did you mean zero?"),
        (("", ""), ("--preset", "quick"), "--preset and --config"),
        (("p1,train", "p0,train"), ("--arms", "real@50,real"), "1 training subject"),
    ],
)
def test_wrong_requests_are_told_in_a_line(tmp_path, capsys, change, words, expected):
    path = write_heads(tmp_path, 2, 2, size=16)
    path.write_text(path.read_text().replace(*change) if change[0] else path.read_text())
    assert run(tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    with path.open(newline="") as file:
        assert len(list(csv.reader(file))) == 5
