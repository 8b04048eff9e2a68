"""The sampled part of k-space: exact support, closed form, and what stored, expanded and exported k-space have."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scans import build_scan, write_head

from rephase.builder.options import BuildOptions
from rephase.builder.plan import bytes_per_voxel
from rephase.builder.resolve import make_recipe
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError
from rephase.exports.export import ExportOptions, export_corpus
from rephase.ismrmrd_header import fastmri_facts
from rephase.numpy_fourier import ifft2c_array
from rephase.scanner.acquisition import PRESETS, parse_acquisition, parse_mask
from rephase.scanner.expand import CoilMaps
from rephase.scanner.masks import ColumnMask, seed_of
from rephase.scanner.sampling import Sampling, sampled_kspace

SHAPE = (2, 48, 40)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_head(tmp_path_factory.mktemp("head"), SHAPE)


@pytest.fixture(scope="module")
def full(head: Path, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.complex64]:
    root = build_scan(head, tmp_path_factory.mktemp("full") / "c.zarr", coils="brain4", storage="kspace")
    return KSpaceSlices(root)[0][0]


def ellipse(row: NDArray[np.float64], column: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Return the Fourier transform of an ellipse with soft rims, at frequencies in cycles per pixel."""
    half, centre, rim = (15.0, 11.0), (2.5, -3.25), 1.6
    radius = torch.from_numpy(2 * math.pi * np.hypot(half[0] * row[:, None], half[1] * column))
    disc = torch.where(radius > 0, 2 * torch.special.bessel_j1(radius) / radius.clamp_min(1e-12), 1.0).numpy()
    soft = np.exp(-2 * (math.pi * rim) ** 2 * (row[:, None] ** 2 + column**2))
    wave = np.exp(-2j * math.pi * (centre[0] * row[:, None] + centre[1] * column))
    return np.asarray(math.pi * half[0] * half[1] * disc * soft * wave)


def frequencies(size: int) -> NDArray[np.float64]:
    return (np.arange(size) - size // 2) / size


def test_kspace_of_an_ellipse_with_known_coils_is_the_closed_form() -> None:
    height, width = 64, 56
    image = ifft2c_array(ellipse(frequencies(height), frequencies(width)) / math.sqrt(height * width))
    # waves with a constant sum of squares are the maps themselves, and move k-space
    orders = [(0, 0, 0.3 + 0.4j), (1, -2, 0.5), (-2, 1, -0.6j), (2, 2, 0.2 - 0.3j)]
    coefficients = np.zeros((len(orders), 5, 5, 5), np.complex64)
    for coil, (row, column, factor) in enumerate(orders):
        coefficients[coil, 2, 2 + row, 2 + column] = factor
    sampling = Sampling.of(parse_acquisition("oversampling=2,partial-fourier=6/8"), height, width)
    maps = CoilMaps(coefficients, 1, height, width)
    kspace = sampled_kspace(image.astype(np.complex64), 0, maps, None, sampling)
    total = math.sqrt(sum(abs(factor) ** 2 for *_, factor in orders))
    for (row, column, factor), found in zip(orders, kspace, strict=True):
        moved = frequencies(2 * height) - row / (1.5 * height), frequencies(width) - column / (1.5 * width)
        expected = factor / total * ellipse(*moved) / math.sqrt(2 * height * width)
        expected[~sampling.support] = 0
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("storage", ["kspace", "image+maps"])
def test_partial_fourier_keeps_the_rest_bit_for_bit(
    head: Path, full: NDArray[np.complex64], tmp_path: Path, storage: str
) -> None:
    settings = "asymmetric-echo=7/8,partial-fourier=6/8,phase-resolution=0.8,elliptical=1"
    root = build_scan(head, tmp_path / "c.zarr", coils="brain4", storage=storage, acquisition=settings)
    kspace, mask, target, attributes, *_ = KSpaceSlices(root)[0]
    # 32 of 40 columns, of which the first 8 are not acquired; the first 6 of 48 readout points
    assert (attributes["padding_left"], attributes["padding_right"], attributes["readout_start"]) == (12, 36, 6)
    rows, columns = (np.arange(48) - 24) / 24, (np.arange(40) - 20) / 16
    support = rows[:, None] ** 2 + columns**2 <= 1
    support[:6] = support[:, :12] = support[:, 36:] = False
    expected = np.where(support, full, 0)
    assert kspace.tobytes() == expected.tobytes()  # also the signs of zeros
    assert mask.all() and target.shape == SHAPE[1:]
    assert not verify_corpus(str(root)).problems


@pytest.mark.parametrize("coils", [None, "brain4"])
def test_an_oversampled_readout_keeps_image_and_energy(head: Path, tmp_path: Path, coils: str | None) -> None:
    root = build_scan(head, tmp_path / "c.zarr", coils=coils, acquisition="oversampling=2")
    kspace, _, target, attributes, *_ = KSpaceSlices(root)[1]
    assert kspace.shape[-2:] == (96, 40) and attributes["recon_size"] == (48, 40, 1)
    images = np.abs(ifft2c_array(kspace))
    image = np.sqrt(np.square(images).reshape(-1, 96, 40).sum(axis=0))
    assert np.abs(image[24:72] - target).max() < 1e-5 * target.max() and image[:24].max() < 1e-5 * target.max()
    assert np.square(np.abs(kspace, dtype=np.float64)).sum() == pytest.approx(np.square(target).sum(), rel=1e-5)
    assert not verify_corpus(str(root)).problems


def test_all_at_once_is_equal_stored_and_expanded_and_as_fastmri_reads_it(head: Path, tmp_path: Path) -> None:
    options = {"coils": "brain4", "noise": "20", "acquisition": "fastmri-knee", "mask": "equispaced:4"}
    manifest = head.with_name("test.csv")
    manifest.write_text(head.read_text().replace(",train,", ",test,"))
    roots = [
        build_scan(manifest, tmp_path / f"{form}.zarr", storage=form, **options) for form in ("kspace", "image+maps")
    ]
    stored, lazy = (KSpaceSlices(root)[1] for root in roots)
    assert stored[0].shape == (4, 96, 40) and stored[0].tobytes() == lazy[0].tobytes()
    expected = ColumnMask("equispaced", (4,), (0.08,))(40, seed_of("head.h5"))
    expected[:2] = expected[37:] = 0  # 35 of 40 columns are acquired
    np.testing.assert_array_equal(stored[1], expected)
    assert not stored[0][..., expected == 0].any() and np.signbit(stored[0][..., expected == 0].real).sum() == 0
    for root in roots:
        assert not verify_corpus(str(root)).problems
        export_corpus(root, tmp_path / f"{root.name}-h5", ExportOptions())
    with h5py.File(tmp_path / f"{roots[1].name}-h5" / "head.h5") as file:
        facts = fastmri_facts(file["ismrmrd_header"][()], file.attrs["acquisition"])
        assert (facts.encoding_size, facts.recon_size, facts.padding) == ((96, 40, 1), (48, 40, 1), (3, 38))
        assert file["kspace"][1].tobytes() == lazy[0].tobytes()
        assert file.attrs["num_low_frequency"] >= 3 and 2 <= file.attrs["acceleration"] <= 4


def test_training_rows_stay_fully_sampled(head: Path, tmp_path: Path) -> None:
    root = build_scan(head, tmp_path / "c.zarr", mask="random:8")
    receipt = CorpusStore.open(str(root)).receipt("head")
    assert receipt is not None and "mask" not in receipt["arrays"]


@pytest.mark.parametrize(
    ("option", "text", "expected"),
    [
        ("acquisition", "partial-fourier=0.4", "--acquisition partial-fourier 0.4: expected a part from 0.5 to 1"),
        ("acquisition", "partial-fourier=1/0", "partial-fourier 1/0: expected"),
        ("acquisition", "oversampling=1.5", "expected a whole number"),
        ("acquisition", "epi", "'epi': expected full, fastmri-brain"),
        ("mask", "poisson:4", "expected KIND:R"),
        ("mask", "equispaced:4:0.5", "alone exceeds"),
    ],
)
def test_a_wrong_value_is_one_line(option: str, text: str, expected: str) -> None:
    with pytest.raises(RequestError) as raised:
        BuildOptions(**{option: text})  # type: ignore[arg-type]
    assert expected in str(raised.value) and "\n" not in str(raised.value)


def test_settings_in_recipes_are_resolved_and_full_changes_no_hash() -> None:
    plain = make_recipe(BuildOptions(phase="zero"))
    assert make_recipe(BuildOptions(phase="zero", acquisition="full")).hash == plain.hash
    knee = make_recipe(BuildOptions(phase="zero", acquisition="fastmri-knee"))
    assert knee.acquisition == "oversampling=2,phase-resolution=0.875"
    assert make_recipe(BuildOptions(phase="zero", acquisition=knee.acquisition)).hash == knee.hash
    assert bytes_per_voxel(knee) > 1.5 * bytes_per_voxel(plain)
    assert parse_mask("random:8").text == "random:8:0.04"
    assert all(parse_acquisition(one.acquisition.text or "full") == one.acquisition for one in PRESETS.values())
