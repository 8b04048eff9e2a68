"""`--noise`: its level, its covariance and its seeds; lazy and stored, checked and refused in one line."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from export_volumes import ifft2c
from scans import build_scan, write_head

from rephase.builder.options import BuildOptions
from rephase.builder.resolve import make_recipe
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError, VolumeError
from rephase.exports.export import ExportOptions, export_corpus
from rephase.scanner.noise import noise_floor

NOISE = {"coils": "8", "noise": "20", "noise_covariance": "head8", "prescan": 3000}


@pytest.fixture(scope="module")
def clean_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_head(tmp_path_factory.mktemp("clean"), (3, 72, 64))


@pytest.fixture(scope="module")
def noisy(clean_head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_scan(clean_head, tmp_path_factory.mktemp("noisy") / "c.zarr", **NOISE)


def covariance_of(samples):
    return samples @ samples.conj().T / samples.shape[1] / 2


def test_covariance_and_level_are_recovered_from_air_and_prescan(noisy: Path) -> None:
    receipt = CorpusStore.open(noisy).receipt("head")
    assert receipt is not None and not receipt["prewhitened"] and receipt["target_noise"] == "clean"
    slices = list(KSpaceSlices(noisy))
    images, targets = (np.stack([one[part] for one in slices]) for part in (0, 2))
    images = ifft2c(images)
    air = np.concatenate([one[:, target == 0] for one, target in zip(images, targets, strict=True)], axis=1)
    folder = f"{noisy}/volumes/head"
    expected = zarr.open_array(f"{folder}/noise_covariance", mode="r")[:] * receipt["noise_sigma"] ** 2
    prescan = zarr.open_array(f"{folder}/noise_scan", mode="r")[:]
    attributes = KSpaceSlices(noisy, noise=True)[1][3]
    assert np.array_equal(attributes["noise_covariance"] * receipt["noise_sigma"] ** 2, expected)
    assert np.array_equal(attributes["noise_scan"], prescan)
    for samples in (air, prescan):
        assert np.linalg.norm(covariance_of(samples) - expected) < 0.05 * np.linalg.norm(expected)
    sigma = np.sqrt(np.trace(covariance_of(air)).real / 8)
    assert np.median(targets[targets > 0]) / sigma == pytest.approx(20, rel=0.05)
    deviation = np.sqrt(np.diag(expected).real)
    likeness = np.abs(expected / deviation[:, None] / deviation)[~np.identity(8, bool)]
    assert 1.05 < deviation.max() / deviation.min() <= 1.6 and likeness.max() <= 0.36 and likeness.mean() < 0.18


def test_an_export_is_prewhitened_by_its_prescan(noisy: Path, tmp_path: Path) -> None:
    # as deepinv does: the Cholesky factor of the covariance of noise alone
    export_corpus(noisy, tmp_path / "h5", ExportOptions())
    with h5py.File(tmp_path / "h5" / "head.h5") as file:
        kspace, scan, target = file["kspace"][...], file["noise_scan"][...], file["reconstruction_rss"][...]
    factor = np.linalg.cholesky(covariance_of(scan))
    images = ifft2c(np.linalg.solve(factor, kspace.swapaxes(0, 1).reshape(8, -1)).reshape(8, *target.shape))
    white = covariance_of(images[:, target == 0])
    assert np.linalg.norm(white - np.eye(8)) < 0.06 * np.linalg.norm(np.eye(8))


def test_lazy_and_stored_noise_have_the_same_bytes_and_are_checked(
    clean_head: Path, noisy: Path, tmp_path: Path
) -> None:
    stored = build_scan(clean_head, tmp_path / "c.zarr", storage="kspace", **NOISE)
    left, right = KSpaceSlices(noisy), KSpaceSlices(stored)
    assert all(one[0].tobytes() == other[0].tobytes() for one, other in zip(left, right, strict=True))
    assert verify_corpus(noisy).problems == verify_corpus(stored).problems == []
    other = KSpaceSlices(build_scan(clean_head, tmp_path / "d.zarr", seed=1, **NOISE))
    assert not np.array_equal(left[0][0], other[0][0])


def test_a_single_coil_and_a_noisy_target(clean_head: Path, tmp_path: Path) -> None:
    root = build_scan(clean_head, tmp_path / "c.zarr", noise="20", target="noisy")
    kspace, _, target, attributes, _, _ = KSpaceSlices(root)[1]
    assert kspace.shape == (72, 64) and attributes["target_noise"] == "noisy"
    np.testing.assert_allclose(np.abs(ifft2c(kspace)), target, atol=1e-5 * attributes["max"])
    with pytest.raises(VolumeError, match=r"volume head: has no noise arrays; .* --coils and --noise"):
        KSpaceSlices(root, noise=True)[0]
    assert (target[:5] > 0).all() and verify_corpus(root).problems == []


def test_noise_of_the_source_is_not_added_twice(tmp_path: Path) -> None:
    manifest = write_head(tmp_path, (2, 72, 64), noise=20.0)
    root = build_scan(manifest, tmp_path / "c.zarr", coils="8", noise="measured")
    receipt = CorpusStore.open(root).receipt("head")
    assert receipt is not None and receipt["noise_along"] == 0
    assert receipt["noise_sigma"] * receipt["scale"] == pytest.approx(20, rel=0.1)
    kspace, _, target, attributes, _, _ = KSpaceSlices(root, maps=True)[0]
    images, maps = ifft2c(kspace), attributes["sens_maps"]
    combined = (maps.conj() * images).sum(axis=0)  # the object, as it was
    assert np.abs(np.abs(combined) - target).max() < 1e-5 * attributes["max"]
    air = images[:, :8, :8].reshape(8, -1)  # in air the source's noise and ours are that of eight coils
    assert np.sqrt(np.trace(covariance_of(air)).real / 8) == pytest.approx(receipt["noise_sigma"], rel=0.1)


def test_the_floor_of_masked_air_is_zero() -> None:
    random = np.random.default_rng(0)
    air = np.hypot(*random.normal(size=(2, 4, 64, 64))).astype(np.float32) * 7
    assert noise_floor(air) == pytest.approx(7, rel=0.05)
    air[:, :20] = air[:, -20:] = 0
    assert noise_floor(air) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"noise": "loud"},
        {"noise": "0"},
        {"target": "noisy"},
        {"prescan": 5},
        {"noise": "9", "noise_covariance": "head8"},
    ],
)
def test_a_wrong_request_is_one_line(options: dict[str, str]) -> None:
    with pytest.raises(RequestError, match="--") as caught:
        BuildOptions(phase="zero", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["negative", "size", "skew", "flat", "missing"])
def test_a_wrong_covariance_is_one_line(tmp_path: Path, kind: str) -> None:
    matrix = np.eye(4)
    if kind == "negative":
        matrix[0, 1] = matrix[1, 0] = 1.5
    if kind == "skew":
        matrix[0, 1] = 0.5
    if kind != "missing":
        np.save(tmp_path / "c.npy", np.eye(3) if kind == "size" else matrix[0] if kind == "flat" else matrix)
    options = BuildOptions(phase="zero", coils="4", noise="20", noise_covariance=str(tmp_path / "c.npy"))
    with pytest.raises(RequestError, match="--noise-covariance") as caught:
        make_recipe(options)
    assert "\n" not in str(caught.value)


def test_a_given_covariance_is_in_the_recipe(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", 3 * np.eye(4))
    recipe = make_recipe(BuildOptions(phase="zero", coils="4", noise="20", noise_covariance=str(tmp_path / "c.npy")))
    assert recipe.to_json()["noise_covariance"][1][1] == [1.0, 0.0]
    assert "noise" not in make_recipe(BuildOptions(phase="zero", noise="off")).to_json()
