"""What a build does with a zero-filled source: a flag, the acquired k-space again, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from scans import build_outcome, build_scan
from volumes import write_manifest

from rephase.builder.options import BuildOptions
from rephase.builder.plan import make_plan
from rephase.cli import main
from rephase.corpus.store import CorpusStore
from rephase.corpus.verify import verify_corpus
from rephase.data.kspace_slices import KSpaceSlices
from rephase.errors import RequestError
from rephase.manifests.parse import read_manifest
from rephase.numpy_fourier import ifft2c_array
from rephase.pipeline.cropping import central, crop_volume
from rephase.readers.registry import read_volume
from rephase.reports.facts import gather_facts

ACQUIRED, STORED = (64, 60), (96, 88)


def measured_kspace(seed: int = 0) -> NDArray[np.complex64]:
    """Return noisy k-space of ellipses with smooth phase, `(3 height width)`, of the acquired matrix."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : 1j * ACQUIRED[0], -1 : 1 : 1j * ACQUIRED[1]]
    image = np.zeros((3, *ACQUIRED), complex)
    for part in image:
        part += 400 * ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1)
        for _ in range(8):
            part += random.uniform(50, 300) * (((y - random.uniform(-0.4, 0.4)) / 0.2) ** 2 + (x / 0.3) ** 2 < 1)
    image *= np.exp(2j * (x**2 + y))
    image += 5 * (random.normal(size=image.shape) + 1j * random.normal(size=image.shape))
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(1, 2)), norm="ortho"), axes=(1, 2))
    return kspace.astype(np.complex64)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a zero-filled complex volume; return its manifest."""
    folder = tmp_path_factory.mktemp("zero-filled")
    filled = np.zeros((3, *STORED), np.complex64)
    top, left = (stored // 2 - acquired // 2 for stored, acquired in zip(STORED, ACQUIRED, strict=True))
    filled[:, top : top + ACQUIRED[0], left : left + ACQUIRED[1]] = measured_kspace()
    image = ifft2c_array(filled)
    np.save(folder / "m.npy", np.abs(image).astype(np.float32))
    np.save(folder / "p.npy", np.angle(image).astype(np.float32))
    return write_manifest(folder / "m.csv", ["a,m.npy,p.npy"], "volume_id,path,phase")


def receipt_of(root: Path) -> dict[str, Any]:
    receipt = CorpusStore.open(str(root)).receipt("a")
    assert receipt is not None
    return receipt


def test_cropping_gives_the_acquired_kspace_back(source: Path, tmp_path: Path) -> None:
    root = build_scan(source, tmp_path / "c.zarr", phase="real", on_crime="crop")
    receipt = receipt_of(root)
    assert {"cropped"} <= receipt["audit"].keys() and "zero_filled" not in receipt["audit"]
    cropped = receipt["audit"]["cropped"]
    assert (cropped["stored"], cropped["acquired"]) == (list(STORED), list(ACQUIRED)) and cropped["outside"] < 1e-8
    expected = measured_kspace()
    kspace = zarr.open_group(root, mode="r")["volumes/a/kspace"][:] * receipt["scale"]
    assert np.abs(kspace - expected).max() < 2e-6 * np.abs(expected).max()
    assert receipt["encoding_size"] == [*ACQUIRED, 1]
    assert receipt["spacing_mm"][1:] == [stored / acquired for stored, acquired in zip(STORED, ACQUIRED, strict=True)]
    assert not verify_corpus(str(root)).problems


def test_the_default_is_a_flag_that_reaches_index_loader_report_and_plan(source: Path, tmp_path: Path) -> None:
    root = build_scan(source, tmp_path / "c.zarr", phase="real")
    receipt = receipt_of(root)
    assert receipt["audit"]["zero_filled"] == {"stored": list(STORED), "acquired": list(ACQUIRED)}
    assert receipt["encoding_size"] == [*STORED, 1]
    assert len(KSpaceSlices(root, audit="zero_filled")) == 3
    with pytest.raises(RequestError, match="zero_filled"):
        KSpaceSlices(root, without_audit="zero_filled")
    assert gather_facts(CorpusStore.open(str(root))).flags["zero_filled"].count == 1
    plan = make_plan(read_manifest(source), str(tmp_path / "new.zarr"), BuildOptions(phase="zero"))
    assert plan.audit["zero_filled"] == 1 and any("zero_filled 1" in line for line in plan.lines())


def test_a_volume_that_is_refused_says_why(source: Path, tmp_path: Path) -> None:
    outcome = build_outcome(source, tmp_path / "c.zarr", phase="real", on_crime="refuse")
    assert outcome.status == "failed" and outcome.reason == "processed"
    assert outcome.message is not None and "zero_filled" in outcome.message and "\n" not in outcome.message


def test_the_voxel_at_the_centre_of_the_image_stays_in_place(source: Path) -> None:
    volume = read_volume(next(iter(read_manifest(source))))
    cropped, _ = crop_volume(volume, *ACQUIRED)
    places = [
        np.array(one.affine) @ (1, *(size // 2 for size in one.magnitude.shape[1:]), 1) for one in (volume, cropped)
    ]
    np.testing.assert_allclose(places[0], places[1], atol=1e-9)


@pytest.mark.parametrize("sizes", [((7, 8), (5, 4)), ((8, 9), (8, 9)), ((9, 8), (4, 5))])
def test_the_zero_frequency_stays_in_the_centre(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    before, after = sizes
    kspace = np.zeros((1, *before), np.complex64)
    kspace[0, before[0] // 2, before[1] // 2] = 1
    cut = central(kspace, *after)
    assert cut.shape == (1, *after) and cut[0, after[0] // 2, after[1] // 2] == 1


def test_a_wrong_rule_is_one_line(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RequestError, match="expected one of warn, crop, refuse"):
        BuildOptions(on_crime="ignore")
    assert main(["build", str(source), str(tmp_path / "c.zarr"), "--on-crime", "ignore"]) == 2
