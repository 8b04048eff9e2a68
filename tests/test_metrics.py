"""Metrics are those of fastMRI, scikit-image and, for segmentations, of distance transforms by SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import rephase
from rephase.errors import RequestError
from rephase.metrics import dice, hd95, nmse, psnr, ssim


def images(shape=(3, 20, 17), seed=0):
    random = np.random.default_rng(seed)
    target = random.rayleigh(1.0, shape).astype(np.float32)
    return target, target + random.normal(0, 0.2, shape).astype(np.float32)


def blob(shape, seed, spread=0.35):
    """A ball with a rough surface, not in the middle, and some pixels far away."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij"))
    centre = random.uniform(-0.2, 0.2, len(shape)).reshape(-1, *[1] * len(shape))
    mask = np.sqrt(np.square(grid - centre).sum(0)) < 0.5 + spread * random.normal(0, 0.3, shape)
    return mask | (random.random(shape) > 0.998)


@pytest.mark.parametrize("maxval", [None, 2.5])
@pytest.mark.parametrize("shape", [(3, 20, 17), (1, 7, 9), (2, 64, 40)])
def test_scores_are_those_of_fastmri(shape, maxval):
    evaluate = pytest.importorskip(
        "fastmri.evaluate", reason="the package fastmri is not installed", exc_type=ImportError
    )
    target, found = images(shape)
    assert nmse(target, found) == pytest.approx(float(evaluate.nmse(target, found)), rel=1e-5)
    assert psnr(target, found, maxval) == pytest.approx(float(evaluate.psnr(target, found, maxval)), rel=1e-6)
    expected = np.squeeze(evaluate.ssim(target, found, maxval))
    assert ssim(target, found, maxval) == pytest.approx(float(expected), rel=1e-5)


def test_scores_are_those_of_scikit_image():
    reference = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    target, found = (image.astype(np.float64) for image in images((31, 24)))
    peak = target.max()
    expected = reference.structural_similarity(target, found, data_range=peak)
    assert ssim(target, found) == pytest.approx(expected, rel=1e-10)
    assert psnr(target, found) == pytest.approx(reference.peak_signal_noise_ratio(target, found, data_range=peak))


def test_ssim_window_by_window():
    """Wang et al. 2004, equation 13, written out for every window."""
    target, found = images((12, 11))
    c1, c2 = (0.01 * target.max()) ** 2, (0.03 * target.max()) ** 2
    values = []
    for top in range(12 - 6):
        for left in range(11 - 6):
            x, y = (image[top : top + 7, left : left + 7].astype(np.float64).ravel() for image in (target, found))
            (var_x, covariance), (_, var_y) = np.cov(x, y)
            numerator = (2 * x.mean() * y.mean() + c1) * (2 * covariance + c2)
            values.append(numerator / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (var_x + var_y + c2)))
    assert ssim(target, found) == pytest.approx(np.mean(values), rel=1e-6)


def test_equal_images_and_tensors():
    target = torch.from_numpy(images()[0])
    assert (nmse(target, target), psnr(target, target)) == (0, math.inf)
    assert ssim(target, target) == pytest.approx(1, abs=1e-12)
    assert rephase.metrics.nmse(target, 0.5 * target) == pytest.approx(0.25)


SHAPES = [
    ((24, 31), (1.0, 1.0)),
    ((24, 31), (3.0, 0.7)),
    ((9, 20, 26), (5.0, 0.9, 1.1)),
    ((30, 12, 17), (1.0, 2.0, 0.5)),
]


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_distances_of_surfaces_are_those_of_scipy(shape, spacing, seed):
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")
    truth, found = blob(shape, seed), blob(shape, seed + 10)
    edges = [mask ^ ndimage.binary_erosion(mask) for mask in (truth, found)]
    distances = [ndimage.distance_transform_edt(~other, sampling=spacing)[one] for one, other in (edges, edges[::-1])]
    expected = max(np.percentile(one, 95) for one in distances)
    assert hd95(truth, found, spacing) == hd95(found, truth, spacing) == pytest.approx(expected, rel=1e-12)


def test_overlap_is_that_of_the_formula():
    truth, found = np.array([[1, 1, 0, 0]]), np.array([[0, 1, 1, 0]])
    assert dice(truth, found) == 2 * 1 / 4
    assert dice(truth, truth) == dice(truth.astype(bool), torch.from_numpy(truth)) == 1
    assert dice(truth, 1 - truth) == 0


def test_distances_of_single_pixels_and_shifted_squares():
    one, other = np.zeros((8, 9)), np.zeros((8, 9))
    one[1, 1], other[4, 5] = 1, 1
    assert hd95(one, other) == 5
    assert hd95(one, other, (2.0, 0.5)) == math.hypot(6, 2)
    square = np.zeros((30, 30), bool)
    square[5:15, 5:15] = True
    assert hd95(square, np.roll(square, 3, axis=1)) == 3
    assert hd95(square, square) == 0


def test_empty_masks():
    none, some = np.zeros((4, 4), bool), np.eye(4, dtype=bool)
    assert (dice(none, none), hd95(none, none)) == (1, 0)
    assert (dice(none, some), dice(some, none)) == (0, 0)
    assert hd95(none, some) == hd95(some, none) == math.inf


NAN = np.full((8, 8), np.nan)
ONES = np.ones((8, 8))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nmse(ONES, ONES[:7]), r"\(8, 8\), found \(7, 8\): expected equal shapes"),
        (lambda: nmse(0 * ONES, ONES), "0 everywhere"),
        (lambda: psnr(ONES, NAN), r"found: has NaN or infinity at \(0, 0\)"),
        (lambda: psnr(ONES, ONES, 0.0), "maximum 0.0: expected a number > 0"),
        (lambda: ssim(ONES, 1j * ONES), "take its magnitude"),
        (lambda: ssim(ONES[:6], ONES[:6]), "at least 7 x 7"),
        (lambda: ssim(ONES[None, None], ONES[None, None]), "expected .slice height width"),
        (lambda: dice(2 * ONES, ONES), r"truth: has 2.0 at \(0, 0\); expected a mask"),
        (lambda: dice(ONES, NAN), "found: has nan"),
        (lambda: hd95(ONES, ONES, (1.0,)), "one size > 0 for each axis"),
        (lambda: hd95(ONES, ONES, (1.0, 0.0)), "one size > 0 for each axis"),
        (lambda: hd95(ONES[0], ONES[0]), "two or three axes"),
        (lambda: dice([], []), "at least one pixel"),
    ],
)
def test_what_cannot_be_measured_is_one_line(call, message):
    with pytest.raises(RequestError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
